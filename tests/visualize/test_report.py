from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from report_pages import Outline, until
from unlabeled.data.photographs import demo_set
from unlabeled.errors import RunError
from unlabeled.evaluation.explain import Explanation, Trait
from unlabeled.report.page import Cluster, Neighbours, ReportFacts, printable, render, write_report
from unlabeled.training.health import Verdict
from unlabeled.visualize.training_curves import epoch_table, training_charts

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
        history=history,
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
    assert "The network is learning. Its features score 20.7 points above those before training" in text
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
    assert "unlabeled resume runs/holiday" in outline.text


def opening_of(facts: ReportFacts) -> str:
    found = re.search(r'<h1 id="verdict-line">(.*?)</h1>', render(facts))
    assert found is not None
    return found.group(1)


def test_the_headline_says_what_is_known_of_the_features() -> None:
    history = [{"epoch": 1, "loss": 4.0}, {"epoch": 2, "loss": 3.0}]
    facts = ReportFacts("r", Verdict("healthy", "", ""), history=history)
    unknown = "whether the features got better is unknown until they are scored (<code>unlabeled evaluate knn</code>)."
    assert opening_of(facts) == f"The loss falls; {unknown}"
    assert opening_of(replace(facts, history=history[::-1])) == f"Nothing has gone wrong; {unknown}"
    uneven = replace(facts, verdict=Verdict("uneven", "", ""))
    assert opening_of(uneven) == f"The loss falls; {unknown} The clusters are uneven."

    def scored(after: float, images: int = 400) -> ReportFacts:
        return replace(facts, scores={"untrained network": 0.5, "this run": after}, num_tested=images)

    # Two standard errors of a difference at one half and 400 images: 7.07 points.
    for after, words in (
        (0.58, "The network is learning. Its features score 8.0 points above those before training"),
        (0.56, "The features are no better than those before training"),
        (0.44, "The features are no better than those before training"),
        (0.42, "Training made the features worse"),
    ):
        told = f"({100 * after:.1f}\u00a0% by the labels given, the untrained network 50.0\u00a0%)."
        assert opening_of(scored(after)) == f"{words} {told}"
    assert "learning" not in opening_of(scored(0.56)) and "Healthy, but no gain" in render(scored(0.56))
    raw = {"raw pixels": 0.6, "untrained network": 0.5, "this run": 0.62}
    pixels = replace(scored(0.62), scores=raw, labels="plates.csv")
    assert opening_of(pixels).startswith("Raw pixels do as well as the network (62.0\u00a0% by the labels plates.csv,")
    assert "Healthy, but raw pixels do as well" in render(pixels)
    assert "is learning" in opening_of(scored(0.56, 4000))
    assert "is learning" not in opening_of(replace(facts, scores={"this run": 0.9}))


def test_the_words_of_the_charts_are_those_of_the_method(facts: ReportFacts) -> None:
    loss = [{"epoch": e, "loss": 9.0 - e, "moved_share": 0.9 if e % 3 == 1 else 0.0} for e in range(1, 8)]
    chance = [record | {"chance_loss": 6.0} for record in loss]
    about_clusters = "predicts which cluster an image is in"
    for method, words in (("nat", "fixed codes"), ("instance", "from all the others"), ("supervised", "label")):
        page = render(ReportFacts("r", Verdict("healthy", "", ""), method=method, history=loss))
        assert words in page and about_clusters not in page and "dashed line" not in page
        assert "Guessing" not in page and "clusters are redrawn" not in page
    assert "dashed line" in render(ReportFacts("r", Verdict("healthy", "", ""), method="instance", history=chance))
    own = render(replace(facts, method="deepcluster"))
    assert about_clusters in own and "dashed line" in own and "clusters are redrawn" in own
    charts = training_charts(
        ReportFacts("r", Verdict("healthy", "", ""), method="nat", history=loss, rewritten=[1, 4, 7])
    )
    heading, note, picture = charts[1]
    assert heading == "How many images change codes?" and "clusters" not in note
    assert picture.count("<circle") == 3 and "moved 90 %" in picture


