"""What a run shows inside a notebook: rows of images, as HTML that holds everything it shows.

Plain Python prints one line instead. Names of files are escaped, and no style, script or address comes with them.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from unlabeled.errors import ConfigError
from unlabeled.explorer.queries import Answers
from unlabeled.explorer.thumbnails import Picture, encode
from unlabeled.report.page import printable

Query = int | str | Path
"""The number of a training image, or an image file (or a folder of them)."""
SIDE = 72
"""Pixels of a picture on the page."""


@dataclass(frozen=True)
class Shown:
    """Rows of images. In a notebook the last value of a cell shows itself; `rows` is the same as values."""

    title: str
    rows: list[ShownRow]

    def __repr__(self) -> str:
        images = sum(len(row.tiles) for row in self.rows)
        return f"<{self.title}: {images:,} images in {len(self.rows):,} rows, shown in a notebook>"

    def _repr_html_(self) -> str:
        return f'<div style="font-family: sans-serif">{"".join(map(_row_html, self.rows))}</div>'


@dataclass(frozen=True)
class ShownRow:
    """A heading and images beside each other."""

    heading: str
    tiles: list[ShownTile]


@dataclass(frozen=True)
class ShownTile:
    """One image: its name, a short note under it, and the encoded picture; `is_query` for the one that was asked about."""

    name: str
    note: str
    picture: Picture = field(repr=False)
    is_query: bool = False


def show_clusters(answers: Answers, count: int, images: int) -> Shown:
    """See `Run.show_clusters`."""
    _require_positive(count=count, images=images)
    run = answers.run
    rows: list[ShownRow] = []
    for number in answers.order.clusters("size")[:count].tolist():
        members = answers.order.members(number)
        size, spread = len(members), float(answers.order.tightness[number])
        heading = f"Cluster {number}: {size:,} image{'s' if size != 1 else ''}, spread {spread:.2f}"
        tiles = [_tile(answers, index, "") for index in members[:images].tolist()]
        rows.append(ShownRow(heading, tiles))
    return Shown(
        f"{len(rows):,} of {int((answers.order.sizes > 0).sum()):,} clusters of {printable(run.path.name)}", rows
    )


def show_neighbors(answers: Answers, queries: Query | Sequence[Query], k: int) -> Shown:
    """See `Run.show_neighbors`."""
    _require_positive(k=k)
    asked = [queries] if isinstance(queries, (str, Path)) or not isinstance(queries, Iterable) else list(queries)
    rows: list[ShownRow] = []
    for query in asked:
        rows += _of_file(answers, query, k) if isinstance(query, (str, Path)) else [_of_index(answers, int(query), k)]
    return Shown(f"nearest neighbours in {printable(answers.run.path.name)}", rows)


def _of_index(answers: Answers, index: int, k: int) -> ShownRow:
    run = answers.run
    answers.require(index)
    found = answers.order.nearest(run.catalogue.features[index], k, without=index)
    return ShownRow(
        f"Image {index:,}: {printable(run.names[index])}",
        [_tile(answers, index, "query", True), *_similar(answers, found)],
    )


def _of_file(answers: Answers, file: str | Path, k: int) -> list[ShownRow]:
    run = answers.run
    store = run.record.open(file, title="reading queries")
    rows: list[ShownRow] = []
    for i, feature in enumerate(run.features_of(store)):
        query = ShownTile(printable(store.names[i]), "query", encode(store.shown(i)), is_query=True)
        rows.append(ShownRow(query.name, [query, *_similar(answers, answers.order.nearest(feature, k))]))
    return rows


def _similar(answers: Answers, found: list[tuple[int, float]]) -> list[ShownTile]:
    return [_tile(answers, index, f"{similarity:.3f}") for index, similarity in found]


def _tile(answers: Answers, index: int, note: str, is_query: bool = False) -> ShownTile:
    return ShownTile(printable(answers.run.names[index]), note, answers.pictures.thumbnail(index), is_query)


def _require_positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}.")


def _row_html(row: ShownRow) -> str:
    tiles = "".join(map(_tile_html, row.tiles))
    heading = f'<div style="margin: 10px 0 4px; font-weight: 600">{html.escape(row.heading)}</div>'
    return f'{heading}<div style="display: flex; flex-wrap: wrap; gap: 4px">{tiles}</div>'


def _tile_html(tile: ShownTile) -> str:
    name = html.escape(tile.name)
    content = base64.b64encode(tile.picture.content).decode("ascii")
    frame = "outline: 2px solid currentColor; outline-offset: -2px; " if tile.is_query else ""
    image = (
        f'<img src="data:{tile.picture.media_type};base64,{content}" alt="{name}" title="{name}" width="{SIDE}" '
        f'height="{SIDE}" style="{frame}object-fit: cover; display: block; margin: 0">'
    )
    note = f'<div style="font-size: 11px; opacity: .75">{html.escape(tile.note)}</div>' if tile.note else ""
    return f"<div>{image}{note}</div>"
