"""`--quick` opens a fixed number of images, evenly from every class, and says how many; one class is refused alike."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import unlabeled
from least_sizes import FEW, few_images
from pictures import SETTINGS, Trained, write_pictures
from unlabeled.data.source import Subset
from unlabeled.data.store import ImageStore
from unlabeled.errors import DataError
from unlabeled.evaluation.result_cache import Partial
from unlabeled.protocols import Request
from unlabeled.protocols.inputs import evenly_by_class
from unlabeled.protocols.neighbors import bank_rows
from unlabeled.run import Run
from unlabeled.runs.images import DataRecord

TRAIN, TEST, SVM = FEW


@pytest.fixture
def run(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    few_images(monkeypatch.setattr)
    return unlabeled.load(Path(shutil.copytree(trained.run, tmp_path / "run")), device="cpu")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Names of the images of every set that is opened."""
    seen, really = list[list[str]](), DataRecord.open

    def note(*asked: Any, **others: Any) -> ImageStore:
        store = really(*asked, **others)
        seen.append(store.names)
        return store

    monkeypatch.setattr(DataRecord, "open", note)
    return seen


def test_images_are_taken_evenly_from_every_class():
    ids = np.array([2, -1, 0, 1, 1, 0, 2, 2, 1, 0, -1, 0, 0, 0, 0, 0])
    taken = evenly_by_class(ids, 7)
    assert np.bincount(ids[taken]).tolist() == [4, 1, 2] and (np.diff(taken) > 0).all()
    assert evenly_by_class(ids, 99).tolist() == np.flatnonzero(ids >= 0).tolist()


@pytest.mark.parametrize("protocol", ["cliques", "edge-ratio", "nmi"])
def test_one_set(run: Run, trained: Trained, opened: list[list[str]], protocol: str):
    scores = run.evaluate(protocol, trained.photos, quick=True)
    assert scores["images"] == TRAIN == len(opened[0])
    assert run.evaluate(protocol, trained.photos)["images"] == 120


@pytest.mark.parametrize("protocol", ["knn", "linear", "svm"])
def test_two_sets(run: Run, trained: Trained, opened: list[list[str]], protocol: str):
    options = {} if protocol == "knn" else {"stages": "conv1"}
    scores = run.evaluate(protocol, trained.photos, test=trained.new, quick=True, **options)
    learnt = SVM if protocol == "svm" else TRAIN
    assert scores["train_images"] + scores.get("validation_images", 0) == learnt == len(opened[0])
    assert scores["test_images"] == TEST == len(opened[1])


def test_a_part_held_out_is_larger_where_few_may_be_learnt_from(
    run: Run, trained: Trained, tmp_path: Path, opened: list[list[str]]
):
    scores = run.evaluate("knn", trained.photos, quick=True)
    assert (scores["train_images"], scores["test_images"]) == (TRAIN, TEST) and len(opened[0]) == TRAIN + TEST
    # A set that is small already keeps a fifth of every class for the score.
    scores = run.evaluate("knn", write_pictures(tmp_path / "few", 12), quick=True)
    assert (scores["train_images"], scores["test_images"]) == (8, 4)


def test_rows_of_the_bank_are_found_by_name(trained: Trained, run: Run):
    asked = Request(trained.photos, "folder", None, True, Partial())
    store = run.record.open(Subset(run.record.source(), [3, 5, 99]))
    assert bank_rows(run, asked, store).tolist() == [3, 5, 99]
    with pytest.raises(DataError, match="memory bank holds the 120 training images"):
        # Its names are among those of the training images, but not all of these are there.
        bank_rows(run, replace(asked, data=trained.new), run.record.open(trained.new))


def test_the_bank_votes_with_some_of_its_rows(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    few_images(monkeypatch.setattr)
    settings: dict[str, Any] = SETTINGS | {"method": "instance", "embedding_dims": 16, "lr": 0.01, "epochs": 1}
    run = unlabeled.train(trained.photos, tmp_path / "run", cache=trained.cache, **settings)
    assert run.evaluate("knn", space="bank", quick=True)["train_images"] == TRAIN
    scores = run.evaluate("knn-bank", trained.photos, test=trained.new, quick=True)
    assert (scores["train_images"], scores["test_images"]) == (120, TEST)


@pytest.mark.parametrize(
    "protocol", ["edge-ratio", "knn", "linear", "low-shot", "mlp", "nmi", "semi-supervised", "svm"]
)
def test_one_class_is_refused_by_all_alike(run: Run, trained: Trained, tmp_path: Path, protocol: str):
    table = tmp_path / "one.csv"
    table.write_text("path,label\n" + "".join(f"{name},same\n" for name in run.names))
    with pytest.raises(DataError, match=r"at least 2 classes are needed, those of .+ have 1"):
        run.evaluate(protocol, trained.photos, labels=str(table), quick=True)
