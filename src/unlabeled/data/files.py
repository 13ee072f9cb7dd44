"""Folders of images: a million names in seconds, because no file is opened or asked for its size."""

from __future__ import annotations

import csv
import io
import os
import re
import stat
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from unlabeled.data.kinds import DICOM, IMAGE_KINDS, kind_of
from unlabeled.data.matching import FileFinder
from unlabeled.data.notes import Notes
from unlabeled.data.source import (
    IMAGE_ENDINGS,
    UNREADABLE_ENDINGS,
    FileSource,
    cannot_open,
    display_name,
    ending,
    ends_oddly,
    is_hidden,
    kind_of_entry,
    own_features,
    require_images,
    unique_names,
    written_by_us,
)
from unlabeled.errors import DataError, MissingExtraError


def open_folder(path: Path) -> FileSource:
    """Every image below a folder, sorted by name. Links are followed, each folder is entered once. Raises DataError."""
    walk = _Walk(str(path))
    walk.run()
    pairs = [(display_name(file), file) for file in walk.files]
    pairs.sort()
    names = unique_names([name for name, _ in pairs])
    source = FileSource(path, "folder", [file for _, file in pairs], names, str(path))
    source.skipped = sorted((display_name(file), reason) for file, reason in walk.skipped)
    source.ignored, source.notes = walk.ignored, walk.notes
    require_images(source)
    return source


class _Walk:
    """One walk below `root`: paths relative to it, with `/`."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.files: list[str] = []
        self.skipped: list[tuple[str, str]] = []
        self.ignored: Counter[str] = Counter()
        self.notes = Notes()
        self._features: set[str] = set()
        self._entered: set[tuple[int, int]] = set()
        self._links: list[str] = []

    def run(self) -> None:
        """Walk real folders first, then linked ones, so that what is reachable both ways keeps its real name."""
        try:
            os.scandir(self.root).close()
        except OSError as error:
            raise DataError(f"the folder {self.root} cannot be listed: {cannot_open(error)}.") from error
        pending = [""]
        while pending or self._links:
            if not pending:
                self._links.sort(reverse=True)
                pending.append(self._links.pop())
            folder = pending.pop()
            pending.extend(sorted(self._list(folder), reverse=True))

    def _list(self, folder: str) -> list[str]:
        path = f"{self.root}/{folder}" if folder else self.root
        prefix = f"{folder}/" if folder else ""
        inner: list[str] = []
        try:
            facts = os.stat(path)  # noqa: PTH116 - paths stay text here, for speed and for bytes that are no text
            if (facts.st_dev, facts.st_ino) in self._entered:
                self.skipped.append((folder, "it links to a folder that is already read"))
                return inner
            self._entered.add((facts.st_dev, facts.st_ino))
            with os.scandir(path) as entries:
                entries = list(entries)
                if folder and (written := written_by_us({entry.name for entry in entries})):
                    self.notes.add(f"{written} was passed over: it was written by this program", folder, unit="folder")
                    return inner
                self._features = own_features({entry.name for entry in entries})
                for entry in entries:
                    if is_hidden(entry.name):
                        continue
                    # The kind of entry comes with the listing; only links and strange things cost a call each.
                    if entry.is_file(follow_symlinks=False):
                        self._file(prefix + entry.name, entry.name)
                    elif entry.is_dir(follow_symlinks=False):
                        inner.append(prefix + entry.name)
                    else:
                        self._other(prefix + entry.name, entry)
        except OSError as error:
            self.skipped.append((folder or ".", cannot_open(error)))
        return inner

    def _file(self, relative: str, name: str) -> None:
        end = ending(name)
        if name in self._features:
            self.notes.add("a file of features was passed over: it was written by this program", relative, unit="file")
        elif end in IMAGE_ENDINGS:
            self.files.append(relative)
        elif end in UNREADABLE_ENDINGS:
            self.skipped.append((relative, UNREADABLE_ENDINGS[end]))
        elif not end or ends_oddly(name):
            self._by_content(relative, end)
        else:
            self.ignored[end] += 1

    def _other(self, relative: str, entry: os.DirEntry[str]) -> None:
        try:
            mode = entry.stat().st_mode
        except OSError as error:
            is_loop = not isinstance(error, FileNotFoundError)
            reason = (
                f"it is a link that leads nowhere ({cannot_open(error)})"
                if is_loop
                else "it is a link to a file that does not exist"
            )
            self.skipped.append((relative, reason))
            return
        if stat.S_ISREG(mode):
            self._file(relative, entry.name)
        elif stat.S_ISDIR(mode):
            self._links.append(relative)
        else:
            self.skipped.append((relative, f"it is {kind_of_entry(mode)}, not a file"))

    def _by_content(self, relative: str, end: str) -> None:
        """Files without an image's ending are opened for a glance: some well-known sets, and downloads, consist of them."""
        try:
            with open(f"{self.root}/{relative}", "rb", buffering=0) as file:
                head = file.read(132)
        except OSError as error:
            self.skipped.append((relative, cannot_open(error)))
            return
        if kind_of(head) in IMAGE_KINDS:
            self.files.append(relative)
            if end:
                self.notes.add("the name goes on behind the ending; the content is an image", relative, unit="file")
        elif head[128:132] == b"DICM":
            self.skipped.append((relative, DICOM))
        else:
            self.ignored[end] += 1


