"""What every verb of the command line shares: the program, its two outputs, and how it opens a run."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from cyclopts import App, CycloptsError, Parameter
from cyclopts.exceptions import (
    CoercionError,
    MissingArgumentError,
    RepeatArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from rich import box
from rich.console import Console
from rich.table import Table

from unlabeled.config import Device
from unlabeled.version import __version__

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


def print_baselines(title: str, scores: Mapping[str, float], baseline: str = "untrained network") -> None:
    """A table of the shares `raw_pixels`, `untrained` (the `baseline`) and `trained`, in per cent."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column(title)
    table.add_column("%", justify="right")
    for key, name in (("raw_pixels", "raw pixels"), ("untrained", baseline), ("trained", "trained network")):
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


NEEDS_FLAG = "out"
"""Required arguments that are flags; the others stand without a name."""

NEARLY = 0.75
"""Likeness of two names, as `difflib` has it, from which one is taken for the other."""


def sentence(error: CycloptsError) -> str:
    """One or two sentences for a command line that cannot be understood."""
    verb = " ".join(error.command_chain or ())
    help_line = f"See `{' '.join(['unlabeled', *verb.split(), '--help'])}`."
    if isinstance(error.__cause__, ValidationError):
        return f"{_setting(error.__cause__.errors()[0])} {help_line}"
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        return f"{_missing(error, verb)} {help_line}"
    if isinstance(error, UnusedCliTokensError):
        unused = ", ".join(f"'{token}'" for token in error.unused_tokens or ())
        return (
            f"{verb} cannot use {unused}: it has all the arguments it takes, and flags take no more values. {help_line}"
        )
    if isinstance(error, RepeatArgumentError):
        return f"{error.token.keyword} is given more than once; give it once. {help_line}"
    if isinstance(error, UnknownCommandError):
        # The library cuts its list of verbs short.
        return f"{str(error).split(' Available commands:')[0]} See `unlabeled --help` for all verbs."
    if isinstance(error, UnknownOptionError):
        return f"{_unknown_option(error)} {help_line}"
    if isinstance(error, CoercionError) and error.target_type in (int, float) and error.token is not None:
        wanted = "a whole number" if error.target_type is int else "a number"
        return f"{error.token.keyword} must be {wanted}, got '{error.token.value}'. {help_line}"
    return f"{error} {help_line}"


def _unknown_option(error: UnknownOptionError) -> str:
    """The option, and the known one that it nearly is: a slip of the hand, not a word of another meaning (`--init` is no
    `--data-init`)."""
    given = (error.token.keyword or error.token.value).partition("=")[0]
    known = [name for argument in error.argument_collection if argument.parse for name in argument.names]
    near = difflib.get_close_matches(given, known, n=1, cutoff=NEARLY)
    return f"Unknown option: {given}." + (f" Did you mean {near[0]}?" if near else "")


def _missing(error: MissingArgumentError, verb: str) -> str:
    assert error.argument is not None
    name = error.argument.name.removeprefix("--")
    if error.tokens_so_far:
        return str(error)
    if name == NEEDS_FLAG:
        return f"{verb} needs --out with a value: where to write, for example --out {'features.npy' if verb == 'embed' else 'run'}."
    if error.argument.required:
        return f"{verb} needs {name.upper()}."
    return f"--{name} needs a value."


def _setting(problem: ErrorDetails) -> str:
    name = "--" + str(problem["loc"][0]).replace("_", "-")
    wanted = {
        "int_parsing": "must be a whole number",
        "int_from_float": "must be a whole number",
        "float_parsing": "must be a number",
        "bool_parsing": "is a switch: it takes no value",
    }.get(problem["type"], problem["msg"].removeprefix("Input should be ").removeprefix("Value error, "))
    if not wanted.startswith(("must", "is")):
        wanted = f"must be {wanted}"
    return f"{name} {wanted}, got '{problem['input']}'."
