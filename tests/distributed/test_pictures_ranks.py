"""Two processes find the same images and climb to the same ones as one process."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import unlabeled
from pictures import Trained

SCRIPT = """
import sys
from unlabeled import cli

for line in open(sys.argv[1]).read().splitlines():
    try:
        cli.main(line.split())
    except SystemExit as stop:
        if stop.code:
            raise
"""


def column(path: Path, name: str) -> list[str]:
    with path.open(newline="") as file:
        return [row[name] for row in csv.DictReader(file)]


def test_activations_and_ascent(trained: Trained, tmp_path: Path):
    two = tmp_path / "two"
    lines = [
        f"visualize activations {trained.run} {trained.new} --stage conv2 --out {two} --device cpu",
        f"visualize ascent {trained.run} --stage conv1 --units 0-2 --steps 2 --out {two} --device cpu",
    ]
    (tmp_path / "lines").write_text("\n".join(lines))
    (tmp_path / "verbs.py").write_text(SCRIPT)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    line = [*launch, str(tmp_path / "verbs.py"), str(tmp_path / "lines")]
    result = subprocess.run(line, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("ascent-conv1.png") == 1

    run, one = unlabeled.load(trained.run, device="cpu"), tmp_path / "one"
    run.visualize("activations", trained.new, out=one, stage="conv2")
    run.visualize("ascent", out=one, stage="conv1", units="0-2", steps=2)
    for name, value in (("activations-conv2", "activation"), ("ascent-conv1", "last_objective")):
        ours, theirs = (np.array(column(folder / f"{name}.csv", value), dtype=float) for folder in (two, one))
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    same = [a == b for a, b in zip(*(column(f / "activations-conv2.csv", "path") for f in (two, one)), strict=True)]
    assert np.mean(same) == pytest.approx(1, abs=0.02)  # equal but for rounding
