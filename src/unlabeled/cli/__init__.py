"""The command line: the verbs of `unlabeled.api` and of a `Run`, with the same names and defaults.

Everything heavy is imported inside a verb, so that `--help` answers at once.
"""

from __future__ import annotations

import os
import shlex
import sys

from cyclopts import CycloptsError

from unlabeled.cli import evaluate as evaluate

# Importing a file of verbs adds them to the program, in the order of its help.
from unlabeled.cli import train as train
from unlabeled.cli import use as use
from unlabeled.cli import visualize as visualize
from unlabeled.cli import weights as weights
from unlabeled.cli.console import app, fail, sentence, stopped
from unlabeled.cli.single import help_of_one
from unlabeled.errors import Interrupted, UnlabeledError, UnreadableError, is_lost_process, is_out_of_memory

__all__ = ["app", "main"]


def expanded(token: str) -> str:
    """`--out=~/run` as `--out=/home/…/run`: shells expand a tilde only where it begins a word."""
    flag, equals, value = token.partition("=")
    if flag.startswith("--") and equals and value.startswith("~"):
        return f"{flag}={os.path.expanduser(value)}"  # noqa: PTH111  (a value that is no path stays as it is)
    return os.path.expanduser(token) if token.startswith("~") else token  # noqa: PTH111


def main(tokens: list[str] | None = None) -> None:
    """Entry point: run a verb, that of the command line or of `tokens`.

    Every mistake ends in one readable box and exit status 2 (3 where `--strict` met images that cannot be read), a stop in 130.
    """
    line = [expanded(token) for token in (sys.argv[1:] if tokens is None else tokens)]
    try:
        if help_of_one(line):
            return
        app(line, exit_on_error=False, print_error=False, help_on_error=False)
    except CycloptsError as error:
        fail(sentence(error))
    except UnreadableError as error:
        fail(str(error), 3)
    except UnlabeledError as error:
        fail(str(error))
    except KeyboardInterrupt as stop:
        # Who keeps what is done says so in a note, and then the same command goes on from there.
        notes = " ".join(dict.fromkeys(getattr(stop, "__notes__", ())))
        stopped(f"Stopped; {notes} `{shlex.join(['unlabeled', *line])}`." if notes else "Stopped.")
    except BrokenPipeError:
        # The reader of our output went away, as `| head` does.
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        # What the system refuses is no mistake of this program: a disk that fills up, a folder that goes away.
        fail(f"{error.filename or 'the system'}: {error.strerror or error}.")
    except Interrupted as stop:
        stopped(str(stop))
    except (RuntimeError, MemoryError) as error:
        if is_lost_process(error):
            fail(
                "another process of this run ended, so this one ends too; what was saved before is kept. What happened stands in "
                "the other's output; start all processes again, a training with `unlabeled resume RUN`."
            )
        if not is_out_of_memory(error):
            raise
        fail(
            "memory ran out; what was saved before is kept. Lower --batch-size or --image-size, take fewer --num-clusters or a "
            "smaller --backbone for a new run, or continue this one where more memory is free."
        )
