"""What every verb of the command line shares: the program, its two outputs, and how it opens a run."""

from __future__ import annotations

import json as json_format
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from cyclopts import App, Parameter
from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from unlabeled import __version__
from unlabeled.cli.flags import DeviceName

if TYPE_CHECKING:
    from unlabeled.run import Run

# Under torchrun every process runs these verbs, and the first one speaks.
is_first = os.environ.get("RANK", "0") == "0"
output = Console(highlight=False, soft_wrap=True, quiet=not is_first)
errors = Console(stderr=True, highlight=False)

app = App(
    name="unlabeled",
    version=__version__,
    help="Features, clusters and a searchable index from images that nobody has labelled.\n\n"
    "Begin with `unlabeled demo`, or with your own folder: `unlabeled train FOLDER --out RUN`.",
    usage="Usage: unlabeled VERB ...      unlabeled VERB --help",
    default_parameter=Parameter(negative_iterable=()),
)
app["--help"].help = "Show this help, or with a verb the help of the verb."
app["--version"].help = "Show the version."


@contextmanager
def opened_run(path: Path, device: DeviceName) -> Generator[Run]:
    """The run, and with `torchrun` the group of processes that share the work."""
    from unlabeled import api, session
    from unlabeled.distributed import process_group

    kind = session.prepare_device(device)
    with process_group(kind):
        yield api.load(path, device=kind)


def fail(message: str, status: int = 2) -> NoReturn:
    """End the program with one box."""
    errors.print(Panel(Text(message), title="Error", title_align="left", border_style="red", box=box.ROUNDED))
    sys.exit(status)


def write_json(path: Path, value: Any) -> None:
    """Write a result for other programs."""
    from unlabeled.runfolder import RunFolder

    RunFolder(path.parent).write_text(path, json_format.dumps(value, indent=2) + "\n")


def printable(name: str) -> str:
    """A file name for the screen: it may hold line breaks, terminal codes or bytes that are no text."""
    return name.encode(errors="surrogateescape").decode(errors="replace").translate(dict.fromkeys(range(32), "�"))
