"""VOC protocols under torchrun with two gloo processes give what one process gives."""

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
from voc_pictures import write_devkit

# Both verbs in one start of two interpreters: starting them takes longer than the work.
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


def test_two_processes_give_what_one_gives(trained: Trained, tmp_path: Path):
    devkit = write_devkit(tmp_path / "devkit", train=8, test=4)
    shutil.copytree(trained.run, tmp_path / "run")
    options = {
        "voc-classification": {"train": "all", "steps": 4, "split": "val"},
        # Its dropout masks are not the same on two processes, so only a step or two can be compared, and roughly.
        "voc-segmentation": {"train": "all", "batch_size": 2, "steps": 2, "lr": 1e-4},
    }
    lines: list[str] = []
    for protocol, given in options.items():
        text = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in given.items())
        lines.append(f"evaluate {protocol} {tmp_path / 'run'} {devkit} --json {tmp_path / protocol}.json {text}")
    (tmp_path / "lines").write_text("\n".join(lines))
    (tmp_path / "verbs.py").write_text(SCRIPT)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    line = [*launch, str(tmp_path / "verbs.py"), str(tmp_path / "lines")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(line, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr
    run = unlabeled.load(tmp_path / "run")
    for protocol, given in options.items():
        two = json.loads((tmp_path / f"{protocol}.json").read_text())
        one = run.evaluate(protocol, devkit, **given)
        for name, value in one.items():
            if isinstance(value, float):
                assert two[name] == pytest.approx(value, abs=0.02), name
            elif isinstance(value, int):
                assert two[name] == value
