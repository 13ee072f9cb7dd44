"""The pages in a real browser: clicked, typed, dropped on; nothing leaves the machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from explored import EVIL, Explored
from report_pages import launched
from unlabeled.explorer.server import Server

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as found:
        yield found


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
