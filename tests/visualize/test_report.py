from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from report_pages import Outline, launched
from unlabeled.data.photographs import demo_set
from unlabeled.errors import RunError
from unlabeled.health import Verdict
from unlabeled.visualize.report import Cluster, Neighbours, ReportFacts, printable, render, write_report

if TYPE_CHECKING:
    from playwright.sync_api import Browser

EVIL = "<script>alert(1)</script>.jpg"
STATUSES = ("healthy", "warming up", "uneven", "not learning", "collapsing", "unstable")


def facts_of(num_clusters: int, per_cluster: int, crops: np.ndarray) -> ReportFacts:
    names = [f"{EVIL}" if i == 3 else f"folder {i % 7}/photo_{i:05d}.jpg" for i in range(len(crops))]
    members = np.arange(num_clusters * per_cluster).reshape(num_clusters, per_cluster) % len(crops)
    history: list[dict[str, Any]] = [
        {"epoch": e, "loss": 4.6 - 0.05 * e, "chance_loss": 4.605, "size_entropy": 0.9, "effective_rank": 20 + e / 2}
        | ({"nmi_previous": 0.5 + e / 100, "moved_share": 0.4 - e / 100} if e > 1 else {})
        | ({"knn": 0.6 + e / 200} if e % 10 == 0 else {})
        for e in range(1, 31)
    ]
    return ReportFacts(
        title="runs/holiday",
        verdict=Verdict("healthy", "", "", ("the loss went from 4.55 to 3.1; guessing would give 4.61",)),
        subtitle="DeepCluster on 3,000 images",
        run={"data": {"source": "photos/", "images": 3000, "colour": True}, "time": {"training": None, "lr": 0.05}},
        history=[*history, {"epoch": 31, "step": 4, "loss": 99.0}],
        clusters=[
            Cluster(c, per_cluster + c, [crops[i] for i in m], [names[i] for i in m], tightness=0.1 + c / 100)
            for c, m in enumerate(members)
        ],
        neighbours=[
            Neighbours(crops[q], names[q], list(crops[q + 1 : q + 11]), [0.9] * 10, names[q + 1 : q + 11])
            for q in range(0, 60, 10)
        ],
        skipped=[
            (EVIL, "not an image"),
            ("scan\u202egpj.exe", "the file is empty"),
            ("b\udcff.png", "the file is empty"),
        ],
        scores={"raw pixels": 0.31, "untrained network": 0.57, "trained network": 0.777},
        next_steps=["Train longer with `unlabeled resume runs/holiday`."],
        commands=[("unlabeled search runs/holiday query.jpg -k 10", "Find images like one of yours")],
        generator="unlabeled 0.1.0",
    )


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    return demo_set(train_per_photo=70, test_per_photo=1).train


@pytest.fixture(scope="module")
def facts(crops: np.ndarray) -> ReportFacts:
    return facts_of(40, 12, crops)


@pytest.fixture(scope="module")
def page(facts: ReportFacts) -> str:
    return render(facts)


