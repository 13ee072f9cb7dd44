"""The page of `evaluate all` in a browser: it fits, can be read in both schemes, and asks for nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from unlabeled.protocols import PUBLISHED
from unlabeled.report.comparison_page import Comparison, Contender, LeftOut, Score, ScoreRow, page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HOSTILE = "<img src=x onerror=alert(1)>\u202e_a_run_with_a_very_long_name_without_any_space_in_it"


def example(runs: int) -> Comparison:
    """As many protocols as a class-folder set allows, with everything a cell can hold."""
    names = [HOSTILE, "instance-resnet18", "supervised"][:runs]

    def scores(*found: Score | None) -> list[Score | None]:
        return [*found, *found, *found][:runs]

    return Comparison(
        "photographs/holiday/class folders",
        "photographs/test",
        True,
        [
            Contender(name, f"/home/someone/experiments/{name}", "deepcluster, resnet18", 30, i)
            for i, name in enumerate(names)
        ],
        [
            ScoreRow(
                "knn",
                "top-1 of the nearest neighbours' vote",
                scores(Score(0.512, None, 0.25), Score(0.61, None, 0.24)),
            ),
            ScoreRow("knn", "top-5", scores(Score(0.812, None, 0.55))),
            ScoreRow("linear", "best top-1, stage conv5", scores(Score(0.431, 0.012, 0.31), None)),
            ScoreRow("low-shot", "top-1, labels a class: 10", scores(Score(0.331, 0.043, 0.285))),
            ScoreRow("nmi", "mutual information of clusters and labels", scores(Score(0.412)), False),
        ],
        {
            "knn": [12.0, 4000.0, 3.0][:runs],
            "linear": [600.0, None, 7.0][:runs],
            "low-shot": [1.0] * runs,
            "nmi": [None] * runs,
        },
        [
            LeftOut("voc-detection", "needs a folder in the layout of PASCAL VOC (VOCdevkit/VOC2007/JPEGImages)."),
            LeftOut("retrieval", HOSTILE),
        ],
        {name: PUBLISHED[name] for name in ("knn", "linear", "low-shot", "nmi")},
    )


def luminance(tab: Page, where: str, what: str) -> float:
    """Of a computed colour, 0 to 1, as contrast is defined (WCAG 2.2)."""
    words = tab.evaluate(f"getComputedStyle(document.querySelector({where!r})).{what}")
    parts = [int(number) / 255 for number in re.findall(r"\d+", words)[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("runs", [1, 3])
def test_it_fits_and_can_be_read(browser: Browser, tmp_path: Path, scheme: Any, width: int, runs: int) -> None:
    file = tmp_path / "comparison.html"
    file.write_text(page(example(runs)), encoding="utf-8")
    with browser.new_context(color_scheme=scheme, offline=True, viewport={"width": width, "height": 800}) as context:
        tab = context.new_page()
        complaints: list[str] = []
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("dialog", lambda dialog: complaints.append(dialog.message))
        asked: list[str] = []
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(file.as_uri())
        assert tab.get_by_role("heading", level=1).is_visible()
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        # Every score is on the page, none cut off by its cell.
        cells = tab.locator("td.run > span:first-child")
        assert cells.count() == 5 * runs - {1: 0, 3: 1}[runs]
        assert cells.first.is_visible()
        narrow = "[...document.querySelectorAll('td, tbody th')].filter(c => c.offsetParent && c.scrollWidth > c.clientWidth + 1)"
        assert tab.evaluate(f"{narrow}.map(c => c.textContent)") == []
        # With many runs the table is scrolled; its words are not squeezed into a letter a line.
        assert min(tab.evaluate("[...document.querySelectorAll('td.measure')].map(c => c.clientWidth)")) >= 150
        heads = tab.evaluate("[...document.querySelectorAll('thead bdi')].map(c => c.clientWidth)")
        assert max(heads) <= 230
        bars = tab.evaluate("[...document.querySelectorAll('td .bar i')].map(b => b.getBoundingClientRect().width)")
        assert min(bars) > 0
        assert (luminance(tab, "body", "backgroundColor") < 0.5) == (scheme == "dark")
        behind = luminance(tab, "body", "backgroundColor") + 0.05
        for where in ("td.measure", ".seed", "h1", "dd"):
            ink = luminance(tab, where, "color") + 0.05
            assert max(ink, behind) / min(ink, behind) >= 4.5, where
        # What the papers report stands below, a sentence for each protocol of the table.
        told = tab.locator("h2:has-text('Published') ~ dl").first.locator("dd")
        assert told.all_inner_texts() == [PUBLISHED[name] for name in ("knn", "linear", "low-shot", "nmi")]
        # A table of its own width is scrolled by the keyboard too.
        scroller = tab.locator(".scroll")
        assert scroller.get_attribute("tabindex") == "0" and scroller.get_attribute("aria-label")
        assert complaints == []
        assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
