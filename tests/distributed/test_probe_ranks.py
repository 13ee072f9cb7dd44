"""Two processes train the same probes as one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

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


def test_two_processes_probe_as_one(trained: Trained, tmp_path: Path):
    run = Path(shutil.copytree(trained.run, tmp_path / "run"))
    common = f"{run} {trained.photos} --test {trained.new}"
    lines = [
        f"evaluate linear {common} --stages conv2,conv5 --epochs 2 --weight-decay 0.0001 --json {tmp_path / 'linear.json'}",
        f"evaluate mlp {common} --epochs 1 --width 16 --quick --json {tmp_path / 'mlp.json'}",
        f"evaluate svm {common} --stages output --json {tmp_path / 'svm.json'}",
    ]
    (tmp_path / "lines").write_text("\n".join(lines))
    (tmp_path / "verbs.py").write_text(SCRIPT)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    line = [*launch, str(tmp_path / "verbs.py"), str(tmp_path / "lines")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(line, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert result.returncode == 0, result.stderr
    one = unlabeled.load(run)
    linear = one.evaluate("linear", trained.photos, test=trained.new, stages="conv2,conv5", epochs=2, weight_decay=1e-4)
    together = json.loads((tmp_path / "linear.json").read_text())
    for stage, scores in linear["stages"].items():
        assert together["stages"][stage]["lr"] == scores["lr"]
        assert together["stages"][stage]["top1"] == pytest.approx(scores["top1"], abs=0.051)
    svm = one.evaluate("svm", trained.photos, test=trained.new, stages="output")
    assert json.loads((tmp_path / "svm.json").read_text())["top1"] == pytest.approx(svm["top1"], abs=0.026)
    assert 0 <= json.loads((tmp_path / "mlp.json").read_text())["top1"] <= 1
