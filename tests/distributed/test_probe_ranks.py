"""Two processes train the same probes as one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import unlabeled
from pictures import Trained
from ranks import verbs_on_two_ranks


def test_two_processes_probe_as_one(trained: Trained, tmp_path: Path):
    run = Path(shutil.copytree(trained.run, tmp_path / "run"))
    common = f"{run} {trained.photos} --test {trained.new}"
    lines = [
        f"evaluate linear {common} --stages conv2,conv5 --epochs 2 --weight-decay 0.0001 --json {tmp_path / 'linear.json'}",
        f"evaluate mlp {common} --epochs 1 --width 16 --quick --json {tmp_path / 'mlp.json'}",
        f"evaluate svm {common} --stages feature --json {tmp_path / 'svm.json'}",
    ]
    verbs_on_two_ranks(tmp_path, lines)
    one = unlabeled.load(run)
    linear = one.evaluate("linear", trained.photos, test=trained.new, stages="conv2,conv5", epochs=2, weight_decay=1e-4)
    together = json.loads((tmp_path / "linear.json").read_text())
    for stage, scores in linear["stages"].items():
        assert together["stages"][stage]["lr"] == scores["lr"]
        assert together["stages"][stage]["top1"] == pytest.approx(scores["top1"], abs=0.051)
    svm = one.evaluate("svm", trained.photos, test=trained.new, stages="feature")
    assert json.loads((tmp_path / "svm.json").read_text())["top1"] == pytest.approx(svm["top1"], abs=0.026)
    assert 0 <= json.loads((tmp_path / "mlp.json").read_text())["top1"] <= 1
