"""Semi-supervised: the labelled share, the schedule of the paper, and that good features help most with few labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import unlabeled
from few_labels import contest
from pictures import Trained
from unlabeled.errors import ConfigError
from unlabeled.evaluation.few_labels import draw
from unlabeled.evaluation.fine_tuning import FineTuning
from unlabeled.evaluation.semi_supervised import PAPER, SemiSupervisedProtocol, batch_for, class_counts


def test_the_share_of_every_class():
    labels = torch.tensor([0] * 200 + [1] * 100 + [2] * 4 + [-1] * 7)
    assert class_counts(labels, 0.04) == {0: 8, 1: 4, 2: 1}  # one at least
    drawn = draw(labels, torch.arange(len(labels)), class_counts(labels, 0.04), 0, 0)
    assert torch.bincount(labels[drawn]).tolist() == [8, 4, 1]
    # More labels are the same ones and others.
    assert set(drawn.tolist()) <= set(draw(labels, torch.arange(len(labels)), class_counts(labels, 0.1), 0, 0).tolist())


def test_the_schedule_is_the_papers():
    assert (PAPER.epochs, PAPER.momentum, PAPER.weight_decay) == (70, 0.9, 1e-4)
    steps = 70 * 10
    rates = [PAPER.lr_at(epoch * 10, steps) for epoch in range(70)]
    assert rates == pytest.approx([0.01] * 30 + [0.001] * 30 + [0.0001] * 10)


def test_batches_become_smaller_before_an_epoch_is_a_step():
    assert [batch_for(count, 64) for count in (10, 80, 400, 5000)] == [8, 10, 50, 64]


def test_good_features_beat_scratch(tmp_path: Path):
    torch.set_num_threads(1)
    made = contest(tmp_path)
    how = FineTuning(epochs=4, batch_size=16)
    scores = dict(SemiSupervisedProtocol(made, (0.1, 0.4), draws=2, how=how).run())
    assert list(scores["fractions"]) == ["10%", "40%"]
    row = scores["fractions"]["10%"]
    assert row["images"] == 4 and row["top1"] == 1.0 and row["scratch"] < 0.9
    capped = SemiSupervisedProtocol(made, (0.4,), draws=1, how=replace(how, epochs=70), most_views=40)
    assert capped.table(0.4, "40%")["epochs"] == 2


def test_from_a_run(trained: Trained):
    run = unlabeled.load(trained.run, device="cpu")
    scores = run.evaluate("semi-supervised", trained.photos, quick=True, fractions=[0.05], draws=1)
    assert scores["fractions"]["5%"]["images"] == 4 and scores["train_images"] == 96 and scores["test_images"] == 24
    with pytest.raises(ConfigError, match=r"shares between 0 and 1, got 20; 0\.01 is one per cent"):
        run.evaluate("semi-supervised", trained.photos, fractions="1,20")
