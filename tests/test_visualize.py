"""The pictures of a run, as the command line makes them: which files, that they are right, and every mistake in a sentence."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any, get_args
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

import unlabeled
from pictures import SETTINGS, Trained
from unlabeled.cli.visualize import Picture, PictureOptions
from unlabeled.errors import ConfigError, DataError, RunError, UnlabeledError
from unlabeled.run import Run
from unlabeled.visualize import PICTURES, options_of
from unlabeled.visualize.classes import vote_shares
from unlabeled.visualize.neighbors import by_share, nearest
from unlabeled.visualize.scores import headline, series
from unlabeled.visualize.thumbnails import parse_units


@pytest.fixture(scope="module")
def run(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Run:
    copy = tmp_path_factory.mktemp("pictures") / "run"
    shutil.copytree(trained.run, copy)
    rows = {
        "1": {"images": 4, "top1": 0.4, "ci95": 0.1, "scratch": 0.3},
        "10": {"images": 40, "top1": 0.6, "scratch": 0.35},
    }
    scores = {"knn": {"knn": 0.8, "untrained": 0.5}, "low-shot": {"shots": rows}}
    (copy / "scores.json").write_text(json.dumps(scores))
    return unlabeled.load(copy, device="cpu")


def table(paths: list[Path]) -> list[dict[str, str]]:
    with next(path for path in paths if path.suffix == ".csv").open(newline="") as file:
        return list(csv.DictReader(file))


SMALL: dict[str, dict[str, Any]] = {
    "activations": {"stage": "conv2", "units": "0-2,7"},
    "ascent": {"stage": "conv1", "units": "1,5", "steps": 3},
    "clusters": {"clusters": 2, "per_cluster": 5},
    "confusions": {"neighbors": 4},
    "edge-ratio": {"neighbors": 4},
    "neighbors": {"labels": "folder", "queries": 4, "neighbors": 3},
}


OF_OTHERS = {"gain", "gap", "softmax", "sweep"}
"""Pictures of a run with labels and of several runs, which have tests of their own."""


@pytest.mark.parametrize("what", sorted(PICTURES.keys() - OF_OTHERS))
def test_every_picture_opens_and_is_the_same_twice(run: Run, trained: Trained, what: str, tmp_path: Path):
    data = trained.new if options_of(what)[0] else None
    paths = run.visualize(what, data, out=tmp_path / "one", **SMALL.get(what, {}))
    again = run.visualize(what, data, out=tmp_path / "two", **SMALL.get(what, {}))
    assert table(paths)
    for path, other in zip(paths, again, strict=True):
        assert path.read_bytes() == other.read_bytes(), path
        if path.suffix == ".svg":
            assert ElementTree.parse(path).getroot().tag.endswith("svg")
        elif path.suffix == ".png":
            assert np.asarray(Image.open(path)).std() > 5
    assert not (run.path / "evaluation").exists()


def test_best_queries_have_more_neighbours_of_their_class_than_the_worst(run: Run, trained: Trained, tmp_path: Path):
    rows = table(run.visualize("neighbors", trained.new, out=tmp_path, labels="folder", queries=4, neighbors=3))
    shares: dict[str, list[bool]] = {}
    for row in rows:
        if row["network"] == "trained":
            shares.setdefault(row["query"], []).append(row["path"].split("/")[0] == row["query"].split("/")[0])
    counts = [sum(hits) for hits in shares.values()]
    assert len(counts) == 4 and min(counts[:2]) >= max(counts[2:])


def test_the_command_line_names_every_picture_and_every_option():
    assert get_args(Picture) == tuple(sorted(PICTURES))
    assert set(PictureOptions.model_fields) == {name for what in PICTURES for name in options_of(what)[1]}


def test_the_table_of_the_docs_has_every_picture_with_its_options():
    text = (Path(__file__).parent.parent / "docs" / "visualize.md").read_text()
    rows = re.findall(r"^\| `([a-z-]+)` \| [^|]+ \|([^|]*)\|", text, re.MULTILINE)
    found = {name: sorted(re.findall(r"--([a-z-]+)", options)) for name, options in rows}
    assert found == {what: sorted(name.replace("_", "-") for name in options_of(what)[1]) for what in PICTURES}
    assert set(re.findall(r"^\*\*([a-z-]+)\.\*\*", text, re.MULTILINE)) >= PICTURES.keys() - {"clusters"}


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_neighbours_are_those_of_brute_force(metric: Any):
    random = np.random.default_rng(0)
    features = random.normal(size=(60, 8)).astype(np.float32) + 3
    found = nearest(torch.from_numpy(features), torch.tensor([5, 17]), 4, metric)
    for place, query in enumerate((5, 17)):
        if metric == "cosine":
            unit = features / np.linalg.norm(features, axis=1, keepdims=True)
            value = unit @ unit[query]
            order = [i for i in np.argsort(-value) if i != query][:4]
        else:
            value = np.linalg.norm(features - features[query], axis=1)
            order = [i for i in np.argsort(value) if i != query][:4]
        assert found.index[place].tolist() == order
        np.testing.assert_allclose(found.value[place], value[order], rtol=1e-4)
    ids = np.array([0, 0, 1, 1])
    neighbours = nearest(torch.tensor([[0.0, 1], [0.1, 1], [1, 0.0], [0.05, 1]]), torch.arange(4), 1, "l2")
    assert by_share(neighbours, torch.arange(4), ids).tolist()[0] in (0, 1)


def test_vote_shares_by_hand():
    features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.9, 0.2], [0.1, 1.0]])
    labels = torch.tensor([0, 0, 1, 2, 1])
    shares = vote_shares(features, labels, 4, 2, 0.1)
    wanted = np.zeros((4, 4))
    unit = torch.nn.functional.normalize(features, dim=1).numpy().astype(np.float64)
    for i in range(5):
        others = sorted((j for j in range(5) if j != i), key=lambda j, i=i: -float(unit[i] @ unit[j]))[:2]
        weights = np.exp([unit[i] @ unit[j] / 0.1 for j in others])
        for j, weight in zip(others, weights / weights.sum(), strict=True):
            wanted[int(labels[i]), int(labels[j])] += weight / int((labels == labels[i]).sum())
    np.testing.assert_allclose(shares[:3], wanted[:3], rtol=1e-4, atol=1e-9)
    assert np.isnan(shares[3]).all()


def test_the_spectrum_is_that_of_the_covariance(run: Run, trained: Trained, tmp_path: Path):
    rows = table(run.visualize("spectrum", trained.new, out=tmp_path))
    features = run.embed(trained.new).features.double()
    values = torch.linalg.eigvalsh(torch.cov(features.t())).flip(0)
    wanted = (values.cumsum(0) / values.sum()).tolist()
    np.testing.assert_allclose([float(row["trained"]) for row in rows][:10], wanted[:10], rtol=1e-3)
    assert set(json.loads((tmp_path / "spread.json").read_text())) == {"trained", "untrained"}


def test_curves_hold_every_number_of_the_journal(run: Run, tmp_path: Path):
    rows = table(run.visualize("curves", out=tmp_path))
    assert [float(row["loss"]) for row in rows] == pytest.approx([record["loss"] for record in run.history])
    assert {"nmi_previous", "moved_share", "lr", "inertia"} <= set(rows[0])


def test_curves_draw_a_clustering_once(run: Run, tmp_path: Path):
    other = made_other(run, tmp_path / "other", epochs=6, reassign_every=3.0)
    shutil.rmtree(other / "assignments")
    made = {"nmi_previous": 0.5, "effective_rank": 9.0, "nmi_labels": 0.25}
    journal = [{"epoch": epoch, "loss": 4.0, "chance_loss": 5.0} | made for epoch in range(1, 7)]
    (other / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in journal))
    for drawn in (
        Run(other, "cpu").visualize("curves"),
        run.visualize("curves", compare=[other], out=tmp_path / "out"),
    ):
        rows = [row for row in table(drawn) if row.get("run", "other") == "other"]
        assert len(rows) == 6
        for name, value in made.items():
            assert [row[name] for row in rows] == [f"{value:g}", "", "", f"{value:g}", "", ""]
        assert [row["loss"] for row in rows] == ["4"] * 6
    # As in the report, whose charts it is compared with.
    charts = Run(other, "cpu").visualize("curves")[0].read_text().split("<svg ")[2:]
    points = {
        heading: chart.count("<circle")
        for chart in charts
        for heading in ("Loss", "NMI with the labels")
        if f">{heading}</title>" in chart
    }
    assert points == {"Loss": 6, "NMI with the labels": 2}


def test_scores_draw_what_is_there(run: Run, tmp_path: Path):
    rows = table(run.visualize("scores", out=tmp_path, compare=[run.path]))
    assert {"protocol": "low-shot", "at": "1", "network": "trained", "score": "0.4", "ci95_half_width": "0.1"} in rows
    assert {row["network"] for row in rows} == {"trained", "from scratch", "run", "untrained"}
    assert headline({"a": {"x": 0.3, "untrained": 0.2}, "b": {"x": 1}, "c": {"x": 7, "untrained": 1}}) == {
        "a": (0.3, 0.2)
    }
    assert [one.label for one in series({"conv1": {"knn": 0.1, "untrained": 0.2}}, ["conv1"])] == [
        "trained",
        "untrained",
    ]


def made_other(run: Run, path: Path, journal: dict[str, Any] | None = None, **settings: Any) -> Path:
    """A copy of the run with other settings, and numbers that are added to its journal."""
    shutil.copytree(run.path, path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | settings))
    if journal is not None:
        records = [record | journal for record in run.history]
        (path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_curves_of_several_runs_are_in_the_same_charts(run: Run, tmp_path: Path):
    other = made_other(run, tmp_path / "other", {"loss": 0.5, "own_number": 7.0})
    again = made_other(run, tmp_path / "folder" / "other", {"nmi_previous": None})
    paths = run.visualize("curves", out=tmp_path / "out", compare=[other, again])
    assert [path.name for path in paths] == ["curves-compared.svg", "curves-compared.csv"]
    rows = table(paths)
    names = list(dict.fromkeys(row["run"] for row in rows))
    assert len(names) == 3 and [name.split("/")[-1] for name in names] == ["run", "other", "other"]
    assert {row["loss"] for row in rows if row["run"] == names[1]} == {"0.5"}
    assert {row["own_number"] for row in rows if row["run"] != names[1]} == {""}
    drawing = paths[0].read_text()
    assert drawing.count("stroke-dasharray") > 0 and "Loss" in drawing and "own number" in drawing
    assert "below the dashed line" not in drawing and "guessing" not in drawing
    # A run has one colour in all charts, also where it alone has the number.
    own = next(part for part in drawing.split("<svg ") if "own number</title>" in part)
    assert 'class="line-2' in own and 'class="line-1' not in own
    assert run.visualize("curves", out=tmp_path / "out", compare=[other, again])[0].read_text() == drawing
    with pytest.raises(ConfigError, match="compared with itself"):
        run.visualize("curves", out=tmp_path / "out", compare=[run.path])


def test_a_sweep_draws_a_score_against_a_setting(run: Run, tmp_path: Path):
    others = [
        made_other(run, tmp_path / f"k{k}-{i}", {"nmi_labels": 0.1 * i}, num_clusters=k)
        for i, k in enumerate((60, 600, 600), 1)
    ]
    (others[1] / "scores.json").write_text(json.dumps({"knn": {"knn": 0.9, "untrained": 0.45}}))
    paths = run.visualize("sweep", out=tmp_path / "out", compare=others)
    assert [path.name for path in paths] == ["sweep-num_clusters.svg", "sweep-num_clusters.csv"]
    rows = table(paths)
    assert [(row["num_clusters"], row["knn"], row["untrained"]) for row in rows] == [
        ("6", "0.8", "0.5"),
        ("60", "0.8", "0.5"),
        ("600", "0.9", "0.45"),
        ("600", "0.8", "0.5"),
    ]
    drawing = paths[0].read_text()
    assert "num clusters (logarithmic)" in drawing and "what `evaluate knn` found" in drawing
    assert drawing.count("<circle") == 8
    assert run.visualize("sweep", out=tmp_path / "out", compare=others)[0].read_text() == drawing
    # Where no protocol is called so, the journal is asked.
    lacks = "has no nmi_labels, neither in scores.json nor in its journal"
    with pytest.raises(RunError, match=lacks):
        run.visualize("sweep", out=tmp_path / "out", compare=others, score="nmi_labels")
    rest = unlabeled.load(others[0], device="cpu")
    rows = table(rest.visualize("sweep", out=tmp_path / "out", compare=others[1:], score="nmi_labels"))
    assert [row["nmi_labels"] for row in rows] == ["0.1", "0.2", "0.3"]


def test_a_sweep_over_names_and_over_the_number_of_images(run: Run, tmp_path: Path):
    other = made_other(run, tmp_path / "other", sampling="natural")
    rows = table(run.visualize("sweep", out=tmp_path / "out", compare=[other], against="sampling"))
    assert [row["sampling"] for row in rows] == ["uniform", "natural"]
    record = json.loads((other / "data.json").read_text())
    (other / "data.json").write_text(json.dumps(record | {"count": 240}))
    paths = run.visualize("sweep", out=tmp_path / "out", compare=[other], against="images")
    assert [row["images"] for row in table(paths)] == ["120", "240"]
    assert "number of training images" in paths[0].read_text()
    (other / "metrics.jsonl").write_text((other / "metrics.jsonl").read_text().splitlines()[0] + "\n")
    rows = table(run.visualize("sweep", out=tmp_path / "out", compare=[other], against="epoch"))
    assert [row["epoch"] for row in rows] == ["2", str(run.history[0]["epoch"])]
    with pytest.raises(ConfigError, match=r"it is 0.05 in all 2 runs.*these differ in sampling, images, epoch"):
        run.visualize("sweep", out=tmp_path / "out", compare=[other], against="lr")


def test_filters_of_other_runs_stand_below(run: Run, tmp_path: Path):
    other = made_other(run, tmp_path / "other")
    paths = run.visualize("filters", out=tmp_path / "out", compare=[other])
    assert [path.name for path in paths] == ["filters-compared.png", "filters-compared.csv"]
    rows = table(paths)
    assert len(rows) == 2 * 48 and {row["run"] for row in rows} == {"run", "other"}
    alone = run.visualize("filters", out=tmp_path / "alone")
    compared, own = (np.asarray(Image.open(found[0])) for found in (paths, alone))
    assert compared.shape[0] > own.shape[0] * 1.3
    assert table(alone)[5]["length"] == rows[5]["length"]


@pytest.fixture(scope="module")
def supervised(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Run:
    path = tmp_path_factory.mktemp("supervised") / "run"
    settings = SETTINGS | {"method": "supervised", "epochs": 4}
    unlabeled.train(trained.photos, path, labels="folder", cache=trained.cache, **settings)
    return unlabeled.load(path, device="cpu")


def test_the_softmax_of_single_images(supervised: Run, trained: Trained, tmp_path: Path):
    names = "kind1/001.png,kind2/002.png"
    paths = supervised.visualize("softmax", out=tmp_path / "one", images=names)
    rows = table(paths)
    features = supervised.embed(trained.photos)
    for name in names.split(","):
        own = [row for row in rows if row["path"] == name]
        assert {row["class"] for row in own} == {name.split("/")[0]}
        feature = features.features[features.names.index(name)]
        logits = supervised.method.outputs(feature[None])[0].double().numpy()
        wanted = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        found = {row["softmax_class"]: float(row["probability"]) for row in own}
        assert [found[f"kind{c}"] for c in range(4)] == pytest.approx(wanted.tolist(), abs=1e-4)
        assert list(found.values()) == sorted(found.values(), reverse=True)
    drawing = paths[0].read_text()
    assert drawing.count("<image ") == 2 and "Grey and first" in drawing
    assert ElementTree.fromstring(drawing).tag.endswith("svg")
    assert supervised.visualize("softmax", out=tmp_path / "two", images=names)[0].read_text() == drawing


def test_the_softmax_of_a_new_file_has_no_right_class(supervised: Run, trained: Trained, tmp_path: Path):
    paths = supervised.visualize("softmax", trained.new / "kind3" / "003.png", out=tmp_path)
    assert {row["class"] for row in table(paths)} == {""} and len(table(paths)) == 4
    assert "Grey and first" not in paths[0].read_text()
    rows = table(supervised.visualize("softmax", trained.new, out=tmp_path, labels="folder", queries=3))
    assert len(rows) == 12 and all(row["class"] == row["path"].split("/")[0] for row in rows)


def test_only_a_run_with_labels_has_a_softmax(run: Run, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"was trained as deepcluster.*visualize confusions"):
        run.visualize("softmax", out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_top_five_is_drawn_where_it_was_measured(run: Run, tmp_path: Path):
    rows = {
        "1%": {"images": 4, "top1": 0.2, "scratch": 0.1, "top5": 0.5, "top5_ci95": 0.02, "scratch_top5": 0.4},
        "10%": {"images": 40, "top1": 0.4, "scratch": 0.2, "top5": 0.7, "scratch_top5": 0.6},
    }
    other = made_other(run, tmp_path / "other")
    (other / "scores.json").write_text(json.dumps({"semi-supervised": {"fractions": rows}}))
    found = table(unlabeled.load(other, device="cpu").visualize("scores", out=tmp_path / "out"))
    assert [
        (row["protocol"], row["at"], row["network"], row["score"], row["ci95_half_width"]) for row in found[4:]
    ] == [
        ("semi-supervised, top-5", "1%", "trained", "0.5", "0.02"),
        ("semi-supervised, top-5", "10%", "trained", "0.7", ""),
        ("semi-supervised, top-5", "1%", "from scratch", "0.4", ""),
        ("semi-supervised, top-5", "10%", "from scratch", "0.6", ""),
    ]


@pytest.mark.parametrize(
    ("text", "wanted"), [(None, list(range(12))), ("all", list(range(12))), ("3-5, 1", [1, 3, 4, 5]), ("7", [7])]
)
def test_filters_are_named_by_text(text: str | None, wanted: list[int]):
    assert parse_units(text, 12, "conv1") == wanted


@pytest.mark.parametrize(
    ("what", "data", "options", "kind", "sentence"),
    [
        ("filterz", None, {}, ConfigError, "did you mean 'filters'"),
        ("filters", "DATA", {}, ConfigError, "takes no DATA"),
        ("filters", None, {"stage": "conv1"}, ConfigError, "no option 'stage'"),
        ("ascent", None, {"stage": "conv9"}, ConfigError, "did you mean 'conv"),
        ("ascent", None, {"units": "5-"}, ConfigError, "numbers of filters"),
        ("ascent", None, {"units": "5000"}, ConfigError, "0 to 255"),
        ("ascent", None, {"steps": 0}, ConfigError, "at least 1"),
        ("ascent", None, {"lr": 0.0}, ConfigError, "above 0"),
        ("neighbors", None, {"images": "nobody.png"}, DataError, "none of the 120 images"),
        ("neighbors", None, {"metric": "l3"}, ConfigError, "cosine or l2"),
        ("clusters", None, {"clusters": 0}, ConfigError, "--clusters must be at least 1"),
        ("scores", None, {"compare": ["/nowhere"]}, RunError, "nowhere"),
        ("curves", None, {"compare": ["/nowhere"]}, RunError, "nowhere"),
        ("sweep", None, {"against": "num_cluster"}, ConfigError, "did you mean 'num_clusters'"),
        ("sweep", None, {}, ConfigError, "nothing to draw against num_clusters: it is 6 in the one run given"),
        ("confusions", None, {"labels": "missing.csv"}, UnlabeledError, "missing.csv"),
    ],
)
def test_mistakes_are_sentences(
    run: Run, tmp_path: Path, what: str, data: str | None, options: dict[str, Any], kind: type[Exception], sentence: str
):
    with pytest.raises(kind, match=sentence):
        run.visualize(what, data, out=tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_what_a_run_does_not_have_is_said(trained: Trained, tmp_path: Path):
    copy = tmp_path / "run"
    shutil.copytree(trained.run, copy)
    (copy / "scores.json").unlink(missing_ok=True)
    (copy / "metrics.jsonl").write_text("")
    run = unlabeled.load(copy, device="cpu")
    with pytest.raises(RunError, match="no scores yet"):
        run.visualize("scores")
    with pytest.raises(RunError, match="no finished epoch"):
        run.visualize("curves")
