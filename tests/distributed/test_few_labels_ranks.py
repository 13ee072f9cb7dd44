"""Few labels on two gloo processes: the same draws, and the scores of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import unlabeled
from pictures import Trained


def test_two_processes_give_what_one_gives(trained: Trained, tmp_path: Path):
    asked = ["evaluate", "low-shot", str(trained.run), str(trained.photos), "--test", str(trained.new), "--quick"]
    asked += ["--shots", "4", "--draws", "2", "--json", str(tmp_path / "two.json"), "--device", "cpu"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    line = [*launch, "-m", "unlabeled", *asked]
    result = subprocess.run(line, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("test_images") == 1

    one = unlabeled.load(trained.run, device="cpu").evaluate(
        "low-shot", trained.photos, test=trained.new, quick=True, shots="4", draws=2
    )
    two = json.loads((tmp_path / "two.json").read_text())
    assert two["shots"]["4"]["images"] == one["shots"]["4"]["images"] == 16
    # 40 test images: one that lies on the edge of two classes may change sides.
    for who in ("trained", "scratch"):
        ours, theirs = (scores["spread"]["4"][who]["top1"]["values"] for scores in (one, two))
        assert theirs == pytest.approx(ours, abs=0.051), who
