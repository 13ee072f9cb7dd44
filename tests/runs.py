"""Helpers for tests that train whole runs: when two are the same, and how to stop one often."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import unlabeled
from unlabeled import checkpoint, signals
from unlabeled.errors import Interrupted
from unlabeled.journal import read

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
}


def final_tensors(run: Path) -> dict[str, torch.Tensor]:
    """Everything in the last checkpoint and in the catalogue, by name."""
    found = checkpoint.load(run / "checkpoints")
    assert found is not None
    return found.tensors | {f"features.{k}": v for k, v in load_file(run / "features.safetensors").items()}


def assert_same_run(run: Path, other: Path) -> None:
    """Weights, tables, clusters and journal are equal bit for bit; only times may differ."""
    ours, theirs = final_tensors(run), final_tensors(other)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name
    assert (run / "clusters.csv").read_text() == (other / "clusters.csv").read_text()
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