def test_a_clustering_is_one_point_and_two_show_no_trend() -> None:
    history = [
        {"epoch": e, "loss": 4.0, "size_entropy": 0.9, "effective_rank": 9.0}
        | ({"nmi_previous": 0.5 + (e // 3) / 10, "moved_share": 0.4} if e > 3 else {})
        for e in range(1, 10)
    ]
    facts = ReportFacts("r", Verdict("healthy", "", ""), method="deepcluster", history=history, rewritten=[1, 4, 7])
    drawn = {heading: (note, picture.count("<circle")) for heading, note, picture in training_charts(facts)}
    assert drawn["Are the clusters settling?"][1] == drawn["How many images change sides?"][1] == 2
    assert drawn["Are the clusters of similar size?"][1] == drawn["How much can the features tell apart?"][1] == 3
    assert drawn["Is the puzzle being solved?"][1] == 9
    assert "climbs and then flattens" in drawn["Are the clusters settling?"][0]
    assert "one per clustering" in render(facts)
    # The same epochs lie above each other in all charts.
    eighth = re.compile(r'x="([\d.]+)"[^>]* text-anchor="middle"[^>]*>8</text>')
    found = [eighth.search(picture) for _, _, picture in training_charts(facts)]
    assert len({match and match[1] for match in found}) == 1 and None not in found
    columns, rows = epoch_table(facts)
    assert [row[columns.index("NMI")] != "" for row in rows] == [e in (4, 7) for e in range(1, 10)]
    rank = "How much can the features tell apart?"
    assert "the first point is of the untrained network" in drawn[rank][0]
    assert "made once" not in drawn["Are the clusters of similar size?"][0]
    one = {heading: note for heading, note, _ in training_charts(replace(facts, history=history[:3], rewritten=[1]))}
    assert "before the first epoch and is of the untrained network" in one[rank]
    assert "made once, before the first epoch" in one["Are the clusters of similar size?"]
    other = replace(facts, method="nat")
    assert not any("untrained" in note for _, note, _ in training_charts(other))
    short = replace(facts, history=history[:6], rewritten=[1, 4])
    notes = {heading: note for heading, note, _ in training_charts(short)}
    assert "climbs" not in notes["Are the clusters settling?"]
    assert "falls" not in notes["How many images change sides?"]


def test_the_button_says_how_many_of_the_clusters_it_shows(facts: ReportFacts) -> None:
    some = render(replace(facts, cluster_sizes=[12] * 120))
    assert "Show the 40 largest clusters</button>" in some and "80 more clusters" in some
    assert "Show all 40 clusters</button>" in render(facts)


def test_clusters_that_a_statistic_sets_apart_are_eight_and_the_rest_folded() -> None:
    traits = [
        Trait(c, 9, "brightness" if c % 10 else "colour", 0.9, f"Cluster {c} is x: y {c}; add jitter.")
        for c in range(113)
    ]
    page = render(
        ReportFacts("r", Verdict("healthy", "", ""), explanation=Explanation([], traits, "113 are set apart"))
    )
    shown, folded = page.split('<ul class="traits">')[1:]
    assert shown.count("<li>") == 8 and folded.count("<li>") == 105 and "The other 105" in shown
    # What to do is said once for each statistic.
    assert page.count("add jitter") == 2 and shown.count("add jitter") == 2
    assert "Cluster 0 is x" in shown and "Cluster 1 is x" in shown


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
    scored = [{**record, "knn": 0.9} if record["epoch"] == 12 else record for record in facts.history]
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
        beyond = tab.evaluate(
            "() => [...document.querySelectorAll('svg.chart')].flatMap(s => [...s.querySelectorAll('text')].filter("
            "e => e.getBBox().x < 0 || e.getBBox().x + e.getBBox().width > s.viewBox.baseVal.width)).map(e => e.textContent)"
        )
        assert beyond == []
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
        until(tab, "document.activeElement.getAttribute('aria-label') === 'Enlarge cluster 1'")
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
    early = Verdict("warming up", "loss 4.47, guessing gives 4.38", "", ("the loss went from 4.46 to 4.47",))
    assert "The loss went" in render(ReportFacts("r", early)) and "Loss 4.47" not in render(ReportFacts("r", early))
    facts = ReportFacts("r", Verdict("warming up", "no epoch has ended yet", ""))
    page = render(replace(facts, cluster_sizes=[3, 0, 5]))
    assert "It is too early to say" in page
    assert "1 of 3 clusters is empty" in page