PATH_COLUMNS: Final = ("path", "file", "filename", "image", "filepath", "file_path", "file_name", "image_path")
"""Names a column of paths may have, in the order of preference; upper and lower case are the same."""

Table = dict[str, list[str]]

# Columns beside the paths may hold masks or captions of any length.
csv.field_size_limit(min(sys.maxsize, 2**31 - 1))


class TableSource(FileSource):
    """Files named by a list or by one column of a table."""

    def __init__(self, path: Path, kind: str, paths: Sequence[str], table: Table) -> None:
        finder, notes = FileFinder(), Notes()
        base = _base(path, [p for p in paths if p and "\0" not in p], finder)
        paths = [_spelled(finder, base, p, row, notes) for row, p in enumerate(paths)]
        kept, skipped = _without_repeats(paths)
        files = [os.path.normpath(paths[row]) for row in kept]
        super().__init__(path, kind, files, unique_names(_short_names(files)), base)
        self.notes = notes
        self._rows = kept
        self._listed = len(paths)
        self._table = table
        self.skipped = skipped

    def listed_row(self, index: int) -> int:
        """The row of the list, counted from 0, header excluded."""
        return self._rows[index]

    @property
    def rows_listed(self) -> int:
        """Rows of the list, the skipped ones included."""
        return self._listed

    @property
    def columns(self) -> list[str]:
        """Names of the columns; empty for a text file."""
        return list(self._table)

    def column(self, name: str) -> list[str] | None:
        """Values of a column for each image; None if the table has no such column."""
        values = self._table.get(name)
        return None if values is None else [values[row] for row in self._rows]


def open_list(path: Path) -> TableSource:
    """A text file with one path a line, or `path label` as Caffe's and OpenMMLab's lists. Raises DataError.

    Empty lines do not count, nor do lines that begin with # unless they name a file.
    """
    finder, notes, own = FileFinder(), Notes(), str(path.absolute().parent)
    paths: list[str] = []
    labels: list[str] = []
    for line in lines_of(text_of(path)):
        if not line.strip():
            continue
        name, label = _of_line(line, own, finder)
        if not name:
            notes.add("a line that begins with # is a comment", line.strip()[:40], unit="line")
            continue
        paths.append(name)
        labels.append(label)
    table = {"label": labels} if any(labels) else {}
    source = TableSource(path, "list", paths, table)
    source.notes.extend([notes])
    require_images(source)
    return source


def _of_line(line: str, own: str, finder: FileFinder) -> tuple[str, str]:
    """Path and label of one line; no path for a comment."""

    def is_file(name: str) -> bool:
        return finder.exists(os.path.normpath(f"{own}/{name}")) or finder.exists(os.path.abspath(name))  # noqa: PTH100

    plain = line.strip()
    if line != plain and is_file(line):
        return line, ""  # white space at its ends belongs to the name
    if plain.startswith("#") and not is_file(plain):
        return "", ""
    name, _, label = plain.rpartition(" ") if " " in plain else plain.rpartition("\t")
    if name and label.lstrip("-").isdigit() and not is_file(plain) and is_file(name.rstrip()):
        return name.rstrip(), label
    return plain, ""


def open_table(path: Path, key: str = "") -> TableSource:
    """A CSV, TSV or Parquet file with a column of paths, `key` where it is named. Raises DataError."""
    table = read_table(path)
    if key and key not in table:
        raise DataError(f"{path} has no column '{key}': it has {', '.join(table)}.")
    source = TableSource(path, "table", table[key or path_column(path, table)], table)
    require_images(source)
    return source


def path_column(path: Path, table: Table) -> str:
    """The column that holds paths. Raises DataError that lists the columns there are."""
    by_lower = {name.lower().strip(): name for name in reversed(list(table))}
    for wanted in PATH_COLUMNS:
        if wanted in by_lower:
            return by_lower[wanted]
    raise DataError(
        f"{path} has the columns {', '.join(map(repr, table)) or '(none)'}, but none named "
        f"{', '.join(PATH_COLUMNS[:4])}: name the column that holds the paths, for example {path.name}:{next(iter(table), 'path')}."
    )


def read_table(path: Path) -> Table:
    """Columns of text by name, from CSV (comma, semicolon or tab), TSV or Parquet. Raises DataError."""
    return _parquet(path) if path.suffix.lower() == ".parquet" else _delimited(path)


