"""`python -m unlabeled` is the command line, also under `torchrun`."""

import io
import os
import sys

SPIN_COUNT = "1000"
"""Turns a thread waits busily for the others before it sleeps."""


def main() -> None:
    """The program `unlabeled`."""
    if "OMP_WAIT_POLICY" not in os.environ:
        # Read when torch is first imported. The default, 300,000, lets threads burn what the one they wait for needs to run,
        # wherever other programs want the same cores: measured, five times the time and the processor time (LOG.md).
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a letter shows its code; it must not end the work.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        # In here, because a Ctrl-C may come while the command line itself is still being imported.
        from unlabeled.cli import main as verbs

        verbs()
    except KeyboardInterrupt:
        sys.stderr.write("Stopped.\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
