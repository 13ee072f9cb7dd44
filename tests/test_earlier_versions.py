"""Runs of earlier versions open: every verb works on them, and they can be trained on.

`runs_of_earlier_versions/0.1.0.tar.xz` was made by the program of commit f28cf4e: 24 made pictures, two epochs, kNN scored;
its weights were then rounded to two values a tensor, so that it packs well, and its features and clusters made again.
"""

from __future__ import annotations

import csv
import json
import tarfile
from pathlib import Path

import pytest
import torch

import unlabeled
from unlabeled.config import Config
from unlabeled.run import Run

ARCHIVE = Path(__file__).parent / "runs_of_earlier_versions" / "0.1.0.tar.xz"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return unlabeled.load("run", device="cpu")


def test_features_clusters_and_neighbors_are_what_they_were(run: Run):
    torch.testing.assert_close(
        torch.nn.functional.normalize(run.embed("photos").features, dim=1), run.catalogue.features, atol=2e-3, rtol=0
    )
    with Path("run/clusters.csv").open() as file:
        kept = [int(row["cluster"]) for row in csv.DictReader(file)]
    assert [row.cluster for row in run.cluster()] == kept
    assert [row.cluster for row in run.cluster("photos")] == kept, "new images live in the space of the run"
    assert len({row.cluster for row in run.cluster(num_clusters=2)}) == 2
    hits = run.search("photos/kind0/00.png", k=1)
    assert hits["photos/kind0/00.png"][0].path == "kind0/00.png"
    assert run.config.shown_clusters == run.config.num_clusters


def test_scores_report_pictures_and_export(run: Run, tmp_path: Path):
    assert run.scores["knn"]["knn"] == json.loads(Path("run/scores.json").read_text())["knn"]["knn"]
    assert run.evaluate("knn", "photos")["test_images"] > 0
    assert run.report().stat().st_size > 50_000
    assert run.visualize("curves")
    assert run.export("safetensors", tmp_path / "w.safetensors").files


def test_training_goes_on(run: Run):
    config = Config.load(Path("run/config.json"))
    Path("run/config.json").write_text(config.replace(epochs=3).model_dump_json(indent=2))
    Path("run/features.safetensors").unlink()
    again = unlabeled.resume("run", device="cpu")
    assert [record["epoch"] for record in again.history] == [1, 2, 3]
    assert len(again.cluster()) == 24
