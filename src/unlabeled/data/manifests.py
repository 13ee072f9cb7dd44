"""Lists of paths (text) and tables with a column of paths (CSV, TSV, Parquet).

Relative paths count from the folder of the list; if the first is not there but is below the working folder, all count
from that.
The order of the list is kept, because arrays and outputs without names are matched by row.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from unlabeled.data.folders import unique_names
from unlabeled.data.source import FileSource, display_name, require_images
from unlabeled.errors import DataError, MissingExtraError

PATH_COLUMNS: Final = ("path", "file", "filename", "image", "filepath", "file_path", "file_name", "image_path")
"""Names a column of paths may have, in the order of preference; upper and lower case are the same."""

Table = dict[str, list[str]]


class TableSource(FileSource):
    """Files named by a list or by one column of a table."""

    def __init__(self, path: Path, kind: str, paths: Sequence[str], table: Table) -> None:
        kept, skipped = _without_repeats(paths)
        base = _base(path, [paths[row] for row in kept])
        files = [os.path.normpath(paths[row]) for row in kept]
        super().__init__(path, kind, files, unique_names(_short_names(files)), base)
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
    """A text file with one path a line; empty lines and lines that begin with # do not count. Raises DataError."""
    lines = (line.strip() for line in _text(path).splitlines())
    source = TableSource(path, "list", [line for line in lines if line and not line.startswith("#")], {})
    require_images(source)
    return source


def open_table(path: Path) -> TableSource:
    """A CSV, TSV or Parquet file with a column of paths. Raises DataError."""
    table = read_table(path)
    source = TableSource(path, "table", table[path_column(path, table)], table)
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
        f"{', '.join(PATH_COLUMNS[:4])}: the first line must name the columns and one of them must hold the paths."
    )


def read_table(path: Path) -> Table:
    """Columns of text by name, from CSV (comma, semicolon or tab), TSV or Parquet. Raises DataError."""
    return _parquet(path) if path.suffix.lower() == ".parquet" else _delimited(path)


def _delimited(path: Path) -> Table:
    text = _text(path)
    header = text.split("\n", 1)[0]
    delimiter = (
        "\t" if path.suffix.lower() == ".tsv" or "\t" in header else ";" if ";" in header and "," not in header else ","
    )
    try:
        rows = [row for row in csv.reader(text.splitlines(keepends=True), delimiter=delimiter) if row]
    except csv.Error as error:
        raise DataError(f"{path} cannot be read as a table: {error}.") from error
    if not rows:
        raise DataError(f"the table {path} is empty: its first line must name the columns.")
    names = [name.strip() for name in rows[0]]
    if len(set(names)) < len(names):
        raise DataError(f"{path} names a column twice: {', '.join(names)}.")
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(names):
            raise DataError(
                f"{path}, row {number}: {len(row)} values for {len(names)} columns; "
                f"put quotes around values that contain '{delimiter}'."
            )
    return {name: [row[k] for row in rows[1:]] for k, name in enumerate(names)}


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
            "" if value is None else value if isinstance(value, str) else str(value)
            for value in table[name].to_pylist()
        ]
        for name in columns
    }


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    if b"\0" in content[:4096]:
        raise DataError(
            f"{path} is not text: a list of images holds one path a line, or is a CSV table with a column 'path'."
        )
    # File names may hold bytes that are no text; they come back unchanged when the file is opened.
    return content.decode("utf-8-sig", "surrogateescape")


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


def _base(listing: Path, paths: Sequence[str]) -> str:
    own = str(listing.absolute().parent)
    first = next((path for path in paths if not _is_absolute(path)), None)
    if first is None or os.path.lexists(f"{own}/{first}") or not os.path.lexists(first):
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
