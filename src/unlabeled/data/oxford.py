"""Truth of instance retrieval in the layout of Oxford Buildings: four text files a query.

`NAME_query.txt` holds the query's image and box, `NAME_good.txt` and `NAME_ok.txt` what is to be found,
`NAME_junk.txt` what is neither right nor wrong; one image name a line, without folder and ending. Oxford5k, Paris6k and
the copies of their layout are read alike (spec D07, D08). Shapes: M images of the gallery, Q queries.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from unlabeled.errors import DataError

QUERY_PREFIX: Final = "oxc1_"
"""Oxford's query files write it before the name of the image; the image file does not bear it (spec D07)."""

_CORRUPTED: Final = {
    "louvre": (136, 146),
    "moulinrouge": (422,),
    "museedorsay": (1059,),
    "notredame": (188,),
    "pantheon": (284, 960, 974),
    "pompidou": (195, 196, 201, 467, 640),
    "sacrecoeur": (299, 330, 353),
    "triomphe": (662, 833, 863, 867),
}

CORRUPTED_PARIS: Final = frozenset(
    f"paris_{place}_{number:06d}" for place, numbers in _CORRUPTED.items() for number in numbers
)
"""The 20 files of Paris6k that hold no image, as its authors list them; no list of the truth names one (spec D08)."""

_KINDS: Final = ("good", "ok", "junk")


@dataclass(frozen=True)
class Query:
    """One question: find the images that show what is in the box."""

    name: str
    """For example `all_souls_1`."""
    image: str
    """Name of the image it is cut from, without folder and ending."""
    box: tuple[float, float, float, float]
    """Left, top, right, bottom in pixels of the file."""
    good: tuple[str, ...]
    """Images that show it clearly."""
    ok: tuple[str, ...]
    """Images that show more than a quarter of it."""
    junk: tuple[str, ...]
    """Images that show less: they are taken out of the ranking."""

    @property
    def names(self) -> tuple[str, ...]:
        """Every image the query names."""
        return (self.image, *self.good, *self.ok, *self.junk)


@dataclass(frozen=True)
class Gallery:
    """The images that are searched, and what each query should find among them, as positions 0 … M - 1.

    An image that a list names and that is not there has a position from M on: it counts as never found.
    """

    rows: NDArray[np.int64]
    """Position of each image in the source, [M]."""
    queries: list[Query]
    """Those whose image is there and which name something to find."""
    images: NDArray[np.int64]
    """The image each query is cut from, [Q]."""
    positive: list[NDArray[np.int64]]
    """What each query should find: good and ok."""
    junk: list[NDArray[np.int64]]
    """What is taken out of each ranking."""
    notes: list[str]
    """Sentences on what is missing."""


def read_ground_truth(folder: str | Path) -> list[Query]:
    """The queries of a folder of lists, by name.

    Raises:
        DataError: no folder, no `*_query.txt` in it, a list missing, or a query file that is not a name and four numbers.
    """
    path = Path(folder)
    if not path.is_dir():
        kind = "a file: unpack it first" if path.exists() else "not there"
        raise DataError(f"the ground truth must be a folder of *_query.txt, *_good.txt, … and {path} is {kind}.")
    files = sorted(path.glob("*_query.txt"))
    if not files:
        inner = sorted({file.parent.name for file in path.glob("*/*_query.txt")})
        hint = (
            f"the folders {', '.join(inner)} in it have some: name one." if inner else "name the folder of the lists."
        )
        raise DataError(f"{path} holds no *_query.txt; {hint}")
    return [_read_query(file) for file in files]


def _read_query(file: Path) -> Query:
    name = file.name.removesuffix("_query.txt")
    words = _text(file).split()
    try:
        image, *numbers = words
        left, top, right, bottom = (float(number) for number in numbers)
    except ValueError:
        raise DataError(
            f"{file} must hold the name of an image and the left, top, right and bottom of a box, got "
            f"'{' '.join(words)[:80]}'."
        ) from None
    if not all(math.isfinite(value) for value in (left, top, right, bottom)) or left >= right or top >= bottom:
        raise DataError(f"{file}: the box {left:g} {top:g} {right:g} {bottom:g} is empty; left < right, top < bottom.")
    lists = [tuple(dict.fromkeys(_text(file.with_name(f"{name}_{kind}.txt")).split())) for kind in _KINDS]
    return Query(name, image.removeprefix(QUERY_PREFIX), (left, top, right, bottom), *lists)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        raise DataError(f"{file} is missing: every query needs its good, ok and junk list, empty ones too.") from None
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror or error}).") from None


def image_name(path: str) -> str:
    """Name of an image as the lists write it: without folder and ending."""
    last = path.rpartition("/")[2]
    stem, dot, _ = last.rpartition(".")
    return stem if dot and stem else last


def find_images(queries: Sequence[Query], paths: Sequence[str]) -> Gallery:
    """Which of the images `paths` are searched, and what each query should find among them.

    The corrupted files of Paris6k are left out by name. A query whose image is missing, or that names nothing to find,
    is left out with a note.

    Raises:
        DataError: two images have one name, or no query is left.
    """
    names = [image_name(path) for path in paths]
    rows = np.array([i for i, name in enumerate(names) if name not in CORRUPTED_PARIS], np.int64)
    position: dict[str, int] = {}
    for place, row in enumerate(rows.tolist()):
        other = position.setdefault(names[row], place)
        if other != place:
            raise DataError(
                f"the images {paths[int(rows[other])]} and {paths[row]} have one name, so the lists could mean either; "
                "give the folder of one data set."
            )
    notes = [f"{len(paths) - len(rows)} corrupted images of Paris6k are left out."] if len(rows) < len(paths) else []
    usable = _usable(queries, position, notes)
    absent = sorted({name for query in usable for name in (*query.good, *query.ok)} - position.keys())
    if absent:
        notes.append(
            f"{len(absent)} images to be found are not among the {len(rows):,} given (the first: {absent[0]}); they count as "
            "not found."
        )
    ids = position | {name: len(rows) + i for i, name in enumerate(absent)}
    return Gallery(
        rows,
        usable,
        np.array([position[query.image] for query in usable], np.int64),
        [np.array([ids[name] for name in (*query.good, *query.ok)], np.int64) for query in usable],
        [np.array([position[name] for name in query.junk if name in position], np.int64) for query in usable],
        notes,
    )


def _usable(queries: Sequence[Query], position: dict[str, int], notes: list[str]) -> list[Query]:
    missing = [query for query in queries if query.image not in position]
    empty = [query for query in queries if query.image in position and not query.good and not query.ok]
    usable = [query for query in queries if query.image in position and (query.good or query.ok)]
    if not usable:
        reason = "there are none"
        if missing:
            reason = f"the image {missing[0].image} of the query {missing[0].name} is not among the images"
        elif empty:
            reason = f"the lists {empty[0].name}_good.txt and {empty[0].name}_ok.txt name nothing to find"
        raise DataError(
            f"none of {len(queries)} queries can be asked: {reason} (one of them: {next(iter(position), 'none')}); give the "
            "images and the lists of one data set."
        )
    if missing:
        first = missing[0]
        notes.append(
            f"{len(missing)} queries are left out: their image is missing (the first: {first.image} of {first.name})."
        )
    if empty:
        notes.append(
            f"{len(empty)} queries are left out: their lists name nothing to find (the first: {empty[0].name})."
        )
    return usable
