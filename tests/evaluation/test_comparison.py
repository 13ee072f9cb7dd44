"""`evaluate all`: what the data allow, one table of several runs, a reason for what is left out, and pages that are safe."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from markupsafe import escape

import unlabeled
from pictures import Trained
from unlabeled import protocols
from unlabeled.errors import ConfigError, DataError
from unlabeled.evaluation.result_cache import Partial
from unlabeled.protocols import Request
from unlabeled.protocols.table import NEEDS, needs_of
from unlabeled.report.comparison import available, numbers, ordered
from unlabeled.report.comparison_page import Comparison, Contender, LeftOut, Score, ScoreRow, markdown, page


def asked(data: Path, labels: str = "folder") -> Request:
    return Request(data, labels, None, True, Partial())


def test_declared_needs_are_of_protocols_that_exist():
    assert set(NEEDS) <= set(protocols.PROTOCOLS)
    assert "all" not in ordered() and set(ordered()) == set(protocols.PROTOCOLS)
    costs = [needs_of(name).cost for name in ordered()]
    assert costs == sorted(costs)


def test_what_data_allow(trained: Trained, tmp_path: Path):
    found = available(asked(trained.photos))
    assert found["classes"] == (None, None)
    assert (found["voc"][0] or "").startswith("needs a folder in the layout of PASCAL VOC")
    assert (found["retrieval"][0] or "").startswith("needs lists of what is to be found")

    one = tmp_path / "one"
    shutil.copytree(trained.photos / "kind0", one / "kind0")
    assert "need one folder for each class" in (available(asked(one))["classes"][0] or "")
    table = tmp_path / "labels.csv"
    table.write_text("path,label\nkind0/000.png,same\nkind0/004.png,same\n")
    assert "at least 2 classes" in (available(asked(one, str(table)))["classes"][0] or "")

    voc = tmp_path / "voc"
    (voc / "VOCdevkit" / "VOC2007" / "JPEGImages").mkdir(parents=True)
    found = available(asked(voc))
    assert found["voc"][0] is None
    assert "these folders are none; give --labels FILE.csv" in (found["classes"][0] or "")

    (tmp_path / "oxford" / "gt").mkdir(parents=True)
    (tmp_path / "oxford" / "gt" / "a_1_query.txt").touch()
    assert available(asked(tmp_path / "oxford"))["retrieval"] == (None, str(tmp_path / "oxford" / "gt"))


def test_numbers_of_every_form_of_result():
    assert list(numbers({"knn": 0.5, "untrained": 0.2, "chance": 0.1, "per_class": {"a": 0.3}})) == [
        (("top-1 of the nearest neighbours' vote", True), Score(0.5, None, 0.2))
    ]
    assert list(numbers({"nmi": 0.7, "clusters": 12})) == [
        (("mutual information of clusters and labels", False), Score(0.7))
    ]
    rows = {"4": {"images": 40, "top1": 0.6, "ci95": 0.05, "scratch": 0.3, "gain": 0.3}}
    table = {"shots": rows, "spread": {"confidence": 0.95, "4": {"trained": {"top1": {"mean": 0.6}}}}, "chance": 0.1}
    assert list(numbers(table)) == [(("top-1, labels a class: 4", True), Score(0.6, 0.05, 0.3))]
    assert next(iter(numbers({"in_clique_of_3": 0.4, "untrained_in_clique_of_3": 0.1})))[1] == Score(0.4, None, 0.1)
    assert list(numbers({})) == []


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Four protocols, one of which cannot run, and a note of which ran."""
    ran: list[str] = []

    def named(name: str, result: dict[str, Any]) -> Any:
        def protocol(run: Any, asked: Request) -> dict[str, Any]:
            ran.append(f"{run.path.name} {name} {asked.data.name}")
            if not result:
                raise DataError("the | pipe <b>is</b> closed.")
            return result

        return protocol

    registered = {
        "knn": named("knn", {"knn": 0.5, "untrained": 0.2}),
        "nmi": named("nmi", {"nmi": 0.7}),
        "linear": named("linear", {}),
        "retrieval": named("retrieval", {"mean_ap": 0.1}),
    }
    monkeypatch.setattr(protocols, "PROTOCOLS", registered)
    return ran


