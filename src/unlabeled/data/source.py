"""What a source of images is, and the source made of files.

A source knows names at once and reads on demand: `read` may be called from any number of threads. Opening one again by
its path is cheap, so sources are never pickled; every process opens its own.
"""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from unlabeled.data.notes import Notes
from unlabeled.data.pixels import Undecodable
from unlabeled.data.reading import ReadOptions
from unlabeled.errors import DataError
from unlabeled.progress import counted

BYTES_LIMIT: Final = 1 << 30
"""One file or archive member larger than this (1 GiB unpacked) is refused: it would not fit in memory beside others."""

# fmt: off
IMAGE_ENDINGS: Final = frozenset({
    "jpg", "jpeg", "jpe", "jfif", "mpo", "png", "apng", "webp", "tif", "tiff", "btf", "bmp", "dib", "gif", "ppm", "pgm",
    "pbm", "pnm", "pfm", "tga", "jp2", "j2k", "jpx", "avif", "psd", "qoi", "sgi", "pcx", "npy",
})
"""Endings that make a file of a folder or archive an image; the content decides how it is decoded."""

_RAW: Final = ("cr2", "cr3", "nef", "arw", "dng", "orf", "rw2", "raf")
# fmt: on

UNREADABLE_ENDINGS: Final = {
    "heic": "HEIC photographs cannot be read: convert them to JPEG or PNG",
    "heif": "HEIF photographs cannot be read: convert them to JPEG or PNG",
    "jxl": "JPEG XL cannot be read: convert to JPEG or PNG",
    "dcm": "DICOM files cannot be read: convert them to 16-bit TIFF or PNG",
    **dict.fromkeys(_RAW, "camera raw files cannot be read: convert them to TIFF, JPEG or PNG"),
}
"""Endings of images that no decoder here reads: reported one by one, not silently passed over."""

_NOT_DATA: Final = frozenset({"__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin"})


class Source:
    """Images in a fixed order. Subclasses define `read`, `fingerprint` and, where files exist, `location`."""

    def __init__(self, path: Path, kind: str, names: list[str]) -> None:
        self.path = path
        """What was opened."""
        self.kind = kind
        """`folder`, `list`, `table`, `array`, `zip archive`, `tar archive` or `file`."""
        self.names = names
        """Display names, unique, printable on one line: relative posix paths, or row numbers of arrays."""
        self.skipped: list[tuple[str, str]] = []
        """(name, reason) of what was refused before reading."""
        self.ignored: Counter[str] = Counter()
        """How many files of each ending (without dot, lower case) are no images."""
        self.options = ReadOptions()
        """What is made of frames and alpha."""
        self.notes = Notes()
        """What happened to rows, lines and names before anything was read."""

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> bytes | np.ndarray:
        """The encoded file, or the array H×W×C. Raises Undecodable with the reason."""
        raise NotImplementedError

    def location(self, index: int) -> Path | None:
        """The file of image `index`, if it has one of its own."""
        return None

    def fingerprint(self, index: int) -> tuple[int | str, ...]:
        """Changes whenever the image may have changed; costs no more than a stat."""
        raise NotImplementedError

    def listed_row(self, index: int) -> int:
        """The row of the list, table or array that image `index` was; its position where nothing was left out."""
        return index

    @property
    def rows_listed(self) -> int:
        """Rows of the list, table or array, skipped ones included."""
        return len(self.names)

    def column(self, name: str) -> list[str] | None:
        """One value per image from the column `name` of a table; None for sources that are no tables."""
        return None

    def describe(self) -> str:
        """One line: how many images, of what kind, and what was passed over."""
        text = f"{counted(len(self), 'image')} in the {self.kind} {self.path}"
        parts = [f"{len(self.skipped):,} skipped"] if self.skipped else []
        if self.ignored:
            parts.append(f"{counted(self.ignored.total(), 'other file')} passed over: {endings_found(self.ignored)}")
        return f"{text} ({'; '.join(parts)})" if parts else text


