"""Pickles read with a list of names: whatever is not in the list ends the reading before anything is made of it.

A pickle is a program for Python's unpickler, and what makes it dangerous is that it may call any function by name. Files of
published weights (`weights/legacy.py`) and of CIFAR (`cifar_python.py`) need a handful of names, and those are given here
as stand-ins of the reader's own.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Final, cast

import numpy as np

from unlabeled.data.source import display_name
from unlabeled.errors import DataError


class ListedUnpickler(pickle.Unpickler):
    """Looks names up in a list and knows no others."""

    def __init__(self, file: IO[bytes], known: Mapping[str, Any], encoding: str) -> None:
        """known: what stands for each full name, `module.name` as the file writes it. encoding: of Python 2's strings."""
        super().__init__(file, encoding=encoding)
        self.known = dict(known)

    def find_class(self, module_name: str, global_name: str) -> Any:
        """Raises UnpicklingError, `GLOBAL module.name`, for every name but the listed ones."""
        name = f"{module_name}.{global_name}"
        if name not in self.known:
            raise pickle.UnpicklingError(f"GLOBAL {name}")
        return self.known[name]


HEAD: Final = b"\x80\x02}"
"""How such a file begins: protocol 2, a dictionary."""

PIXELS: Final = 3 * 32 * 32

# fmt: off
_INSTRUCTIONS: Final = frozenset({
    "PROTO", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "SHORT_BINSTRING",
    "BINSTRING", "BINUNICODE", "EMPTY_DICT", "SETITEM", "SETITEMS", "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_TUPLE",
    "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET", "GLOBAL", "REDUCE", "BUILD",
})
# fmt: on

_MOST_INSTRUCTIONS: Final = 2_000_000
"""Ten times those of CIFAR-100's training images."""

_MOST_TUPLES: Final = 100
"""A file has six. Tuples inside tuples, thousands deep, exhaust the stack where they are used as a key."""

_DAMAGE: Final = (ValueError, TypeError, LookupError, AttributeError, EOFError, ArithmeticError, MemoryError)


class _Type:
    """What the file says of an array's type."""

    def __init__(self, name: object) -> None:
        self.name = name

    def __setstate__(self, state: object) -> None:
        """Byte order and the like, which single bytes do not have."""


class _Array:
    """What the file says of an array: (version, shape, type, whether in Fortran's order, bytes)."""

    state: object = None

    def __setstate__(self, state: object) -> None:
        """Kept as it is; `_array` looks at it."""
        self.state = state


def read_batch(content: bytes, where: str | Path) -> tuple[np.ndarray, list[int]]:
    """Images uint8 [N, 32, 32, 3] and labels (CIFAR-100: the fine ones) of one file.

    Raises:
        DataError: another pickle, a damaged one, or one that asks for more than these files do; `where` is the file's name.
    """
    found = _load(content, where)
    data = _array(found.get("data"), where)
    labels = found.get("fine_labels", found.get("labels"))
    if not isinstance(labels, list) or not all(type(label) is int for label in cast("list[object]", labels)):
        raise DataError(
            f"{where} has no list of numbers under 'labels' or 'fine_labels': it has {_listed(found)}; "
            "give a file of CIFAR's images, such as data_batch_1, test_batch, train or test."
        )
    numbers = cast("list[int]", labels)
    if len(numbers) != len(data):
        raise DataError(
            f"{where} has {len(numbers):,} labels and {len(data):,} images; they must be equally many: fetch it again."
        )
    return data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), numbers


def read_class_names(content: bytes, where: str | Path) -> list[str]:
    """Names of the classes, CIFAR-100's the hundred fine ones, of the file `batches.meta` or `meta`. Raises DataError."""
    found = _load(content, where)
    names = found.get("fine_label_names", found.get("label_names"))
    if not isinstance(names, list):
        raise DataError(f"{where} has no list of class names: it has {_listed(found)}; fetch it again.")
    return [_text(name) for name in cast("list[object]", names)]


def _load(content: bytes, where: str | Path) -> dict[str, Any]:
    """The dictionary of the file, by text."""
    _require_plain(content, where)

    # Made for this file alone: whatever it does to them concerns no other.
    def begun(*_: object) -> _Array:
        return _Array()

    def typed(name: object, *_: object) -> _Type:
        return _Type(name)

    known: dict[str, Any] = {"numpy.ndarray": "numpy.ndarray", "numpy.dtype": typed}
    known |= dict.fromkeys(("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"), begun)
    try:
        found = ListedUnpickler(io.BytesIO(content), known, encoding="bytes").load()
    except pickle.UnpicklingError as error:
        name = str(error)
        if not name.startswith("GLOBAL "):
            raise _damaged(where, name) from None
        raise _refused(where, f"names {display_name(name.removeprefix('GLOBAL '))[:80]}") from None
    except _DAMAGE as error:
        raise _damaged(where, f"{error}") from None
    if not isinstance(found, dict):
        raise _damaged(where, f"it holds a {type(found).__name__} and no dictionary")
    return {_text(key): value for key, value in cast("dict[object, Any]", found).items()}


def _require_plain(content: bytes, where: str | Path) -> None:
    """Look at every instruction before any is followed: a few bytes could claim memory for a billion objects."""
    tuples = 0
    try:
        for count, (instruction, value, _) in enumerate(pickletools.genops(content)):
            if instruction.name not in _INSTRUCTIONS:
                raise _refused(where, f"has the instruction {instruction.name}")
            tuples += "TUPLE" in instruction.name
            if count > _MOST_INSTRUCTIONS or tuples > _MOST_TUPLES:
                raise _refused(where, f"has more than {_MOST_INSTRUCTIONS:,} instructions or {_MOST_TUPLES} tuples")
            if instruction.name == "LONG_BINPUT" and cast(int, value) > _MOST_INSTRUCTIONS:
                raise _refused(where, f"has the object number {value:,}")
    except (ValueError, ArithmeticError, MemoryError) as error:
        raise _damaged(where, f"{error}") from None


def _array(described: object, where: str | Path) -> np.ndarray:
    """uint8 [N, 3072] of a description, which is believed in nothing."""
    state = described.state if isinstance(described, _Array) else None
    match state:
        case (_, (int(rows), int(columns)), _Type(name=kind), bool() | int() as is_fortran, bytes(raw)):
            if _text(kind) in ("u1", "|u1") and columns == PIXELS and rows > 0 and rows * columns == len(raw):
                return np.frombuffer(raw, np.uint8).reshape((rows, columns), order="F" if is_fortran else "C")
            held = f"{len(raw):,} bytes of the type {_text(kind)[:20]} for the shape {rows}×{columns}"
        case _:
            held = "no array" if state is None else "an array of another form"
    raise DataError(
        f"{where} holds {held} under 'data', and CIFAR's is N×{PIXELS:,} single bytes (u1): "
        "give one of its files of images, or fetch it again."
    )


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _listed(found: dict[str, Any]) -> str:
    return display_name(", ".join(found))[:200] or "nothing"


def _refused(where: str | Path, what: str) -> DataError:
    return DataError(
        f"{where} {what}, which CIFAR's files do not; it is not read, because a pickle can run anything: fetch the archive "
        "from its publisher again, or take the binary version (cifar-10-binary.tar.gz, cifar-100-binary.tar.gz)."
    )


def _damaged(where: str | Path, why: str) -> DataError:
    return DataError(
        f"{where} cannot be read as one of CIFAR's pickles ({' '.join(display_name(why).split())[:120]}); fetch it again."
    )
