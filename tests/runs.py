"""Helpers for tests that train whole runs: when two are the same, and how to stop one often."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import unlabeled
from unlabeled.data.photographs import demo_set
from unlabeled.errors import Interrupted
from unlabeled.evaluation.knn import knn_accuracy, split
from unlabeled.run import Run
from unlabeled.runs import checkpoint
from unlabeled.runs.journal import read
from unlabeled.training import signals

SMALL: dict[str, Any] = {
    "backbone": "alexnet_small",
    "image_size": 32,
    "resize": 32,
    "store_size": 32,
    "num_clusters": 6,
    "pca_dims": 16,
    "batch_size": 24,
    "epochs": 3,
    "reassign_every": 1,
    "precision": "float32",
    "evaluate_every": 0,
    # The recipe's head is fast enough to make a run of a dozen steps chaotic.
    "head_lr": 0.05,
}


def final_tensors(run: Path) -> dict[str, torch.Tensor]:
    """Everything in the last checkpoint and in the catalogue, by name."""
    found = checkpoint.load(run / "checkpoints")
    assert found is not None
    return found.tensors | {f"features.{k}": v for k, v in load_file(run / "features.safetensors").items()}


def assert_same_run(run: Path, other: Path) -> None:
    """Weights, tables, clusters of every epoch and journal are equal bit for bit; only times may differ."""
    ours, theirs = final_tensors(run), final_tensors(other)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name
    assert (run / "clusters.csv").read_text() == (other / "clusters.csv").read_text()
    kept = [{path.name: path.read_bytes() for path in (p / "assignments").glob("epoch-*.npy")} for p in (run, other)]
    assert kept[0] == kept[1]
    timings = ("seconds", "images_per_second")
    journals = [
        [{k: v for k, v in r.items() if k not in timings} for r in read(p / "metrics.jsonl")] for p in (run, other)
    ]
    assert journals[0] == journals[1]


def train_with_stops(
    data: Path, out: Path, steps: int, patch: pytest.MonkeyPatch, settings: dict[str, Any], labels: str | None = None
) -> None:
    """Train, asked to stop after every few steps, and resumed until the run ends; it must be stopped at least once."""

    class StopAfter(signals.Stop):
        def __init__(self) -> None:
            super().__init__()
            self.remaining = steps

        def asked(self) -> bool:
            self.remaining -= 1
            return self.remaining < 0

    patch.setattr(signals, "Stop", StopAfter)
    with pytest.raises(Interrupted):
        unlabeled.train(data, out, labels=labels, cache=out.parent / "cache", **settings)
    for _ in range(20):
        try:
            unlabeled.resume(out)
        except Interrupted:
            continue
        return
    raise AssertionError("the run never came to its end")


def photograph_crops(folder: Path, per_photo: int = 12) -> tuple[Path, str]:
    """A few real images, 32 pixels, and a file with their labels: the photograph each was cut from."""
    crops = demo_set(32, train_per_photo=per_photo, test_per_photo=1)
    data, labels = folder / "crops.npy", folder / "labels.npy"
    np.save(data, crops.train)
    np.save(labels, crops.train_labels)
    return data, str(labels)


def knn_gain(run: Run, labels: str) -> float:
    """kNN accuracy on a held-out half, after training minus before."""
    ids = np.load(labels)
    known = torch.from_numpy(ids)
    halves = [split(ids, 0.5, seed) for seed in range(4)]
    store = run.record.open(run.record.data)

    def score(features: torch.Tensor) -> float:
        rounds = [knn_accuracy(features[a], known[a], features[b], known[b], k=10) for a, b in halves]
        return sum(rounds) / len(rounds)

    return score(run.features_of(store)) - score(run.features_of(store, run.untrained_backbone()))
