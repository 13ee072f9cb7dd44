"""The linear SVM against scikit-learn's own use of it, and per-stage kNN through the verb."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.svm import LinearSVC

import unlabeled
from pictures import Trained
from unlabeled.errors import DataError
from unlabeled.evaluation.result_cache import Partial
from unlabeled.evaluation.svm import SvmProbe, compact


def rows(count: int, classes: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    return torch.randn(count, 8, generator=random) + 3 * torch.nn.functional.one_hot(labels, 8), labels


@pytest.mark.parametrize("classes", [2, 7])
def test_scores_are_scikit_learns(classes: int, tmp_path: Path):
    train, labels = rows(84, classes, 0)
    test, wanted = rows(42, classes, 1)
    fold = (torch.arange(60), torch.arange(60, 84))
    probe = SvmProbe(
        {"a": train, "b": 1000 * train},
        labels,
        {"a": test, "b": 1000 * test},
        wanted,
        classes,
        [fold],
        partial=Partial(tmp_path),
    )
    scores = probe.scores()
    # What a stage's numbers are multiplied by changes nothing.
    assert scores["a"] == scores["b"]
    scale = float(train.double().square().sum(1).mean().sqrt())
    plain = LinearSVC(C=scores["a"].C, dual="auto", max_iter=5000).fit(train.double() / scale, labels)
    assert scores["a"].top1 == pytest.approx(plain.score(test.double() / scale, wanted), abs=0.03)
    assert (scores["a"].top5 is None) == (classes == 2)
    assert probe.scores() == scores  # from what was kept
    assert dict(probe.run())["a/top1"] == scores["a"].top1


def test_more_numbers_than_rows_are_no_loss():
    train, labels = rows(40, 4, 0)
    test, _ = rows(20, 4, 1)
    wide = torch.randn(8, 90, generator=torch.Generator().manual_seed(2)).double() / 9
    noise = torch.randn(60, 90, generator=torch.Generator().manual_seed(3)).double() / 5
    own, asked = train.double() @ wide + noise[:40], test.double() @ wide + noise[40:]
    few, others = compact(own, asked)
    assert few.shape == (40, 40)
    plain = LinearSVC(max_iter=5000, tol=1e-8).fit(own, labels).decision_function(asked)
    np.testing.assert_allclose(
        LinearSVC(max_iter=5000, tol=1e-8).fit(few, labels).decision_function(others), plain, atol=1e-3
    )


def test_a_class_without_a_training_row_is_never_chosen():
    train, labels = rows(30, 3, 0)
    probe = SvmProbe({"a": train}, labels, {"a": train}, labels, 9, [(torch.arange(20), torch.arange(20, 30))])
    decided = probe._decided(train.numpy(), labels.numpy(), train.numpy(), 1.0)
    assert decided.shape == (30, 9) and np.isneginf(decided[:, 3:]).all()


def test_verbs_on_pictures(trained: Trained, tmp_path: Path):
    run = unlabeled.load(Path(shutil.copytree(trained.run, tmp_path / "run")))
    found = run.evaluate("svm", trained.photos, test=trained.new, stages="conv2,feature", quick=True)
    assert list(found["stages"]) == ["conv2", "feature"] and found["top1"] > 0.4
    folded = run.evaluate("svm", trained.photos, test=trained.new, stages="feature", folds=3)
    assert folded["stages"]["feature"]["C"] in (0.01, 0.1, 1.0, 10.0)
    votes = run.evaluate("knn", trained.photos, test=trained.new, stages="conv1,feature", neighbors=5)
    assert votes["stages"]["feature"]["knn"] == pytest.approx(votes["knn"])
    assert set(votes["stages"]["conv1"]) == {"knn", "nearest", "untrained"}


@pytest.mark.parametrize(
    ("labels", "folds"),
    [
        # A fold without a second class to learn from is left out; one row to choose on is still a row.
        ([0] * 10 + [1], [(range(10), range(10, 11)), ((*range(6), 10), range(6, 10))]),
        ([0, 1] * 5 + [0], [(range(10), range(10, 11))]),
    ],
    ids=["one class in a fold", "one row to choose on"],
)
def test_least_folds(labels: list[int], folds: list[tuple[Sequence[int], Sequence[int]]]):
    train, wanted = rows(11, 2, 0)[0], torch.tensor(labels)
    made = [(torch.tensor(list(own)), torch.tensor(list(chosen))) for own, chosen in folds]
    scores = SvmProbe({"a": train}, wanted, {"a": train}, wanted, 2, made).scores()
    assert scores == SvmProbe({"a": train}, wanted, {"a": train}, wanted, 2, made[-1:]).scores()


def test_one_class_is_refused_on_every_rank_alike(monkeypatch: pytest.MonkeyPatch):
    # Not the rank that computes: it must not wait for one that has complained.
    monkeypatch.setattr("unlabeled.evaluation.svm.is_main", lambda: False)
    train, labels = rows(12, 2, 0)[0], torch.zeros(12, dtype=torch.int64)
    probe = SvmProbe({"a": train}, labels, {"a": train}, labels, 1, [(torch.arange(8), torch.arange(8, 12))])
    with pytest.raises(DataError, match="12 training images are of 1 class; label more"):
        probe.scores()