def test_two_runs_in_one_table(trained: Trained, tmp_path: Path, few: list[str]):
    for name in ("a", "b"):
        shutil.copytree(trained.run, tmp_path / name)
    run, out = unlabeled.load(tmp_path / "a", device="cpu"), tmp_path / "out"
    out.mkdir()
    found = run.evaluate("all", trained.photos, test=trained.new, compare=[tmp_path / "b"], out=out)
    # nmi looks at one set: that of --test. What has no layout is not even begun.
    assert few == [f"{name} {what}" for name in "ab" for what in ("knn photos", "nmi new", "linear photos")]
    text = (out / "comparison.md").read_text()
    assert "| knn | top-1 of the nearest neighbours' vote | 50.0 % | 20.0 % |" in text
    assert "| nmi | mutual information of clusters and labels | 0.700 |  |" in text
    assert "a (seed 0) | untrained | cost | b (seed 0) | untrained | cost |" in text
    assert "- linear: the \\| pipe &lt;b>is&lt;/b> closed." in text and "- retrieval: needs lists" in text
    html = (out / "comparison.html").read_text()
    assert "<b>is</b>" not in html and "&lt;b&gt;is&lt;/b&gt;" in html
    stored = json.loads((out / "comparison.json").read_text())
    assert stored["scores"]["b"]["knn"]["scores"]["untrained"] == 0.2 and stored["seconds"]["knn"][0] >= 0
    assert [one["seed"] for one in stored["contenders"]] == [0, 0] and found["markdown"] == text
    # What the papers report for each protocol of the table, in all three files and in what is returned.
    told = {name: protocols.PUBLISHED[name] for name in ("knn", "nmi")}
    assert stored["published"] == found["published"] == told
    sentences = [line.partition(": ")[2] for line in text.splitlines() if line.startswith(("- knn: ", "- nmi: "))]
    assert sentences == list(told.values()) and all(str(escape(sentence)) in html for sentence in sentences)
    assert run.scores["knn"]["knn"] == 0.5
    with pytest.raises(ConfigError, match="is compared with itself"):
        run.evaluate("all", trained.photos, compare=str(tmp_path / "a"))


def test_a_stopped_call_goes_on(trained: Trained, tmp_path: Path, few: list[str], monkeypatch: pytest.MonkeyPatch):
    shutil.copytree(trained.run, tmp_path / "a")
    run = unlabeled.load(tmp_path / "a", device="cpu")
    works = protocols.PROTOCOLS["nmi"]

    def stopped(run: Any, asked: Request) -> dict[str, Any]:
        raise KeyboardInterrupt

    monkeypatch.setitem(protocols.PROTOCOLS, "nmi", stopped)
    with pytest.raises(KeyboardInterrupt):
        run.evaluate("all", trained.photos)
    monkeypatch.setitem(protocols.PROTOCOLS, "nmi", works)
    run.evaluate("all", trained.photos)
    assert few == ["a knn photos", "a nmi photos", "a linear photos"]  # knn only once
    assert (tmp_path / "a" / "comparison.html").is_file()


HOSTILE = "<script>alert(1)</script>\u202e|x"


def example() -> Comparison:
    names = (HOSTILE, "second")
    return Comparison(
        HOSTILE,
        None,
        True,
        [Contender(name, f"/runs/{name}", "deepcluster, resnet18", 30, 0) for name in names],
        [
            ScoreRow("knn", "top-1", [Score(0.512, None, 0.25), Score(1.2, 0.034, -0.1)]),
            ScoreRow("nmi", "information", [Score(0.4), None], False),
        ],
        {"knn": [12.0, 4000.0], "nmi": [1.0, None]},
        [LeftOut("mlp", HOSTILE)],
        {"knn": HOSTILE},
    )


def test_pages_are_safe_and_need_no_network():
    html, text = page(example()), markdown(example())
    assert "<script" not in html and "\u202e" not in html + text and "<script" not in text
    assert "http://" not in html and "https://" not in html and "default-src 'none'" in html
    assert html.count("<tr>") == 3 and "1 h 06 min" in html and "120.0 % ± 3.4" in html
    # Bars stay inside their track.
    assert all(0 <= float(width) <= 100 for width in re.findall(r"(?:width|left):([-\d.]+)%", html))
    assert all(line.count(" | ") == text.splitlines()[4].count(" | ") for line in text.splitlines()[4:8])
    empty = Comparison("d", None, False, [Contender("a", "a", "x", 1, 0)], [], {}, [])
    assert "No protocol could run" in page(empty)
