"""What a user knows of the images besides pixels (plate, date, camera, place): columns of a table, as statistics.

They are explained as brightness is, and offered as colours of the map. Shapes: N images of a source.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from unlabeled.data.files import path_column, read_table
from unlabeled.data.image_statistics import SECONDS_OF_A_DAY, Statistic
from unlabeled.data.labels import rows_of_images
from unlabeled.data.notes import Notes
from unlabeled.data.source import Source
from unlabeled.errors import DataError

MOST_CATEGORIES: Final = 1000
"""Different words of a column from which it names images rather than kinds of them."""
FEW_NUMBERS: Final = 12
"""Different numbers up to which a column is one of categories: plates 1 to 6 have no order."""
EMPTY: Final = frozenset({"", "na", "n/a", "nan", "none", "null"})


def read_metadata(source: Source, path: Path) -> tuple[list[Statistic], Notes]:
    """Every column of a CSV, TSV or Parquet table but that of the paths, for each image of `source`.

    A column of numbers is a number (of few different ones, whole, a category), one of ISO dates a date in days since 1970,
    anything else a category. An empty field is NaN, or -1 for a category. Columns with one value, and those with more than
    `MOST_CATEGORIES` words, say nothing of kinds of images: they are left out and named in the notes.

    Raises:
        DataError: no such file, no column of paths, no row that names an image, or no column that says anything.
    """
    if not path.is_file():
        raise DataError(
            f"the table of metadata {path} does not exist: give a CSV, TSV or Parquet file with a path column."
        )
    table, notes = read_table(path), Notes()
    key = path_column(path, table)
    rows = rows_of_images(source, path, table[key])
    position = {name: row for row, name in enumerate(table[key])}
    if missing := sum(row is None for row in rows):
        notes.add("the table of metadata has no row for the image", unit="image", count=missing)
    found: list[Statistic] = []
    for name in table:
        if name == key:
            continue
        values = ["" if row is None else table[name][position[row]].strip() for row in rows]
        one = statistic_of(name.strip(), ["" if value.lower() in EMPTY else value for value in values])
        if one is None:
            notes.add(
                f"a column of metadata tells no kinds of images apart (one value, or over {MOST_CATEGORIES:,} words): left out",
                name,
                unit="column",
            )
        else:
            found.append(one)
    if not found:
        raise DataError(
            f"{path} has the columns {', '.join(table)} and none tells images apart: a column needs at least 2 values, and "
            f"of words at most {MOST_CATEGORIES:,}."
        )
    return found, notes


def statistic_of(name: str, values: Sequence[str]) -> Statistic | None:
    """One column as a number, a date or a category; None where it tells no kinds of images apart."""
    known = sorted({value for value in values if value})
    if len(known) < 2:
        return None
    for kind in (_numbers, _dates):
        numbers = kind(values)
        if numbers is None:
            continue
        different = np.unique(numbers[np.isfinite(numbers)])
        if kind is _numbers and len(different) <= FEW_NUMBERS and bool((different == np.round(different)).all()):
            break
        low, high = ("smaller", "larger") if kind is _numbers else ("older", "newer")
        return Statistic(name, "number", numbers, low, high, is_date=kind is _dates)
    if len(known) > MOST_CATEGORIES:
        return None
    position = {value: k for k, value in enumerate(known)}
    return Statistic(
        name, "category", np.array([position.get(v, -1) for v in values], np.float64), "", "", tuple(known)
    )


def of_rows(statistics: Sequence[Statistic], rows: NDArray[np.int64]) -> list[Statistic]:
    """The same statistics of the images `rows` of the source; a row of -1 is an image it does not hold any more."""
    found: list[Statistic] = []
    for one in statistics:
        none = -1.0 if one.categories else np.nan
        found.append(replace(one, values=np.where(rows >= 0, one.values[np.maximum(rows, 0)], none)))
    return found


def _numbers(values: Sequence[str]) -> NDArray[np.float64] | None:
    try:
        found = np.array([float(value) if value else np.nan for value in values])
    except ValueError:
        return None
    return None if np.isinf(found).any() else found


def _dates(values: Sequence[str]) -> NDArray[np.float64] | None:
    try:
        return np.array([_days(value) if value else np.nan for value in values])
    except ValueError:
        return None


def _days(text: str) -> float:
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() / SECONDS_OF_A_DAY
