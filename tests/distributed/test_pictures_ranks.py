"""Two processes find the same images and climb to the same ones as one process."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

import unlabeled
from pictures import Trained
from ranks import verbs_on_two_ranks


def column(path: Path, name: str) -> list[str]:
    with path.open(newline="") as file:
        return [row[name] for row in csv.DictReader(file)]


def test_activations_and_ascent(trained: Trained, tmp_path: Path):
    two = tmp_path / "two"
    lines = [
        f"visualize activations {trained.run} {trained.new} --stage conv2 --out {two} --device cpu",
        f"visualize ascent {trained.run} --stage conv1 --units 0-2 --steps 2 --out {two} --device cpu",
    ]
    spoken = verbs_on_two_ranks(tmp_path, lines)
    assert spoken.count("ascent-conv1.png") == 1

    run, one = unlabeled.load(trained.run, device="cpu"), tmp_path / "one"
    run.visualize("activations", trained.new, out=one, stage="conv2")
    run.visualize("ascent", out=one, stage="conv1", units="0-2", steps=2)
    for name, value in (("activations-conv2", "activation"), ("ascent-conv1", "last_objective")):
        ours, theirs = (np.array(column(folder / f"{name}.csv", value), dtype=float) for folder in (two, one))
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    same = [a == b for a, b in zip(*(column(f / "activations-conv2.csv", "path") for f in (two, one)), strict=True)]
    assert np.mean(same) == pytest.approx(1, abs=0.02)  # equal but for rounding
