"""`evaluate all` with every protocol at work, on each layout of data: VOC, Oxford, class folders and a table of labels."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import unlabeled
from least_sizes import FEW, shrink
from oxford_pictures import write_oxford
from pictures import SETTINGS, Trained
from unlabeled.report.comparison import pictures_of
from unlabeled.run import Run
from voc_pictures import COLOURS, write_devkit

CLASSES = {"edge-ratio", "knn", "nmi", "linear", "mlp", "svm", "low-shot", "semi-supervised"}
VOC = {"voc-classification", "voc-detection", "voc-segmentation"}


@pytest.fixture(autouse=True)
def _least(monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest sizes at which each protocol still does all it does."""
    shrink(monkeypatch.setattr)


@pytest.fixture
def run(trained: Trained, tmp_path: Path) -> Run:
    shutil.copytree(trained.run, tmp_path / "ours")
    return unlabeled.load(tmp_path / "ours", device="cpu")


@pytest.fixture(scope="module")
def supervised(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network on the same pictures, told their kinds."""
    out = tmp_path_factory.mktemp("yardstick") / "supervised"
    settings: dict[str, Any] = SETTINGS | {"method": "supervised", "epochs": 1}
    unlabeled.train(trained.photos, out, labels="folder", cache=trained.cache, **settings)
    return out


def rows_of(found: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Rows of the table by protocol."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in found["rows"]:
        rows.setdefault(row["protocol"], []).append(row)
    return rows


def test_a_devkit_beside_the_untrained_and_a_supervised_network(run: Run, supervised: Path, tmp_path: Path):
    devkit = write_devkit(tmp_path / "devkit", train=8, test=4)
    found = run.evaluate("all", devkit, quick=True, compare=supervised)
    rows = rows_of(found)
    assert set(rows) == {"cliques", *VOC}
    for name in VOC:
        (row,) = rows[name]
        assert all(score["trained"] is not None and score["untrained"] is not None for score in row["scores"]), name
        assert len(row["scores"]) == 2
    # The masks that lie beside the pictures are no pictures.
    assert pictures_of(devkit) == devkit / "VOC2007" / "JPEGImages"
    assert pictures_of(tmp_path) == tmp_path
    assert {left["protocol"] for left in found["left_out"]} == CLASSES | {"knn-bank", "retrieval"}
    text = (run.path / "comparison.md").read_text()
    assert "| voc-detection | mean AP, 11 points |" in text and "supervised" in text


def test_a_devkit_with_a_table_of_classes(run: Run, tmp_path: Path):
    devkit = write_devkit(tmp_path / "devkit", train=16, test=4)
    table = tmp_path / "classes.csv"
    pictures = sorted((devkit / "VOC2007" / "JPEGImages").iterdir())
    lines = [f"{file.name},{list(COLOURS)[number % 3]}" for number, file in enumerate(pictures)]
    table.write_text("\n".join(["path,label", *lines]))
    found = run.evaluate("all", devkit, labels=str(table), quick=True)
    assert set(rows_of(found)) == {"cliques", *VOC, *CLASSES}
    assert found["scores"]["ours"]["knn"]["scores"]["test_images"] > 2


def test_the_layout_of_oxford(run: Run, tmp_path: Path):
    oxford = write_oxford(tmp_path / "oxford")
    shutil.move(str(oxford / "other"), tmp_path / "other")
    found = run.evaluate("all", oxford, pca=tmp_path / "other", quick=True)
    rows = rows_of(found)
    assert set(rows) == {"cliques", "retrieval"}
    scores = found["scores"]["ours"]["retrieval"]["scores"]
    assert scores["queries"] == 3 and scores["gallery_images"] == 24 and scores["pca_images"] == 12
    # Without --pca the whitening is learned on what the run was trained on.
    again = run.evaluate("all", oxford / "images", ground_truth=oxford / "gt", quick=True)
    assert again["scores"]["ours"]["retrieval"]["scores"]["pca_images"] == 120


@pytest.mark.parametrize("labels", ["folder", "table"])
def test_class_folders_and_a_table_of_labels(run: Run, trained: Trained, tmp_path: Path, labels: str):
    data, test = trained.photos, trained.new
    if labels == "table":
        # Both sets in one table beside them, by paths that only together are unique.
        spec, lines = tmp_path / "kinds.csv", ["path,label"]
        for folder in (data, test):
            shutil.copytree(folder, tmp_path / folder.name)
            lines += [f"{folder.name}/{file.relative_to(folder)},{file.parent.name}" for file in folder.rglob("*.png")]
        spec.write_text("\n".join(lines))
        data, test, labels = tmp_path / data.name, tmp_path / test.name, str(spec)
    found = run.evaluate("all", data, test=test, labels=labels, quick=True, json=tmp_path / "all.json")
    assert set(rows_of(found)) == {"cliques", *CLASSES}
    scores = found["scores"]["ours"]
    assert (scores["knn"]["scores"]["train_images"], scores["knn"]["scores"]["test_images"]) == FEW[:2]
    assert scores["low-shot"]["scores"]["train_images"] == 120
    assert {left["protocol"] for left in found["left_out"]} == {"knn-bank", "retrieval", *VOC}
    assert json.loads((tmp_path / "all.json").read_text())["protocol"] == "all"


@pytest.mark.parametrize("protocol", sorted(VOC))
def test_random_ours_and_supervised_in_one_command(
    run: Run, supervised: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], protocol: str
):
    from unlabeled import cli

    devkit, file = write_devkit(tmp_path / "devkit", train=8, test=4), tmp_path / "scores.json"
    line = ["evaluate", protocol, run.path, devkit, "--split", "val", "--quick", "--json", file, "--device", "cpu"]
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in [*line, "--compare", supervised]])
    assert not ended.value.code
    found = json.loads(file.read_text())
    ((name, yardstick),) = found["compared"].items()
    headline = "map" if protocol == "voc-classification" else "map_11_point" if "detection" in protocol else "mean_iou"
    assert Path(name) == supervised and all(0 <= one[headline] <= 1 for one in (found, yardstick))
    # The same untrained network, on the same pictures.
    assert yardstick["untrained"] == found["untrained"] and yardstick["test_images"] == found["test_images"]
    printed = capsys.readouterr().out
    assert "\ncompared" in printed and "untrained" in printed


def test_one_run_to_compare_with_needs_no_list(run: Run, supervised: Path, trained: Trained):
    for other in (supervised, str(supervised)):
        assert list(run.evaluate("nmi", trained.photos, compare=other)["compared"]) == [str(supervised)]


@pytest.fixture
def segmented(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What segmentation trains, in order."""
    from unlabeled.evaluation import voc_segmentation

    seen, really = list[str](), voc_segmentation.fit

    def fit(*arguments: Any, title: str, **others: Any) -> Any:
        seen.append(title)
        return really(*arguments, title=title, **others)

    monkeypatch.setattr(voc_segmentation, "fit", fit)
    return seen


def test_runs_that_began_alike_train_the_untrained_network_once(
    run: Run, supervised: Path, tmp_path: Path, segmented: list[str]
):
    devkit, once = write_devkit(tmp_path / "devkit", train=8, test=4), ["trained, fc", "trained, fc", "untrained, fc"]
    alone = unlabeled.load(shutil.copytree(supervised, tmp_path / "alone"), device="cpu")
    wanted = alone.evaluate("voc-segmentation", devkit, quick=True)
    segmented.clear()
    (beside,) = run.evaluate("voc-segmentation", devkit, quick=True, compare=supervised)["compared"].values()
    assert sorted(segmented) == once
    assert beside["untrained"] == wanted["untrained"] and beside["mean_iou"] == wanted["mean_iou"]

    segmented.clear()
    found = run.evaluate("all", devkit, quick=True, compare=supervised)
    assert sorted(segmented) == once
    scores = found["scores"]["supervised"]["voc-segmentation"]["scores"]
    assert (scores["mean_iou"], scores["untrained"]) == (wanted["mean_iou"], wanted["untrained"])
    # Nothing of it stays, so that no later call is answered from a memory of pictures that have changed.
    assert not run.folder.evaluation.exists()


@pytest.mark.parametrize("change", [{"seed": 1}, {"resize": 48}, {"std": [0.2, 0.2, 0.2]}])
def test_runs_that_began_otherwise_train_their_own(
    run: Run, supervised: Path, tmp_path: Path, segmented: list[str], change: dict[str, Any]
):
    devkit, other = write_devkit(tmp_path / "devkit", train=8, test=4), shutil.copytree(supervised, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | change))
    run.evaluate("voc-segmentation", devkit, quick=True, compare=other)
    assert sorted(segmented) == ["trained, fc"] * 2 + ["untrained, fc"] * 2
