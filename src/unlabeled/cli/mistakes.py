"""Mistakes on the command line, in words: what was given, what is wanted, and where help is."""

from __future__ import annotations

import difflib

from cyclopts import CycloptsError
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
