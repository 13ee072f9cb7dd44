"""Errors that a person reads.

Every error raised on purpose is an `UnlabeledError`: one sentence with both values, the relation wanted and what to do
next. The command line prints it in a box and exits with status 2; Python callers can catch the class they care for.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable
from os import PathLike


class UnlabeledError(Exception):
    """Base of every error this package raises on purpose; `str(error)` is one readable sentence."""


class DataError(UnlabeledError):
    """The images, labels or paths given cannot be used as they are."""


class UnreadableError(DataError):
    """Some images could not be read and the caller asked for `strict`; everything else was done. Exit status 3."""


class ConfigError(UnlabeledError):
    """A setting is unknown, out of range, or at odds with another one."""


class RunError(UnlabeledError):
    """A run folder is missing, damaged, in the way, or cannot be written."""


class DivergedError(RunError):
    """Training gave numbers that are none: the loss, the weights or the features are not finite."""


class MissingExtraError(UnlabeledError):
    """An optional dependency is not installed."""

    def __init__(self, purpose: str, extra: str) -> None:
        super().__init__(f"{purpose} needs an optional dependency: install it with `pip install 'unlabeled[{extra}]'`.")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: Python's, a GPU's, or that of torch's allocator on a CPU."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
        or "unable to mmap" in str(error)
    )


def is_lost_process(error: BaseException) -> bool:
    """Whether an error says that another process of the same run went away: torch.distributed's own classes, or gloo's words."""
    return type(error).__name__ in ("DistBackendError", "DistNetworkError", "DistStoreError") or any(
        words in str(error) for words in ("Connection closed by peer", "Connection reset by peer", "Broken pipe")
    )


class Interrupted(Exception):
    """A person or the system asked a run to stop, and it did so where nothing is lost; the message says how to go on."""


def typed(path: str | PathLike[str]) -> str:
    """A path as it must be typed in a command that an error names: in quotes where it holds spaces and the like.

    >>> typed("my photos")
    "'my photos'"
    """
    return shlex.quote(str(path))


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Sentence for a name nobody knows: the name, the nearest known one if any is near, and all known ones.

    >>> unknown_name("backbone", "resnet19", ["alexnet", "resnet18"])
    "unknown backbone 'resnet19', did you mean 'resnet18'? Known: alexnet, resnet18."
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f", did you mean '{near[0]}'?" if near else "."
    return f"unknown {kind} '{name}'{hint} Known: {', '.join(known)}."
