"""Parquet tables that hold the pictures themselves, as the Hugging Face hub has them: a column of struct{bytes, path}.

One file or all shards of a folder. Row groups are read when their pictures are needed, and the last few stay in memory.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any, Final

from unlabeled.data.pixels import Undecodable
from unlabeled.data.source import Source, display_name, file_fingerprint, unique_names
from unlabeled.errors import DataError, MissingExtraError

_GROUPS_KEPT: Final = 4
"""Row groups whose pictures stay in memory."""


class EmbeddedSource(Source):
    """The pictures of one or several Parquet files, in the order of their rows."""

    def __init__(self, path: Path, files: list[Path], column: str) -> None:
        import pyarrow.parquet as parquet

        self._files = [parquet.ParquetFile(file) for file in files]
        self._prints = [file_fingerprint(file) for file in files]
        self._column = column
        self._rows: list[tuple[int, int, int]] = []
        names: list[str] = []
        self._table: dict[str, list[str]] = {}
        for number, file in enumerate(self._files):
            for group in range(file.num_row_groups):
                paths = file.read_row_group(group, columns=[f"{column}.path"])[column].to_pylist()
                self._rows += [(number, group, row) for row in range(len(paths))]
                begin = len(names)
                names += [(value or {}).get("path") or f"{begin + row:07d}" for row, value in enumerate(paths)]
            self._add_columns(file)
        super().__init__(path, "table", unique_names([display_name(name) for name in names]))
        self._kept: OrderedDict[tuple[int, int], list[Any]] = OrderedDict()
        self._lock = threading.Lock()

    def _add_columns(self, file: Any) -> None:
        import pyarrow

        flat = [field.name for field in file.schema_arrow if not pyarrow.types.is_nested(field.type)]
        class_names = _class_names(file.schema_arrow.metadata)
        table = file.read(columns=flat)
        for name in flat:
            known = class_names.get(name)
            values = [_text(value, known) for value in table[name].to_pylist()]
            self._table.setdefault(name, []).extend(values)

    def read(self, index: int) -> bytes:
        """The encoded picture. Raises Undecodable where the row has none."""
        number, group, row = self._rows[index]
        content = self._group(number, group)[row]
        if not content:
            raise Undecodable("the row holds no picture")
        return content

    def _group(self, number: int, group: int) -> list[Any]:
        key = number, group
        with self._lock:
            if key not in self._kept:
                table = self._files[number].read_row_group(group, columns=[f"{self._column}.bytes"])
                self._kept[key] = [(value or {}).get("bytes") for value in table[self._column].to_pylist()]
                while len(self._kept) > _GROUPS_KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            return self._kept[key]

    def fingerprint(self, index: int) -> tuple[int | str, ...]:
        """That of the file, and the row."""
        number, group, row = self._rows[index]
        return (*self._prints[number], f"{group} {row}")

    def column(self, name: str) -> list[str] | None:
        """Values of a column; names of classes where the file has them."""
        return self._table.get(name)


def open_embedded(path: Path) -> EmbeddedSource | None:
    """The pictures in a Parquet file, or in all Parquet files of a folder; None where there are none in it.

    Raises:
        DataError: a damaged file, or shards with other columns than the first.
        MissingExtraError: pyarrow is not installed.
    """
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not files:
        return None
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise MissingExtraError(f"reading the Parquet table {files[0]}", "table") from None
    try:
        columns = [_picture_column(parquet.read_schema(file)) for file in files]
        if columns[0] is None:
            return None
        for file, column in zip(files, columns, strict=True):
            if column != columns[0]:
                raise DataError(
                    f"{file} has its pictures in the column {column} and {files[0]} in {columns[0]}: "
                    "give the files of one data set."
                )
        return EmbeddedSource(path, files, columns[0])
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a Parquet table: {error}.") from error


def _picture_column(schema: Any) -> str | None:
    import pyarrow

    for field in schema:
        if pyarrow.types.is_struct(field.type) and "bytes" in {inner.name for inner in field.type}:
            return str(field.name)
    return None


def _class_names(metadata: dict[bytes, bytes] | None) -> dict[str, list[str]]:
    """Names of the classes of each label column, from the hub's own metadata."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return {key: list(value["names"]) for key, value in features.items() if "names" in value}
    except (KeyError, ValueError, TypeError):
        return {}


def _text(value: Any, class_names: list[str] | None) -> str:
    if value is None or value != value:
        return ""
    if class_names and isinstance(value, int) and 0 <= value < len(class_names):
        return class_names[value]
    return value if isinstance(value, str) else str(value)
