"""Labels of a source's images, which training never needs: only evaluation and analysis read them.

Shapes: ids [N] int64, −1 for an image without a label.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import numpy as np

from unlabeled.data.arrays import load_npz
from unlabeled.data.decode import DECODER_ERRORS
from unlabeled.data.files import Table, path_column, read_table
from unlabeled.data.notes import Notes
from unlabeled.data.source import Source
from unlabeled.data.sources import split_key
from unlabeled.errors import DataError
from unlabeled.progress import counted

LABEL_COLUMNS: Final = ("label", "class", "target", "category", "class_name", "y")
"""Names a column of labels may have, in the order of preference; upper and lower case are the same."""

SPLIT_NAMES: Final = frozenset(
    {"train", "training", "val", "valid", "validation", "dev", "test", "testing", "eval", "holdout"}
)
"""Folders of these names hold parts of a data set, not classes."""


@dataclass(frozen=True)
class Labels:
    """One class for each image."""

    ids: np.ndarray
    """[N] int64, position in `class_names`; −1 = none."""
    class_names: list[str]
    notes: Notes = field(default_factory=Notes)
    """What was left out or merged: rows that name no image, classes that look alike."""

    def sentences(self) -> list[str]:
        """What to say once: the classes, how many images have a label, and the notes."""
        labelled, total = int((self.ids >= 0).sum()), len(self.ids)
        shown = ", ".join(self.class_names[:8]) + (" …" if len(self.class_names) > 8 else "")
        have = (
            "all images have a label"
            if labelled == total
            else f"{labelled:,} of {counted(total, 'image')} have a label"
        )
        return [f"Labels: {counted(len(self.class_names), 'class')} ({shown}); {have}.", *self.notes.sentences()]

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        labelled = int((self.ids >= 0).sum())
        return {
            "classes": len(self.class_names),
            "class_names": self.class_names[:1000],
            "labelled": labelled,
            "images": len(self.ids),
            "notes": self.notes.to_json(),
        }

    def __getitem__(self, indices: Sequence[int] | np.ndarray) -> Labels:
        """Labels of some images; the classes stay."""
        return Labels(self.ids[np.asarray(indices)], self.class_names, self.notes)

    def aligned_to(self, class_names: Sequence[str], data: str | Path) -> Labels:
        """The same labels with the ids of another list of classes, as a test set needs those of its training set.

        `data` names these images in errors. Raises DataError if a class in use is not in that list.
        """
        position = {name: k for k, name in enumerate(class_names)}
        used = [self.class_names[k] for k in np.unique(self.ids[self.ids >= 0])]
        if unknown := [name for name in used if name not in position]:
            others = f" and {len(unknown) - 1:,} more" if len(unknown) > 1 else ""
            raise DataError(
                f"{data} has the class '{unknown[0]}'{others}, which the training images do not have (theirs: "
                f"{', '.join(class_names[:10])}{' …' if len(class_names) > 10 else ''}); give both sets the same classes."
            )
        table = np.array([*(position.get(name, -1) for name in self.class_names), -1], np.int64)
        return Labels(table[self.ids], list(class_names), self.notes)


def read_labels(source: Source, spec: str) -> Labels:
    """Labels of every image of `source`.

    spec: `folder` (the first level of folders that differs: class folders; the labels inside CIFAR's files and
    beside MNIST's IDX files); a CSV, TSV or Parquet file with a column of
    paths and one of labels (`file.csv:column` names it); a column of the table the images came from; or a `.npy` or
    `.npz` array with one label for each row of the source.
    Raises DataError.
    """
    # First what the source itself knows: files that hold their labels answer to `folder` too.
    column = source.column(spec) if spec != "folder" or source.kind == "array" else None
    if column is not None:
        return _labels(column)
    if spec == "folder":
        return _from_folders(source)
    path, key = split_key(spec)
    if not path.is_file():
        raise DataError(
            f"labels '{spec}' are neither 'folder' nor a file that exists"
            + (f" nor a column of {source.path}." if source.kind == "table" else ": give 'folder' or a CSV file.")
        )
    if path.suffix.lower() in {".npy", ".npz"}:
        return _from_array(source, path, key)
    return _from_table(source, path, key)


def _labels(values: Sequence[str], *, are_folders: bool = False, notes: Notes | None = None) -> Labels:
    """Labels of texts; an empty one is no label. Numbers are one class however they are written (1, 01, 1.0).

    are_folders: names of folders are classes whatever they say; in tables and arrays a negative number is no label.
    """
    notes = Notes() if notes is None else notes
    texts = [unicodedata.normalize("NFC", value.strip()) for value in values]
    changed = {text for text, value in zip(texts, values, strict=True) if text != value.strip()}
    known = {text for text in texts if text}
    for text in sorted(changed):
        forms = {value.strip() for value in values if unicodedata.normalize("NFC", value.strip()) == text}
        if len(forms) > 1:
            notes.add("one class is written in two Unicode forms, which are taken as one", text, unit="class")
    numbers = {text: None if are_folders else _number(text) for text in known}
    if known and all(number is not None for number in numbers.values()):
        # Numbers sort as numbers, and negative ones mean "no label", as they do everywhere in this package.
        texts = [_plain_number(text) for text in texts]
        used = {int(text) for text in texts if text and int(text) >= 0}
        names = [str(number) for number in sorted(used)]
        if lost := sum(1 for text in texts if text and int(text) < 0):
            notes.add("a negative number is no label", unit="image", count=lost)
    else:
        names = sorted(known)
    if not names:
        raise DataError("no image has a label: every value is empty.")
    by_case: dict[str, list[str]] = {}
    for name in names:
        by_case.setdefault(name.casefold(), []).append(name)
    for alike in by_case.values():
        if len(alike) > 1:
            notes.add(
                "class names differ in upper and lower case only", " / ".join(alike), unit="class", count=len(alike)
            )
    position = {name: k for k, name in enumerate(names)}
    return Labels(np.array([position.get(text, -1) for text in texts], np.int64), names, notes)


def _number(text: str) -> int | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return int(value) if value == value and abs(value) < 2**53 and value == int(value) else None


def _plain_number(text: str) -> str:
    number = _number(text)
    return text if number is None else str(number)


def _from_folders(source: Source) -> Labels:
    folders = [PurePosixPath(name).parts[:-1] for name in source.names]
    deepest = max(map(len, folders), default=0)
    notes = Notes()
    for level in range(deepest):
        found = {parts[level] for parts in folders if len(parts) > level}
        if len(found) < 2:
            continue
        if {name.casefold() for name in found} <= SPLIT_NAMES:
            inner = {parts[level + 1] for parts in folders if len(parts) > level + 1}
            if len(inner) < 2:
                first, second = sorted(found)[:2]
                raise DataError(
                    f"the folders {', '.join(sorted(found))} of {source.path} are parts of a data set, not classes, "
                    f"and hold no class folders: give one part, for example "
                    f"{source.path / first}, and the other as --test {source.path / second}."
                )
            notes.add(
                f"the folders {', '.join(sorted(found))} are parts of the set, so the folders in them are the classes "
                "(score one part against another with DATA/train --test DATA/val)",
                unit="folder", count=len(found),
            )  # fmt: skip
            continue
        return _labels([parts[level] if len(parts) > level else "" for parts in folders], are_folders=True, notes=notes)
    where = f"all in one folder, {'/'.join(folders[0])}" if deepest else "in no folders"
    raise DataError(
        f"labels 'folder' need one folder for each class, but the {len(source):,} images of {source.path} are {where}: "
        "put each class into its own folder, or give a CSV file with the columns path and label."
    )


def _from_array(source: Source, path: Path, key: str) -> Labels:
    try:
        if path.suffix.lower() == ".npz":
            rows = source.rows_listed
            array = load_npz(path, key, lambda shape: shape in {(rows,), (rows, 1)})
        else:
            array = np.load(path, allow_pickle=False)
    except DECODER_ERRORS as error:
        raise DataError(f"{path} cannot be read as a NumPy array: {error}.") from error
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.shape != (source.rows_listed,):
        raise DataError(
            f"{path} has the shape {array.shape}, but {source.path} has {source.rows_listed:,} rows: "
            "one label for each is needed."
        )
    values = array[[source.listed_row(i) for i in range(len(source))]]
    if values.dtype.kind == "f" and (values == np.rint(values)).all():
        values = values.astype(np.int64)
    if values.dtype.kind not in "iubU":
        raise DataError(f"{path} holds values of the type {array.dtype}; labels are integers or text.")
    return _labels([str(value) for value in values.tolist()])


def _from_table(source: Source, path: Path, key: str) -> Labels:
    table = read_table(path)
    paths = table[path_column(path, table)]
    column = _label_column(path, table, key)
    label_of = dict(zip(paths, table[column], strict=True))
    rows = rows_of_images(source, path, paths)
    matched, notes = set(rows), Notes()
    for path_of_row in label_of:
        if path_of_row not in matched and path_of_row:
            notes.add("a row of the table names no image that is among these", path_of_row, unit="row")
    return _labels(["" if row is None else label_of[row] for row in rows], notes=notes)


def rows_of_images(source: Source, path: Path, paths: Sequence[str]) -> list[str | None]:
    """For each image of `source` the one of `paths`, the path column of the table `path`, that means it; None for none.

    Raises:
        DataError: none means an image.
    """
    best: list[str | None] = []
    for keys_of_rows, key_of_image in _matchings(source, path):
        rows = keys_of_rows(paths)
        if rows is None:
            continue
        found = [rows.get(key_of_image(i)) for i in range(len(source))]
        if sum(f is not None for f in found) > sum(b is not None for b in best):
            best = found
        if best and None not in best:
            break
    if not best:
        raise DataError(
            f"no image of {source.path} is in {path}: the images have names like '{source.names[0]}', "
            f"the table like '{paths[0] if paths else ''}'; write the paths relative to one of the two."
        )
    return best


_Rows = Callable[[Sequence[str]], "dict[str, str] | None"]


def _matchings(source: Source, path: Path) -> list[tuple[_Rows, Callable[[int], str]]]:
    """Ways to find an image in a table, the surest first: its name, the file itself, the last part of it if unique."""
    folder = str(path.absolute().parent)

    def by_name(paths: Sequence[str]) -> dict[str, str]:
        return {_comparable(p): p for p in paths}

    def by_file(paths: Sequence[str]) -> dict[str, str]:
        return {_comparable(p if p.startswith(("/", "file:")) else f"{folder}/{p}"): p for p in paths}

    def by_last_part(paths: Sequence[str]) -> dict[str, str] | None:
        last = {PurePosixPath(_comparable(p)).name: p for p in paths}
        names = {PurePosixPath(_comparable(n)).name for n in source.names}
        unique = len(last) == len(paths) and len(names) == len(source)
        return last if unique else None

    def file_of(index: int) -> str:
        location = source.location(index)
        return _comparable(str(location.absolute())) if location else ""

    return [
        (by_name, lambda index: _comparable(source.names[index])),
        (by_file, file_of),
        (by_last_part, lambda index: PurePosixPath(_comparable(source.names[index])).name),
    ]


def _comparable(path: str) -> str:
    """A path with slashes, in NFC, without `file://`, its ending in lower case: equal for all spellings of one file."""
    if path.startswith("file:"):
        path = unquote(urlsplit(path).path)
    path = os.path.normpath(path.replace("\\", "/")) if path else ""
    stem, dot, end = unicodedata.normalize("NFC", path).rpartition(".")
    return f"{stem}.{end.lower()}" if dot and "/" not in end else f"{stem}{dot}{end}"


def _label_column(path: Path, table: Table, key: str) -> str:
    if key:
        if key in table:
            return key
        raise DataError(f"{path} has no column '{key}': it has {', '.join(table)}.")
    by_lower = {name.lower().strip(): name for name in reversed(list(table))}
    for wanted in LABEL_COLUMNS:
        if wanted in by_lower:
            return by_lower[wanted]
    others = [name for name in table if name != path_column(path, table)]
    if len(others) == 1:
        return others[0]
    raise DataError(
        f"{path} has the columns {', '.join(table)}, but none named {', '.join(LABEL_COLUMNS[:4])}: "
        f"name the column of labels, for example {path.name}:{others[0] if others else 'label'}."
    )