def test_structure(page: str, facts: ReportFacts) -> None:
    outline = Outline(page)
    text = " ".join(outline.text)
    assert "The network is learning: 20.7 points better than before training." in text
    assert "77.7 %" in text
    assert "1,260" in text  # images: the sum of the cluster sizes
    cards = [attributes for attributes in outline.all("li") if "data-id" in attributes]
    assert [int(card["data-id"] or 0) for card in cards] == list(range(39, -1, -1))
    assert len(outline.all("svg")) == 1 + 6 + 1 + 1
    assert len(outline.all("h1")) == 1
    ids = [attributes["id"] for _, attributes in outline.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    for link in outline.all("a"):
        assert (link["href"] or "").removeprefix("#") in ids
    assert "99" not in [cell.strip() for cell in outline.text]  # a record from inside an epoch
    assert "unlabeled resume runs/holiday" in outline.text


def test_nothing_comes_from_outside(page: str) -> None:
    addresses = re.findall(r"""(?:src|href|action|url)\s*[=(]\s*["']?([^"')\s>]+)""", page)
    assert addresses
    assert all(address.startswith(("#", "data:")) for address in addresses)
    assert set(re.findall(r"\w+://[^\s\"'<]+", page)) == {"http://www.w3.org/2000/svg"}
    assert "@import" not in page


def test_file_names_stay_text(page: str) -> None:
    outline = Outline(page)
    assert page.count("<script") == 1 == len(outline.all("script"))
    assert EVIL.replace("/", "") in "".join(outline.text).replace("/", "")
    assert "\u202e" not in page
    assert "scan�gpj.exe" in page
    assert page.encode("utf-8")


def test_only_the_own_script_may_run(page: str) -> None:
    script = page.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page
    assert "default-src 'none'" in page


def test_equal_facts_equal_page(page: str, crops: np.ndarray) -> None:
    assert render(facts_of(40, 12, crops)) == page


@pytest.mark.parametrize("status", STATUSES)
def test_every_verdict_has_a_mark_a_word_and_advice(status: Any) -> None:
    outline = Outline(render(ReportFacts("r", Verdict(status, "what was seen", "try `--lr 0.005`"))))
    text = "".join(outline.text)
    assert "What was seen." in text
    assert "Try --lr 0.005." in text
    assert len(outline.all("svg")) == 1
    # Sections without content are left out, the explanations stay.
    assert {attributes.get("id") for attributes in outline.all("section")} == {"verdict", "words"}


def test_marks_differ_by_shape_and_word_not_only_by_colour() -> None:
    marks = {}
    for status in STATUSES:
        page = render(ReportFacts("r", Verdict(status, "", "")))
        marks[status] = re.search(r"<svg.*?</svg>\s*<span>(.*?)</span>", page, re.S)
    assert len({mark and mark.group(1) for mark in marks.values()}) == len(STATUSES)
    shapes = {status: mark and mark.group(0).split("<span>")[0] for status, mark in marks.items()}
    assert len({shapes[s] for s in ("healthy", "warming up", "uneven", "collapsing")}) == 4


def test_many_clusters_and_many_skipped_files_stay_readable(crops: np.ndarray) -> None:
    clusters = [Cluster(c, 5000 - c, list(crops[:6])) for c in range(1000)]
    clusters.append(Cluster(1000, 0, []))
    skipped = [(f"file {i}", "the file is empty") for i in range(5000)]
    page = render(ReportFacts("r", Verdict("healthy", "", ""), clusters=clusters, skipped=skipped))
    assert "401 more clusters" in page
    assert "4,800 more are listed in skipped.csv" in page
    assert "1 of 1,001 clusters is empty" in page


def test_a_large_run_stays_small(crops: np.ndarray) -> None:
    big = [np.kron(crop, np.ones((4, 4, 1), dtype=np.uint8)) for crop in crops[:600]]
    facts = facts_of(100, 12, np.stack(big))
    assert len(render(facts).encode()) < 3_000_000


def test_last_and_best_knn_are_told_apart(facts: ReportFacts) -> None:
    scored = [record | ({"knn": 0.9} if record["epoch"] == 12 else {}) for record in facts.history]
    page = render(replace(facts, history=scored))
    assert "Last 75.0 %; best 90.0 %, after epoch 12, which is chosen by the labels that score it" in page


def test_writing_replaces_as_a_whole_and_says_where_it_failed(tmp_path: Path, facts: ReportFacts, page: str) -> None:
    target = tmp_path / "report.html"
    target.write_text("old")
    write_report(target, facts)
    assert target.read_text(encoding="utf-8") == page
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(RunError, match=r"report\.html"):
        write_report(target / "report.html", facts)
    assert target.read_text(encoding="utf-8") == page


def test_printable_keeps_what_people_write() -> None:
    assert printable("Übung 3/日本語 (1).jpg") == "Übung 3/日本語 (1).jpg"
    assert printable("a\nb\x00c\x1b[31m") == "a�b�c�[31m"
    assert printable("b\udcff") == "b�"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser(browser: Browser, page: str, tmp_path: Path, scheme: Any) -> None:
    file = tmp_path / "report.html"
    file.write_text(page, encoding="utf-8")
    with browser.new_context(color_scheme=scheme, offline=True) as context:
        tab = context.new_page()
        complaints: list[str] = []
        asked: list[str] = []
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("dialog", lambda dialog: complaints.append(dialog.message))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(file.as_uri())
        for width in (1280, 390):
            tab.set_viewport_size({"width": width, "height": 800})
            headline = tab.get_by_role("heading", level=1)
            box = headline.bounding_box()
            assert headline.is_visible()
            assert box is not None
            assert box["y"] + box["height"] < 800
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
        dark = tab.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
        assert dark == (scheme == "dark")
        # Every tile found its sheet.
        pictures = tab.evaluate("[...document.querySelectorAll('.t')].map(t => getComputedStyle(t).backgroundImage)")
        assert len(pictures) == 40 * 12 + 6 * 11
        assert all(picture.startswith('url("data:') for picture in pictures)
        assert complaints == []
        assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


@pytest.mark.browser
def test_with_the_keyboard(browser: Browser, page: str, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(page, encoding="utf-8")
    with browser.new_context(viewport={"width": 1280, "height": 800}, offline=True) as context:
        tab = context.new_page()
        tab.goto(file.as_uri())
        assert tab.locator("#gallery > li:visible").count() == 24
        tab.get_by_label("Order").select_option("size")
        assert tab.locator("#gallery > li").first.get_attribute("data-id") == "0"
        enlarge = tab.get_by_role("button", name="Enlarge cluster 0", exact=True)
        enlarge.focus()
        tab.keyboard.press("Enter")
        dialog = tab.get_by_role("dialog", name="Cluster 0")
        assert dialog.is_visible()
        assert tab.locator("dialog li").count() == 12
        assert EVIL in tab.locator("dialog li").all_inner_texts()
        assert dialog.get_by_role("button", name="Previous").is_disabled()
        tab.keyboard.press("ArrowRight")
        assert tab.get_by_role("dialog", name="Cluster 1").is_visible()
        tab.keyboard.press("Escape")
        assert tab.locator("dialog").is_hidden()
        # The browser says that a dialog closed a moment after it is hidden, and the focus moves then.
        tab.wait_for_function("document.activeElement.getAttribute('aria-label') === 'Enlarge cluster 1'")
        tab.get_by_role("button", name="Show all 40 clusters").click()
        assert tab.locator("#gallery > li:visible").count() == 40


@pytest.mark.browser
def test_without_scripts_and_on_paper_everything_is_there(browser: Browser, page: str, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(page, encoding="utf-8")
    with browser.new_context(java_script_enabled=False, offline=True) as context:
        tab = context.new_page()
        tab.goto(file.as_uri())
        assert tab.locator("#gallery > li:visible").count() == 40
        assert tab.locator("button:visible").count() == 0
    with browser.new_context(offline=True) as context:
        tab = context.new_page()
        tab.goto(file.as_uri())
        tab.emulate_media(media="print")
        assert tab.locator("#gallery > li:visible").count() == 40
        assert tab.locator("nav").is_hidden()


def test_a_report_without_pictures_still_says_its_verdict() -> None:
    facts = ReportFacts("r", Verdict("warming up", "no epoch has ended yet", ""))
    page = render(replace(facts, cluster_sizes=[3, 0, 5]))
    assert "It is too early to say" in page
    assert "1 of 3 clusters is empty" in page
