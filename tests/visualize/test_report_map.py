"""The part of the report that holds every image: map, neighbours, merging, what explains the clusters; in a browser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from report_pages import HOSTILE, Outline, made, until
from unlabeled.data.image_statistics import COLOURS, HUES, Statistic, image_statistics
from unlabeled.data.sources import open_source
from unlabeled.data.store import open_store
from unlabeled.evaluation.explain import explain
from unlabeled.report.facts import Colouring
from unlabeled.report.page import Cluster, ReportFacts, render
from unlabeled.training.health import Verdict

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

COUNT, CLUSTERS = 300, 8


def facts_of(count: int, clusters: int = CLUSTERS, side: int = 24) -> ReportFacts:
    atlas = made(count, clusters, side)
    hues = Colouring("colour", np.arange(count) % len(COLOURS), COLOURS, scale="hue")
    atlas = replace(atlas, colourings=[*atlas.colourings, hues])
    atlas.repeated[0, 0], atlas.repeated[1, 1] = 2, 1
    members = [np.flatnonzero(atlas.clusters == number) for number in range(clusters)]
    statistics = [
        Statistic(
            "brightness",
            "number",
            np.arange(count) % clusters + np.random.default_rng(0).random(count),
            "darker",
            "brighter",
        ),
        Statistic("folder", "category", np.zeros(count), "", "", ("</script>",)),
    ]
    return ReportFacts(
        title="holiday",
        verdict=Verdict("healthy", "", ""),
        clusters=[
            Cluster(
                number,
                len(rows),
                [atlas.thumbnails[i] for i in rows[:12]],
                [atlas.names[i] for i in rows[:12]],
                0.5,
                rows=rows[:12].tolist(),
                outliers=[atlas.thumbnails[i] for i in rows[-4:]],
                outlier_names=[atlas.names[i] for i in rows[-4:]],
                outlier_rows=rows[-4:].tolist(),
                nearest=[(number + 1) % clusters],
                stability=0.3 if number == 2 else 0.9,
            )
            for number, rows in enumerate(members)
        ],
        atlas=atlas,
        explanation=explain(statistics, atlas.clusters),
    )


@pytest.fixture(scope="module")
def facts() -> ReportFacts:
    return facts_of(COUNT)


@pytest.fixture(scope="module")
def page(facts: ReportFacts) -> str:
    return render(facts)


@pytest.fixture(scope="module")
def file(page: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


@pytest.fixture
def tab(browser: Browser, file: Path) -> Iterator[Page]:
    """The page at desktop width; fails the test if the page complained or asked for anything."""
    with browser.new_context(viewport={"width": 1280, "height": 900}, offline=True) as context:
        tab = context.new_page()
        complaints = listened(tab)
        tab.goto(file.as_uri())
        yield tab
        assert complaints == []


def listened(tab: Page) -> list[str]:
    found: list[str] = []
    tab.on("console", lambda message: found.append(message.text))
    tab.on("pageerror", lambda error: found.append(str(error)))
    tab.on("dialog", lambda dialog: found.append(dialog.message))
    tab.on("request", lambda request: None if request.url.startswith(("file:", "data:")) else found.append(request.url))
    return found


def test_the_page_holds_the_data_and_names_stay_text(page: str, facts: ReportFacts) -> None:
    outline = Outline(page)
    assert page.count("<script") == page.count("</script>") == 4
    text = page.split('<script type="application/json" id="atlas">')[1].split("</script>")[0]
    assert json.loads(text)["names"][:3] == HOSTILE
    hashes = re.search(r"script-src((?: 'sha256-[^']+')+)", page)
    assert hashes is not None
    assert len(hashes.group(1).split()) == 3
    assert "The clusters have to do with brightness" in " ".join(outline.text)
    assert "stability 0.30</p>" in page
    assert "Splits differently when the images are clustered again; like <a" in page
    assert "Like <a" in page
    # What is so of most clusters is said once.
    unstable = render(replace(facts, clusters=[replace(one, stability=0.2) for one in facts.clusters]))
    assert unstable.count("split differently when") == 2 and "Splits differently" not in unstable
    assert f"<p>All of the {CLUSTERS} split differently" in unstable
    ids = [attributes["id"] for _, attributes in outline.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    assert all((link["href"] or "").removeprefix("#") in ids for link in outline.all("a"))
    assert render(facts) == page


def test_names_of_folders_and_of_the_run_stay_text_too(facts: ReportFacts) -> None:
    assert facts.atlas is not None
    colourings = [replace(facts.atlas.colourings[1], categories=["</script>\u202e"] * CLUSTERS)]
    hostile = replace(facts, title="</script><b>", atlas=replace(facts.atlas, colourings=colourings))
    page = render(hostile)
    assert page.count("</script>") == 4
    assert "\u202e" not in page
    assert "\\u202e" not in page


def test_ten_thousand_images_stay_under_ten_megabytes() -> None:
    one = facts_of(10_000, 100)
    assert one.atlas is not None
    # Photographs of 48 pixels need about this much detail.
    noise = np.random.default_rng(0).integers(-12, 13, (10_000, 24, 24, 3), dtype=np.int16)
    pictures = np.clip(np.stack(list(one.atlas.thumbnails)) + noise, 0, 255).astype(np.uint8).repeat(2, 1).repeat(2, 2)
    page = render(replace(one, atlas=replace(one.atlas, thumbnails=list(pictures))))
    assert 1_000_000 < len(page.encode()) < 10_000_000


@pytest.mark.browser
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 390), ("dark", 390)])
def test_it_loads_without_a_word_and_fits(
    browser: Browser, file: Path, facts: ReportFacts, scheme: Any, width: int
) -> None:
    with browser.new_context(color_scheme=scheme, offline=True, viewport={"width": width, "height": 800}) as context:
        tab = context.new_page()
        complaints = listened(tab)
        tab.goto(file.as_uri())
        tab.wait_for_selector("#canvas[data-thumbnails]")
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert tab.locator("#canvas").is_visible()
        # Something is drawn, in more than one colour.
        assert (
            tab.evaluate(
                "new Set(new Uint32Array(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.buffer)).size"
            )
            > 8
        )
        # The pointer over an image shows its name within the frame; the lasso chooses what it surrounds.
        canvas = tab.locator("#canvas")
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        assert box is not None
        assert facts.atlas is not None
        places = facts.atlas.positions
        share = (places - places.min(0)) / (places.max(0) - places.min(0))
        x, y = 24 + share[7] * (np.array([box["width"], box["height"]]) - 48)
        tab.mouse.move(box["x"] + x, box["y"] + y)
        card = tab.locator("#card", has_text=facts.atlas.names[7])
        around = card.bounding_box()
        assert around is not None
        assert around["x"] >= box["x"] - 1
        assert around["x"] + around["width"] <= box["x"] + box["width"] + 1
        tab.get_by_role("button", name="Lasso").click()
        tab.mouse.move(box["x"] + x - 3, box["y"] + y - 3)
        tab.mouse.down()
        for right, down in [(3, -3), (3, 3), (-3, 3)]:
            tab.mouse.move(box["x"] + x + right, box["y"] + y + down)
        tab.mouse.up()
        assert facts.atlas.names[7] in tab.locator("#chosen-names").input_value().split("\n")
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        # The names stand in the list below, so that the pictures need none.
        assert (tab.locator(".chosen-thumbs li").first.bounding_box() or {})["height"] < 120
        tab.get_by_role("button", name="Forget them").click()
        canvas.press("c")
        assert tab.locator("#chosen-title").inner_text() == f"{COUNT} images chosen"
        assert complaints == []


@pytest.mark.browser
def test_a_click_on_an_image_shows_its_neighbours(tab: Page) -> None:
    tab.locator("#gallery [data-image='0']").first.click()
    dialog = tab.locator("#picture")
    assert dialog.get_by_role("heading", level=2).inner_text() == HOSTILE[0]
    assert dialog.locator("li").count() == 12
    assert dialog.locator("li").first.inner_text().split("\n") == [HOSTILE[1], "1.00, same picture"]
    dialog.locator("li button").nth(1).click()
    assert dialog.get_by_role("heading", level=2).inner_text() == HOSTILE[2]
    dialog.get_by_role("button", name="Back").click()
    assert dialog.get_by_role("heading", level=2).inner_text() == HOSTILE[0]
    dialog.get_by_role("button", name="Show on the map").click()
    assert dialog.is_hidden()
    assert tab.evaluate("document.activeElement.id") == "canvas"
    # The image is in the middle now.
    tab.keyboard.press("Enter")
    assert dialog.get_by_role("heading", level=2).inner_text() == HOSTILE[0]


@pytest.mark.browser
def test_the_slider_merges_clusters_as_the_command_does(tab: Page, facts: ReportFacts) -> None:
    assert facts.atlas is not None
    slider = tab.get_by_label("Number of clusters")
    assert slider.input_value() == str(CLUSTERS)
    slider.fill("3")
    tab.wait_for_selector("#merged > li")
    assert tab.locator("#merged > li").count() == 3
    assert tab.locator("#gallery").is_hidden()
    assert (
        tab.locator("#merge-command").inner_text() == "unlabeled cluster holiday --num-clusters 3 --out clusters-3.csv"
    )
    groups = facts.atlas.tree.cut(3)
    sizes = np.bincount(groups, weights=facts.atlas.tree.sizes).astype(int)
    for number, card in enumerate(tab.locator("#merged > li").all_inner_texts()):
        parts = ", ".join(map(str, np.flatnonzero(groups == number)))
        word = "cluster" if "," not in parts else "clusters"
        assert f"{sizes[number]} images, from {word} {parts}" in card
    assert tab.locator("#legend button").count() == 3
    slider.press("ArrowRight")
    until(tab, "document.querySelectorAll('#merged > li').length === 4")
    # A link to one cluster brings the single clusters back.
    tab.locator("#learned a[href^='#cluster-']").first.click()
    assert tab.locator("#gallery").is_visible()
    assert slider.input_value() == str(CLUSTERS)


@pytest.mark.browser
def test_the_map_with_the_keyboard_and_the_lasso(tab: Page, facts: ReportFacts) -> None:
    canvas = tab.locator("#canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    corners = [(1, 1), (box["width"] - 1, 1), (box["width"] - 1, box["height"] - 1), (1, box["height"] - 1)]
    tab.keyboard.down("Shift")
    tab.mouse.move(box["x"] + 1, box["y"] + 1)
    tab.mouse.down()
    for x, y in corners:
        tab.mouse.move(box["x"] + x, box["y"] + y)
    tab.mouse.up()
    tab.keyboard.up("Shift")
    assert tab.locator("#chosen-title").inner_text() == f"{COUNT} images chosen"
    assert facts.atlas is not None
    assert tab.locator("#chosen-names").input_value().split("\n") == list(facts.atlas.names)
    tab.get_by_role("button", name="Forget them").click()
    assert tab.locator("#chosen").is_hidden()
    for _ in range(6):
        tab.keyboard.press("+")
    until(tab, "Number(canvas.dataset.thumbnails) > 0")
    before = canvas.screenshot()
    tab.keyboard.press("ArrowLeft")
    assert canvas.screenshot() != before
    tab.get_by_label("Coloured by").select_option("brightness")
    assert "darker" in tab.locator("#legend").inner_text()
    tab.get_by_label("Coloured by").select_option("duplicates")
    assert "same as another" in tab.locator("#legend").inner_text()
    tab.get_by_label("Coloured by").select_option("colour")
    shown: dict[str, list[int]] = tab.evaluate(
        """Object.fromEntries([...document.querySelectorAll("#legend button")].map((one) => [one.querySelector("bdi").textContent,
           [...one.querySelector("canvas").getContext("2d").getImageData(12, 12, 1, 1).data]]))"""
    )
    named = {name: light for name, (light, _) in named_colours().items()}
    assert {name: f"#{bytes(pixel[:3]).hex()}" for name, pixel in shown.items()} == named


def named_colours() -> dict[str, tuple[str, str]]:
    """In what the map shows the categories of the statistic `colour`, by light and by dark."""
    text = (resources.files("unlabeled.report") / "templates" / "map.js").read_text()
    found = re.findall(r'(\w+): \["(#[0-9a-f]{6})", "(#[0-9a-f]{6})", [012]\]', text)
    return {name: (light, dark) for name, light, dark in found}


def test_what_is_called_blue_is_shown_in_blue(tmp_path: Path) -> None:
    colours = named_colours()
    assert set(colours) == set(COLOURS)
    # Black on a dark page would not be seen: there it is a dark grey.
    for names, scheme in ((COLOURS, 0), (HUES, 1)):
        flat = np.array([list(bytes.fromhex(colours[name][scheme][1:])) for name in names], np.uint8)
        np.save(tmp_path / "flat.npy", np.broadcast_to(flat[:, None, None], (len(names), 8, 8, 3)))
        store = open_store(open_source(tmp_path / "flat.npy"), short_side=8, cache=None)
        found = next(one for one in image_statistics(store) if one.name == "colour")
        assert [COLOURS[int(code)] for code in found.values] == list(names)


@pytest.mark.browser
def test_without_scripts_the_clusters_are_there(browser: Browser, file: Path) -> None:
    with browser.new_context(java_script_enabled=False, offline=True) as context:
        tab = context.new_page()
        tab.goto(file.as_uri())
        assert tab.locator("#gallery > li:visible").count() == CLUSTERS
        assert tab.locator("button:visible").count() == 0
        assert tab.get_by_text("The map needs scripts").is_visible()