class FileSource(Source):
    """Images that are files of their own."""

    def __init__(self, path: Path, kind: str, files: list[str], names: list[str], base: str) -> None:
        """files: paths relative to `base` (or absolute), one for each name; they may hold bytes that are no text."""
        super().__init__(path, kind, names)
        self._files = files
        self._base = base

    def _file(self, index: int) -> str:
        return os.path.join(self._base, self._files[index])  # noqa: PTH118 - called for every image; Path is ten times slower

    def location(self, index: int) -> Path | None:
        """The file itself."""
        return Path(self._file(index))

    def read(self, index: int) -> bytes:
        """The bytes of the file. Raises Undecodable if it cannot be read, is no regular file or exceeds BYTES_LIMIT."""
        return read_file(self._file(index))

    def fingerprint(self, index: int) -> tuple[int | str, ...]:
        """Size, time of change of content and of the file's entry (ns); -1 where the file is gone."""
        return file_fingerprint(self._file(index))


class Subset(Source):
    """Some images of a source, in the order of `indices`."""

    def __init__(self, source: Source, indices: Sequence[int] | np.ndarray) -> None:
        self.source = source
        self.indices = [int(i) for i in indices]
        super().__init__(source.path, source.kind, [source.names[i] for i in self.indices])
        self.options = source.options

    def read(self, index: int) -> bytes | np.ndarray:
        """See Source.read."""
        return self.source.read(self.indices[index])

    def location(self, index: int) -> Path | None:
        """See Source.location."""
        return self.source.location(self.indices[index])

    def fingerprint(self, index: int) -> tuple[int | str, ...]:
        """See Source.fingerprint."""
        return self.source.fingerprint(self.indices[index])

    def listed_row(self, index: int) -> int:
        """See Source.listed_row."""
        return self.source.listed_row(self.indices[index])

    @property
    def rows_listed(self) -> int:
        """See Source.rows_listed."""
        return self.source.rows_listed

    def column(self, name: str) -> list[str] | None:
        """See Source.column."""
        values = self.source.column(name)
        return None if values is None else [values[i] for i in self.indices]


def read_file(path: str) -> bytes:
    """Bytes of a regular file; Undecodable for anything else, without ever waiting for a pipe or a device."""
    try:
        # Without O_NONBLOCK opening a pipe would wait for its other end, for ever.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except (OSError, ValueError) as error:
        raise Undecodable(cannot_open(error)) from error
    facts = os.fstat(descriptor)
    if not stat.S_ISREG(facts.st_mode):
        # Python refuses to make a file object of a folder's descriptor, and would leave it open.
        os.close(descriptor)
        raise Undecodable(f"it is {kind_of_entry(facts.st_mode)}, not a file")
    with open(descriptor, "rb", buffering=0) as file:
        if facts.st_size > BYTES_LIMIT:
            raise Undecodable(f"it has {facts.st_size:,} bytes, more than the {BYTES_LIMIT:,} allowed")
        try:
            return file.readall() or b""
        except OSError as error:
            raise Undecodable(cannot_open(error)) from error


