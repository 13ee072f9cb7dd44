"""What a run shows inside a notebook, and the notebook that shows it."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from explored import EVIL, Explored, make_explored
from pictures import Trained
from unlabeled.errors import ConfigError, DataError
from unlabeled.explorer.notebook import Shown, ShownRow, ShownTile

EXAMPLE = Path(__file__).parent.parent / "examples" / "explore.ipynb"


@pytest.fixture(scope="module")
def explored(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Explored:
    return make_explored(trained, tmp_path_factory.mktemp("explored"), with_accidents=False)


class Seen(HTMLParser):
    """Tags in order, images with their attributes, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.images: list[dict[str, str]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "img":
            self.images.append({name: value or "" for name, value in attrs})

    def handle_data(self, data: str) -> None:
        self.text += data


def pixels(address: str) -> np.ndarray:
    head, _, content = address.partition(",")
    assert re.fullmatch("data:image/(png|jpeg);base64", head)
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        return np.asarray(image)


def test_clusters(explored: Explored):
    shown = explored.run.show_clusters(count=3, images=4)
    sizes = [image["size"] for image in explored.answers.clusters("size", 0, 3)["clusters"]]
    assert [row.heading for row in shown.rows] == [
        f"Cluster {c['number']}: {c['size']:,} images, spread {c['tightness']:.2f}"
        for c in explored.answers.clusters("size", 0, 3)["clusters"]
    ]
    assert [len(row.tiles) for row in shown.rows] == [min(4, size) for size in sizes]
    assert repr(shown) == "<3 of 6 clusters of run: 12 images in 3 rows, shown in a notebook>"
    seen = Seen(shown._repr_html_())
    assert seen.tags == {"div", "img"}
    for image in seen.images:
        with Image.open(explored.photos / image["alt"]) as file:
            assert np.array_equal(pixels(image["src"]), np.asarray(file))


def test_neighbours_of_numbers_and_of_files(explored: Explored):
    run, index = explored.run, explored.index("kind1/005.png")
    file = explored.photos / "kind1" / "005.png"
    of_number, of_file = run.show_neighbors(index, k=5), run.show_neighbors(str(file), k=6)
    wanted = run.search(file, 6)[str(file)]
    assert [tile.name for tile in of_file.rows[0].tiles[1:]] == [hit.path for hit in wanted]
    assert [tile.name for tile in of_number.rows[0].tiles] == [hit.path for hit in wanted]
    assert [tile.note for tile in of_file.rows[0].tiles] == ["query", *(f"{hit.similarity:.3f}" for hit in wanted)]
    assert [tile.is_query for tile in of_file.rows[0].tiles] == [True, *[False] * 6]
    both = run.show_neighbors([np.int64(3), file], k=2)
    assert [len(row.tiles) for row in both.rows] == [3, 3]
    assert len(run.show_neighbors(np.array([1, 2, 3]), k=1).rows) == 3


def test_names_stay_text(explored: Explored):
    shown = explored.run.show_neighbors(explored.index(EVIL), k=1)
    seen = Seen(shown._repr_html_())
    assert seen.tags == {"div", "img"}
    assert EVIL in seen.text
    assert seen.images[0]["alt"] == EVIL
    assert {name for image in seen.images for name in image} == {"src", "alt", "title", "width", "height", "style"}
    quotes = Shown(
        "t", [ShownRow('"<b>', [ShownTile("\" onerror='x'", "</div><script>", shown.rows[0].tiles[0].picture)])]
    )
    assert Seen(quotes._repr_html_()).tags == {"div", "img"}


def test_what_cannot_be_shown(explored: Explored):
    run = explored.run
    with pytest.raises(ConfigError, match="count must be at least 1, got 0"):
        run.show_clusters(count=0)
    with pytest.raises(ConfigError, match="k must be at least 1, got -2"):
        run.show_neighbors(0, k=-2)
    for index in (120, -1):
        with pytest.raises(DataError, match="0 to 119"):
            run.show_neighbors(index)
    with pytest.raises(DataError, match="nothing-here"):
        run.show_neighbors("nothing-here.png")


def test_the_example_is_executed_and_holds_what_it_shows():
    text = EXAMPLE.read_text(encoding="utf-8")
    notebook = json.loads(text)
    assert notebook["nbformat"] == 4
    assert len(text) < 700_000
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    pages = ["".join(o["data"]["text/html"]) for c in code for o in c["outputs"] if "text/html" in o.get("data", {})]
    assert len(pages) >= 2
    for page in pages:
        images = Seen(page).images
        assert images
        assert all(pixels(image["src"]).ndim == 3 for image in images)
    assert "/home" not in text
    assert "/tmp" not in text
    assert not [o for c in code for o in c["outputs"] if o["output_type"] == "error"]
