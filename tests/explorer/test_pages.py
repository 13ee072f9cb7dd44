"""The pages in a real browser: clicked, typed, dropped on; nothing leaves the machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from explored import EVIL, Explored
from report_pages import until
from unlabeled.explorer.server import Server

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


class Watched:
    """A page, what it asked for and what it complained of."""

    def __init__(self, browser: Browser, server: Server, scheme: Any = "light", width: int = 1280) -> None:
        self.context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 850})
        self.tab: Page = self.context.new_page()
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self.tab.on("console", lambda message: self.complaints.append(message.text))
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.tab.on("request", lambda request: self.asked.append(request.url))
        self.address = server.address

    def open(self, hash: str = "") -> None:
        self.tab.goto(self.address + hash)
        self.ready()

    def ready(self) -> None:
        self.tab.locator("main[aria-busy=false]").wait_for()

    def title(self, text: str) -> None:
        self.tab.locator("h1", has_text=text).wait_for()
        self.ready()

    def close(self) -> None:
        self.context.close()
        own = (self.address, self.address.replace("http", "blob:http"), "data:")
        assert [url for url in self.asked if not url.startswith(own)] == []


@pytest.mark.browser
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_from_a_cluster_to_an_image_to_its_neighbours(
    browser: Browser, server: Server, explored: Explored, scheme: str, width: int
) -> None:
    page = Watched(browser, server, scheme, width)
    page.open()
    tab = page.tab
    page.title("6 clusters")
    dark = tab.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")
    tab.get_by_role("link", name="Cluster 2,").click()
    page.title("Cluster 2")
    members = explored.answers.cluster(2, "typical", 0, 60)["images"]
    assert tab.locator(".grid > li").count() == len(members)
    tab.locator(".grid a", has_text=members[1]["name"]).click()
    page.title(members[1]["name"].split("/")[1])
    wanted = explored.answers.image(members[1]["index"])["neighbours"]
    assert tab.locator(".grid bdi").all_inner_texts() == [image["name"] for image in wanted]
    assert tab.locator(".grid .note").first.inner_text().startswith(f"{wanted[0]['similarity']:.3f}")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tab.go_back()
    page.title("Cluster 2")
    page.close()
    assert page.complaints == [] or all("422" in text for text in page.complaints)  # the damaged image


@pytest.mark.browser
def test_search_with_a_file(browser: Browser, server: Server, explored: Explored, tmp_path: Path) -> None:
    page = Watched(browser, server)
    page.open()
    query = tmp_path / "<b>query.png"
    query.write_bytes((explored.photos / "kind1" / "005.png").read_bytes())
    page.tab.set_input_files("#file", query)
    page.title("<b>query.png")
    assert page.tab.locator(".grid bdi").first.inner_text() == "kind1/005.png"
    assert page.tab.locator(".grid li").count() == 24
    shown = page.tab.locator("figure img")
    assert (shown.get_attribute("src") or "").startswith("blob:")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    page.tab.set_input_files("#file", broken)
    page.tab.get_by_role("status").filter(has_text="this file cannot be searched for").wait_for()
    page.close()


@pytest.mark.browser
def test_names_stay_text_and_the_keyboard_is_enough(browser: Browser, server: Server, explored: Explored) -> None:
    page = Watched(browser, server)
    page.open()
    tab = page.tab
    tab.keyboard.press("/")
    tab.keyboard.type("<script>")
    tab.keyboard.press("Enter")
    page.title("1 found for “<script>”")
    assert tab.locator(".grid bdi").all_inner_texts() == [EVIL]
    assert tab.evaluate("document.activeElement.id") == "title"
    tab.locator(".grid a").focus()
    tab.keyboard.press("Enter")
    page.title(EVIL.split("/")[1])
    page.open("#find/kind/0")
    page.title("120 found")
    first = tab.locator(".grid bdi").first.inner_text()
    tab.locator("h1").focus()
    tab.keyboard.press("ArrowRight")
    tab.locator(".pages", has_text="61 to 120 of 120").first.wait_for()
    page.ready()
    assert tab.locator(".grid bdi").first.inner_text() != first
    for hash in ("#cluster/99", "#image/999999", "#image/-1", "#find/%E0%A4%A", "#cluster/../../etc"):
        page.open(hash)
        assert tab.locator("h1").is_visible()
    assert tab.evaluate("document.querySelectorAll('main script').length") == 0
    page.close()
    assert not [text for text in page.complaints if "404" not in text and "422" not in text]


@pytest.mark.browser
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 390), ("dark", 390)])
def test_the_map_shows_every_image_and_leads_to_each(
    browser: Browser, server: Server, explored: Explored, scheme: str, width: int
) -> None:
    page = Watched(browser, server, scheme, width)
    page.open("#map")
    tab = page.tab
    page.title("Map of all images")
    until(tab, "Number(canvas.dataset.thumbnails) > 20")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    canvas = tab.locator("#canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    # The pointer over an image: its name and cluster, beside it and within the frame.
    canvas.focus()
    canvas.press("+")
    index = middle(tab)
    name = explored.run.names[index]
    card = tab.locator("#card", has_text=name)
    move_to_the_middle(tab, index)
    box = canvas.bounding_box() or box
    tab.mouse.move(box["x"] + box["width"] / 2 + 1, box["y"] + box["height"] / 2)
    card.wait_for()
    assert f"Cluster {int(explored.run.catalogue.clusters[index])}" in card.inner_text()
    around = card.bounding_box()
    assert around is not None
    assert around["x"] >= box["x"] - 1
    assert around["x"] + around["width"] <= box["x"] + box["width"] + 1
    tab.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.title(name.split("/")[1])
    tab.get_by_role("link", name="show where it lies").click()
    page.title("Map of all images")
    until(tab, "document.activeElement === canvas")
    assert middle(tab) == index
    page.close()
    assert page.complaints == [] or all("422" in text for text in page.complaints)


def middle(tab: Page) -> int:
    """The number of the image in the middle, as it is told to who does not see the map."""
    tab.evaluate("document.getElementById('map-middle').textContent = ''")
    tab.locator("#canvas").press("ArrowLeft")
    tab.evaluate("document.getElementById('map-middle').textContent = ''")
    tab.locator("#canvas").press("ArrowRight")
    until(tab, "document.getElementById('map-middle').textContent !== ''")
    said = tab.locator("#map-middle").inner_text()
    found: list[dict[str, Any]] = tab.evaluate(
        "async (name) => (await (await fetch('/api/find?text=' + encodeURIComponent(name))).json()).images",
        said.removeprefix("In the middle: ").rpartition(", ")[0],
    )
    return int(found[0]["index"])


def move_to_the_middle(tab: Page, index: int) -> None:
    tab.locator("#title").focus()
    tab.evaluate("(hash) => { location.hash = hash; }", f"map/{index}")
    until(tab, "document.activeElement === canvas")


@pytest.mark.browser
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_the_lasso_of_the_map_lists_names(
    browser: Browser, server: Server, explored: Explored, scheme: str, width: int
) -> None:
    page = Watched(browser, server, scheme, width)
    page.open("#map")
    tab = page.tab
    until(tab, "Number(canvas.dataset.thumbnails) > 20")
    canvas = tab.locator("#canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    tab.get_by_role("button", name="Lasso").click()
    right, low = box["width"] - 1, box["height"] - 1
    tab.mouse.move(box["x"] + 1, box["y"] + 1)
    tab.mouse.down()
    for x, y in [(right, 1), (right, low), (1, low)]:
        tab.mouse.move(box["x"] + x, box["y"] + y)
    tab.mouse.up()
    assert tab.locator("#chosen-title").inner_text() == "120 images chosen"
    until(tab, "document.getElementById('chosen-names').value !== ''")
    assert tab.locator("#chosen-names").input_value().split("\n") == explored.run.names
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tab.get_by_role("button", name="Forget them").click()
    assert tab.locator("#chosen").is_hidden()
    # Without a pointer: what is in sight.
    canvas.press("c")
    assert tab.locator("#chosen-title").inner_text() == "120 images chosen"
    # Colours: one cluster alone can be chosen; numbers have a scale with words at its ends.
    tab.get_by_label("Coloured by").select_option("distance from the centre")
    tab.locator("#legend", has_text="more typical").wait_for()
    tab.get_by_label("Coloured by").select_option("cluster")
    tab.locator("#legend button").first.click()
    assert tab.locator("#legend button[aria-pressed=true]").count() == 1
    canvas.press("c")
    size = int(explored.answers.order.sizes.max())
    assert tab.locator("#chosen-title").inner_text() == f"{size} images chosen"
    page.close()
    assert page.complaints == [] or all("422" in text for text in page.complaints)


MANY = """(count) => {
  const positions = new Uint16Array(2 * count);
  for (let i = 0; i < count; i++) {
    positions[2 * i] = (i * 40503) % 65536;
    positions[2 * i + 1] = (i * 25173 + (i >> 5) * 12345) % 65536;
  }
  const cluster = (i) => positions[2 * i] >> 13;
  window.opened = [];
  document.getElementById("map-page").hidden = false;
  imageMap.begin({
    count, positions, side: 72, mostZoom: 500, colourings: [],
    groupOf: cluster, groupName: (k) => `Cluster ${k}`, numGroups: () => 8,
    clusterName: (i) => `Cluster ${cluster(i)}`, image: () => null,
    names: (rows) => Array.from(rows.slice(0, 20000), (i) => `name ${i}`),
    picture: () => new Image(), pick: () => "", open: (i) => window.opened.push(i), onChange: () => {}, ready: [], note: "",
  });
}"""


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_very_many_points_are_drawn_found_and_chosen(browser: Browser, server: Server, scheme: str) -> None:
    """Above 15,000 points in sight they are written into pixels: no element and no path for each of them."""
    page = Watched(browser, server, scheme)
    page.open()
    tab = page.tab
    before = tab.evaluate("document.querySelectorAll('*').length")
    tab.evaluate(MANY, 40_000)
    until(tab, "document.getElementById('canvas').dataset.points === '40000'")
    assert tab.evaluate("document.querySelectorAll('*').length") < before + 80
    colours = """(() => {
      const { width, height } = canvas;
      const counts = {};
      for (const value of new Uint32Array(canvas.getContext('2d').getImageData(0, 0, width, height).data.buffer)) {
        counts[value] = (counts[value] || 0) + 1;
      }
      return Object.values(counts).filter((count) => count > 2000).length;
    })()"""
    assert tab.evaluate(colours) == 9  # eight clusters and what lies behind
    # One cluster: the others are faded and not chosen.
    tab.locator("#legend button").first.click()
    canvas = tab.locator("#canvas")
    canvas.press("c")
    size = int(tab.locator("#legend button span").first.inner_text().replace(",", ""))
    assert tab.locator("#chosen-title").inner_text() == f"{size:,} images chosen"
    # What is clicked is the nearest: found by looking at all.
    tab.locator("#legend button").first.click()
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    x, y = box["width"] * 0.4, box["height"] * 0.7
    tab.mouse.click(box["x"] + x, box["y"] + y)
    i = np.arange(40_000)
    positions = np.stack([i * 40503, i * 25173 + (i >> 5) * 12345], 1) % 65536
    screen = 24 + positions / 65535 * (np.array([box["width"], box["height"]]) - 48)
    gap = np.square(screen - [x, y]).sum(1)
    found = tab.evaluate("window.opened")
    assert len(found) == 1
    assert gap[found[0]] <= gap.min() + 1.5
    page.close()


@pytest.mark.browser
def test_the_report_runs_inside_the_explorer(browser: Browser, server: Server):
    watched = Watched(browser, server)
    watched.open()
    assert watched.tab.get_by_role("link", name="Report").get_attribute("href") == "/report"
    watched.close()
    watched = Watched(browser, server)
    watched.tab.goto(watched.address + "report")
    # The map draws itself: its script was let run.
    canvas = watched.tab.locator("canvas").first
    canvas.scroll_into_view_if_needed()
    until(
        watched.tab,
        "() => { const c = document.querySelector('canvas'); return c && c.width > 0 && c.getContext('2d')"
        ".getImageData(0, 0, c.width, c.height).data.some(value => value > 0); }",
    )
    assert watched.complaints == []
    watched.close()