def cannot_open(error: OSError | ValueError) -> str:
    """A clause for a file that cannot be opened or read."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, PermissionError):
        return "permission to read it is denied"
    if isinstance(error, IsADirectoryError):
        return "it is a folder, not a file"
    return f"it cannot be read: {getattr(error, 'strerror', None) or error}"


def kind_of_entry(mode: int) -> str:
    """What a directory entry that is no regular file is."""
    for test, kind in (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    ):
        if test(mode):
            return kind
    return "a special entry"


def file_fingerprint(path: str | Path) -> tuple[int | str, ...]:
    """(bytes, mtime_ns, ctime_ns) of a file, (-1, -1, -1) if there is none."""
    try:
        facts = os.stat(path)  # noqa: PTH116 - called for every image
    except (OSError, ValueError):
        return (-1, -1, -1)
    return (facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)


def display_name(path: str) -> str:
    """A path as one printable line: control characters, line ends and bytes that are no text become \\x escapes."""
    if path.isprintable():
        return path
    clean = os.fsencode(path).decode("utf-8", "backslashreplace") if not path.isascii() else path
    return "".join(_escaped(c) if _is_unsafe(c) else c for c in clean)


def _is_unsafe(character: str) -> bool:
    # Besides control characters and line ends: marks that reverse text, with which names can pose as others.
    return (
        unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"}
        or character in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    )


def _escaped(character: str) -> str:
    return f"\\x{ord(character):02x}" if ord(character) < 256 else f"\\u{ord(character):04x}"


def unique_names(names: list[str]) -> list[str]:
    """The same names, with a number behind those that escaping made equal."""
    if len(set(names)) == len(names):
        return names
    taken, result = set(names), list[str]()
    seen: set[str] = set()
    for name in names:
        candidate, number = name, 2
        while candidate in seen or (candidate != name and candidate in taken):
            candidate, number = f"{name} ({number})", number + 1
        seen.add(candidate)
        result.append(candidate)
    return result


def ending(name: str) -> str:
    """The ending in lower case without its dot; "" if there is none."""
    stem, dot, last = name.rpartition(".")
    return last.lower() if dot and stem and not stem.endswith("/") and "/" not in last else ""


_ODD_ENDING: Final = re.compile(r"\.(jpe?g|png|webp|gif|tiff?|bmp|avif)(?![a-z0-9]).", re.IGNORECASE)

MARK: Final = ".unlabeled"
"""A file in every folder that this program writes: a run, clusters sorted into folders, pictures."""
_RUN_FILES: Final = frozenset({"config.json", "data.json", "environment.json"})


def ends_oddly(name: str) -> bool:
    """Whether something follows the ending of an image, as in `3.jpg?width=640`, `3.jpg.1` or `3.jpg_large`."""
    return _ODD_ENDING.search(name) is not None


def written_by_us(entries: Collection[str]) -> str:
    """What a folder with these entries is, if this program wrote it: "a run" or "a marked folder"; else empty."""
    if set(entries) >= _RUN_FILES:
        return "a run"
    return "a marked folder" if MARK in entries else ""


def own_features(entries: Collection[str]) -> set[str]:
    """Files of features that `embed` wrote: `X.npy` beside `X.names.txt`."""
    return {name for name in entries if name.endswith(".npy") and f"{name[:-4]}.names.txt" in entries}


def is_hidden(name: str) -> bool:
    """Whether one component of a path is hidden or what systems leave behind (`__MACOSX`, `Thumbs.db`, …)."""
    return name.startswith(".") or name.lower() in _NOT_DATA


def endings_found(counts: Counter[str]) -> str:
    """For example `12 .txt, 3 .json, 1 without ending`."""
    shown = [f"{n:,} .{end}" if end else f"{n:,} without ending" for end, n in counts.most_common(6)]
    rest = counts.total() - sum(n for _, n in counts.most_common(6))
    return ", ".join([*shown, f"{rest:,} others"] if rest else shown)


def require_images(source: Source) -> Source:
    """The source itself, or DataError that says what was looked for and what was found instead."""
    if len(source):
        return source
    found: list[str] = []
    if source.ignored:
        found.append(f"{counted(source.ignored.total(), 'other file')} ({endings_found(source.ignored)})")
    if source.skipped:
        name, reason = source.skipped[0]
        found.append(f"{len(source.skipped):,} that cannot be used (the first, {name}: {reason})")
    what = f"found {' and '.join(found)}" if found else "it is empty"
    hint = ""
    if any(end in source.ignored for end in ("zip", "tar", "gz", "tgz")):
        hint = " Archives inside are not opened: give the path of the archive itself."
    raise DataError(
        f"no images in the {source.kind} {source.path}: looked for files ending in .jpg, .png, .webp, .tif, .bmp, "
        f".gif and the like, {what}.{hint}"
    )