def _delimited(path: Path) -> Table:
    text = text_of(path)
    first, _, rest = text.partition("\n")
    hint = re.fullmatch(r"sep=(.)\s*", first)
    if hint:
        text = rest
    delimiter = hint[1] if hint else _delimiter(path, first)
    try:
        # Only \n and \r end a row: U+2028, form feeds and the like are text.
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
        rows = [row for row in reader if row]
    except csv.Error as error:
        raise DataError(f"{path} cannot be read as a table: {error}.") from error
    if not rows:
        raise DataError(f"the table {path} is empty: its first line must name the columns.")
    names = [name.strip() for name in rows[0]]
    while names and not names[-1]:
        names.pop()  # spreadsheets leave delimiters behind the used columns
    if len(set(names)) < len(names):
        raise DataError(f"{path} names a column twice: {', '.join(names)}.")
    for number, row in enumerate(rows[1:], start=2):
        while len(row) > len(names) and not row[-1].strip():
            row.pop()
        if len(row) != len(names):
            raise DataError(
                f"{path}, row {number}: {len(row)} values for {len(names)} columns; "
                f"put quotes around values that contain '{delimiter}'."
            )
    return {name: [row[k] for row in rows[1:]] for k, name in enumerate(names)}


def _delimiter(path: Path, header: str) -> str:
    if path.suffix.lower() == ".tsv" or "\t" in header:
        return "\t"
    return ";" if ";" in header and "," not in header else ","


def _parquet(path: Path) -> Table:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise MissingExtraError(f"reading the Parquet table {path}", "table") from None
    try:
        # Nested columns (embedded images, lists) are neither paths nor labels.
        columns = [field.name for field in parquet.read_schema(path) if not pyarrow.types.is_nested(field.type)]
        table = parquet.read_table(path, columns=columns)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a Parquet table: {error}.") from error
    return {
        name: [
            "" if value is None or value != value else value if isinstance(value, str) else str(value)
            for value in table[name].to_pylist()
        ]
        for name in columns
    }


def text_of(path: Path) -> str:
    """The text of a list or table: UTF-8, or UTF-16 with a byte order mark; lines end in \\n. Raises DataError."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    if content.startswith(b"version https://git-lfs"):
        raise DataError(f"{path} is a pointer of git-lfs, not the table itself; fetch it with `git lfs pull`.")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = content.decode("utf-16", "replace")
    elif b"\0" in content[:4096]:
        raise DataError(
            f"{path} is not text: a list of images holds one path a line, or is a CSV table with a column 'path'."
        )
    else:
        # File names may hold bytes that are no text; they come back unchanged when the file is opened.
        text = content.decode("utf-8-sig", "surrogateescape")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def lines_of(text: str) -> list[str]:
    """Lines as files have them: unlike `str.splitlines`, form feeds, U+2028 and the like do not end one."""
    return text.split("\n")


def _spelled(finder: FileFinder, base: str, path: str, row: int, notes: Notes) -> str:
    """`path` as the file is really spelled, where it is found under another spelling."""
    if not path or "\0" in path:
        return path
    found, change = finder.find(base, path)
    if change:
        notes.add(f"a path was matched although {change}", display_name(path), unit="row")
    return found


def _without_repeats(paths: Sequence[str]) -> tuple[list[int], list[tuple[str, str]]]:
    seen: set[str] = set()
    kept: list[int] = []
    skipped: list[tuple[str, str]] = []
    for row, path in enumerate(paths):
        normal = os.path.normpath(path) if path else ""
        if not path or "\0" in path:
            skipped.append((f"row {row + 1}", "the path is empty" if not path else "the path contains a zero byte"))
        elif normal in seen:
            skipped.append((f"{display_name(path)} (row {row + 1})", "it is listed before"))
        else:
            seen.add(normal)
            kept.append(row)
    return kept, skipped


def _base(listing: Path, paths: Sequence[str], finder: FileFinder) -> str:
    own = str(listing.absolute().parent)
    first = next((path for path in paths if not _is_absolute(path) and not path.startswith("file:")), None)
    if first is None or finder.find(own, first)[1] or os.path.lexists(f"{own}/{first}") or not os.path.lexists(first):
        return own
    return str(Path.cwd())


def _short_names(files: list[str]) -> list[str]:
    """Relative paths as they are; absolute ones from the folder they have in common."""
    absolute = [file for file in files if _is_absolute(file)]
    common = os.path.commonpath([os.path.split(file)[0] for file in absolute]) if absolute else ""
    names = [os.path.relpath(file, common) if _is_absolute(file) else file for file in files]
    return [display_name(name.replace(os.sep, "/")) for name in names]


def _is_absolute(path: str) -> bool:
    return os.path.isabs(path)  # noqa: PTH117 - asked for every row; Path is ten times slower
