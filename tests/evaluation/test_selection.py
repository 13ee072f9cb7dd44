"""Folds: every row scored once, classes in the same shares, the mean by hand, and a stopped choice."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from unlabeled.errors import ConfigError, DataError
from unlabeled.evaluation.result_cache import Partial
from unlabeled.evaluation.splits import cross_validate, evenly, folds_of

LABELS = torch.cat([torch.arange(60) % 3, torch.full((5,), -1)])


@pytest.mark.parametrize("folds", [2, 4, 7])
def test_every_labelled_row_is_scored_once(folds: int):
    rows = torch.arange(2, 65)
    cuts = folds_of(LABELS, rows, folds, seed=3)
    scored = torch.cat([test for _, test in cuts])
    assert sorted(scored.tolist()) == list(range(2, 60))
    for train, test in cuts:
        assert not set(train.tolist()) & set(test.tolist()) and len(train) + len(test) == 58
        counts = torch.bincount(LABELS[test], minlength=3)
        assert counts.max() - counts.min() <= 1
    again = folds_of(LABELS, rows, folds, seed=3)
    assert all(torch.equal(a[1], b[1]) for a, b in zip(cuts, again, strict=True))
    assert not torch.equal(folds_of(LABELS, rows, folds, seed=4)[0][1], cuts[0][1])


def test_one_fold_is_a_held_out_fifth():
    ((train, test),) = folds_of(LABELS, torch.arange(60), 1, seed=0)
    assert len(test) == 12 and sorted(torch.cat([train, test]).tolist()) == list(range(60))


def test_what_cannot_be_cut_is_said():
    with pytest.raises(ConfigError, match="at least 1"):
        folds_of(LABELS, torch.arange(60), 0, seed=0)
    with pytest.raises(DataError, match="at least 2 labelled"):
        folds_of(LABELS, torch.tensor([0, 1, 2, 64]), 2, seed=0)


def test_mean_over_folds_and_what_is_kept(tmp_path: Path):
    cuts = folds_of(LABELS, torch.arange(60), 3, seed=0)
    calls: list[int] = []

    def score(fold: int, train: torch.Tensor, test: torch.Tensor) -> torch.Tensor:
        calls.append(fold)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return torch.tensor([[float(fold), float(len(train))]])

    partial = Partial(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        cross_validate(cuts, score, partial=partial)
    assert cross_validate(cuts, score, partial=partial).tolist() == [[1.0, 40.0]]
    assert calls == [0, 1, 2, 2]


def test_evenly():
    assert evenly(torch.arange(10), 20).tolist() == list(range(10))
    assert evenly(torch.arange(11), 3).tolist() == [0, 5, 10]
