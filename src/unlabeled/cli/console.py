"""What every verb of the command line shares: the program, its two outputs, and how it opens a run."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from cyclopts import App, Parameter
from rich import box
from rich.console import Console
from rich.table import Table

from unlabeled import __version__
from unlabeled.config import Device

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
    # `main` says that it stopped.
    suppress_keyboard_interrupt=False,
)
app["--help"].help = "Show this help, or with a verb the help of the verb."
app["--version"].help = "Show the version."


@contextmanager
def opened_run(path: Path, device: Device) -> Generator[Run]:
    """The run, and with `torchrun` the group of processes that share the work."""
    from unlabeled import api, session
    from unlabeled.distributed import process_group

    kind = session.prepare_device(device)
    with process_group(kind):
        yield api.load(path, device=kind)


def fail(message: str, status: int = 2) -> NoReturn:
    """End the program with one box: open at the sides, so that a mouse takes up text and commands as they are."""
    across = "─" * max(errors.width - 10, 0)
    errors.print(f"[red]╭─ Error {across}╮[/red]")
    for line in wrapped(message, errors.width):
        errors.print(printable(line), markup=False, soft_wrap=True)
    errors.print(f"[red]╰{'─' * 8}{across}╯[/red]")
    sys.exit(status)


def print_baselines(title: str, scores: Mapping[str, float]) -> None:
    """A table of the shares `raw_pixels`, `untrained` and `trained`, in per cent."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column(title)
    table.add_column("%", justify="right")
    for key, name in (("raw_pixels", "raw pixels"), ("untrained", "untrained network"), ("trained", "trained network")):
        table.add_row(name, f"{100 * scores[key]:.1f}")
    output.print(table)


def stopped(message: str) -> NoReturn:
    """End a program that was asked to: no box, for a stop is no error."""
    if is_first:
        for line in wrapped(message, errors.width):
            errors.print(printable(line), markup=False, soft_wrap=True)
    sys.exit(130)


COMMAND = re.compile(r"`((?:unlabeled|pip|python|torchrun) [^`]+)`[,;.:]?")
"""A command in a sentence."""


def wrapped(message: str, width: int) -> list[str]:
    """A message as lines of at most `width`; a command has a line of its own and, like a path, is never broken."""
    lines: list[str] = []
    end = 0
    for found in COMMAND.finditer(message):
        if _is_whole(found[1]):
            lines += [*_filled(message[end : found.start()], width), f"    {found[1]}"]
            end = found.end()
    return lines + _filled(message[end:], width)


def _is_whole(command: str) -> bool:
    """Whether this can be typed as it is; `unlabeled train --out` only says which one is meant."""
    words = command.split()
    return words[-1] == "--help" or (len(words) > 2 and not words[-1].startswith("--"))


def _filled(prose: str, width: int) -> list[str]:
    # What stands between backticks is one word, long or not.
    words = re.findall(r"[^\s`]*`[^`]+`\S*|\S+", prose)
    lines: list[str] = []
    for word in words:
        if lines and len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(f"  {word}")
    return lines


def printable(name: str) -> str:
    """A file name for the screen: it may hold line breaks, terminal codes or bytes that are no text."""
    return name.encode(errors="surrogateescape").decode(errors="replace").translate(dict.fromkeys(range(32), "�"))
