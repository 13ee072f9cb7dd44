"""Files that are written whole or not at all, as text, JSON and CSV; and whether one could be written."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Generator, Iterable, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from unlabeled.errors import RunError

_UMASK = os.umask(0)
os.umask(_UMASK)  # it can only be read by setting it


def make_readable(path: Path) -> None:
    """Give a file the rights that new files have: safetensors keeps its own to the user alone, whatever the umask says."""
    path.chmod(0o666 & ~_UMASK)


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """A file beside `path` to write to; it takes that place in one move, and only if nothing went wrong inside.

    Raises:
        RunError: the disk is full or the folder cannot be written; what was at `path` is untouched.
    """
    # Ranks try the same path at the same moment, and must not move each other's file.
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        if partial.exists():
            make_readable(partial)
            os.replace(partial, path)
    except OSError as error:
        raise RunError(
            f"cannot write {path} ({error.strerror or error}); free some space, make the folder writable or choose another place."
        ) from None
    except SafetensorError as error:
        # What safetensors says when the system refuses a write.
        raise RunError(
            f"cannot write {path} ({error}); free some space, make the folder writable or choose another place."
        ) from None
    finally:
        with suppress(OSError):
            partial.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader never sees half of it.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    with replacing(path) as partial:
        # Names may hold bytes that are no UTF-8; they go out as they came in.
        partial.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")


def write_json(path: Path, value: Any) -> None:
    """Write JSON, readable and diffable; likewise."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table with a header line; likewise."""
    write_text(path, csv_text(header, rows))


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Any]], delimiter: str = ",") -> str:
    """A table as CSV text with a header line."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def missing_folders(path: Path) -> tuple[Path, ...]:
    """The folders that are not there yet and that making `path` would make, the deepest first."""
    found: list[Path] = []
    while not path.exists() and path != path.parent:
        found.append(path)
        path = path.parent
    return tuple(found)


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove these folders, the deepest first, up to one that holds something or is not ours to remove."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def require_writable(path: Path) -> Path:
    """`path`, after a try that leaves nothing: hours of work must not end in front of a folder that cannot be written.

    Raises:
        RunError: it is a folder, or its folder cannot be made or written.
    """
    if path.is_dir():
        raise RunError(f"{path} is a folder, and the name of a file is wanted; give for example {path / 'result'}.")
    with ExitStack() as after:
        after.callback(remove_empty, missing_folders(path.parent))
        with replacing(path) as partial:
            partial.touch()
            partial.unlink()
    return path
