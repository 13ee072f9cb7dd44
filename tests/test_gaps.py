"""Pictures of differences between stored scores: the gain of fine-tuning, and the gap to another run stage by stage."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import unlabeled
from pictures import Trained
from unlabeled.errors import ConfigError, RunError
from unlabeled.protocols.voc import by_layers
from unlabeled.run import Run


def made(trained: Trained, folder: Path, scores: dict[str, Any]) -> Run:
    shutil.copytree(trained.run, folder)
    (folder / "scores.json").write_text(json.dumps(scores))
    return unlabeled.load(folder, device="cpu")


def table(paths: list[Path]) -> list[dict[str, str]]:
    for path in paths:
        if path.suffix == ".svg":
            ElementTree.parse(path)
    with next(path for path in paths if path.suffix == ".csv").open(newline="") as file:
        return list(csv.DictReader(file))


def voc(fc: float, tuned: float, pictures: int = 4952) -> dict[str, Any]:
    same = {"split": "test", "train_images": 5011, "test_images": pictures}
    layers = {"fc": {"score": fc, "untrained": 0.332, **same}, "all": {"score": tuned, "untrained": 0.57, **same}}
    return {"map": tuned, "untrained": 0.57, "layers": layers}


def test_the_gain_of_fine_tuning_is_all_minus_last_layers(trained: Trained, tmp_path: Path) -> None:
    run = made(trained, tmp_path / "ours", {"voc-classification": voc(0.72, 0.737)})
    other = made(trained, tmp_path / "labels", {"voc-classification": voc(0.789, 0.799)})
    elsewhere = made(trained, tmp_path / "few", {"voc-classification": voc(0.5, 0.9, pictures=40)})
    paths = run.visualize("gain", out=tmp_path / "out", compare=[other.path, elsewhere.path])
    rows = table(paths)
    # Published: DeepCluster 1.7, a random network 23.8, labels 1.0; pictures of another number are not compared.
    assert {row["network"]: round(100 * float(row["gain"]), 1) for row in rows} == {
        "trained": 1.7,
        "untrained": 23.8,
        "labels": 1.0,
    }
    assert "trained +1.7, untrained +23.8, labels +1.0" in " ".join(paths[0].read_text().split())
    with pytest.raises(RunError, match="--train all"):
        made(trained, tmp_path / "bare", {"knn": {"knn": 0.5}}).visualize("gain", out=tmp_path / "out")


def test_the_gap_is_the_other_run_minus_this_one(trained: Trained, tmp_path: Path) -> None:
    def stages(**found: float) -> dict[str, Any]:
        return {"linear": {"stages": {name: {"top1": score, "untrained": 0.1} for name, score in found.items()}}}

    run = made(trained, tmp_path / "ours", stages(conv1=0.2, conv2=0.3, conv5=0.36))
    other = made(trained, tmp_path / "labels", stages(conv1=0.19, conv2=0.34, conv5=0.483))
    rows = table(run.visualize("gap", out=tmp_path / "out", compare=[other.path]))
    assert [(row["stage"], round(100 * float(row["gap"]), 1)) for row in rows] == [
        ("conv1", -1.0),
        ("conv2", 4.0),
        ("conv5", 12.3),
    ]
    with pytest.raises(ConfigError, match="--compare OTHER_RUN"):
        run.visualize("gap", out=tmp_path / "out")
    with pytest.raises(RunError, match="share no scores by stage"):
        run.visualize("gap", out=tmp_path / "out", compare=[made(trained, tmp_path / "bare", {}).path])


def test_scores_of_both_kinds_stay_beside_each_other(trained: Trained, tmp_path: Path) -> None:
    def scores(score: float, test_images: int = 40) -> dict[str, Any]:
        return {"map": score, "untrained": 0.1, "train_images": 50, "test_images": test_images}

    first = by_layers(made(trained, tmp_path / "a", {}), "voc-classification", "fc", "test", scores(0.5), "map")
    run = made(trained, tmp_path / "b", {"voc-classification": first})
    second = by_layers(run, "voc-classification", "all", "test", scores(0.6), "map")
    assert {name: row["score"] for name, row in second["layers"].items()} == {"fc": 0.5, "all": 0.6}
    # Of another split or other pictures: the earlier one is left out.
    assert list(by_layers(run, "voc-classification", "all", "val", scores(0.6), "map")["layers"]) == ["all"]
    assert list(by_layers(run, "voc-classification", "all", "test", scores(0.6, 39), "map")["layers"]) == ["all"]
