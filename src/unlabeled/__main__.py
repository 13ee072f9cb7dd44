"""`python -m unlabeled` is the command line, also under `torchrun`."""

import sys


def main() -> None:
    """The program `unlabeled`."""
    try:
        # In here, because a Ctrl-C may come while the command line itself is still being imported.
        from unlabeled.cli import main as verbs

        verbs()
    except KeyboardInterrupt:
        sys.stderr.write("Stopped.\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
