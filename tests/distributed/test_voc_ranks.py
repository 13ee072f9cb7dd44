"""VOC protocols under torchrun with two gloo processes give what one process gives."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import unlabeled
from pictures import Trained
from ranks import verbs_on_two_ranks
from voc_pictures import write_devkit


def test_two_processes_give_what_one_gives(trained: Trained, tmp_path: Path):
    devkit = write_devkit(tmp_path / "devkit", train=8, test=4)
    shutil.copytree(trained.run, tmp_path / "run")
    options = {
        # Dropout masks are not the same on two processes, so only a step or two can be compared, and roughly.
        "voc-classification": {"train": "all", "steps": 1, "lr": 1e-5, "split": "val"},
        "voc-segmentation": {"train": "all", "batch_size": 2, "steps": 2, "lr": 1e-4},
    }
    lines: list[str] = []
    for protocol, given in options.items():
        text = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in given.items())
        lines.append(f"evaluate {protocol} {tmp_path / 'run'} {devkit} --json {tmp_path / protocol}.json {text}")
    verbs_on_two_ranks(tmp_path, lines)
    run = unlabeled.load(tmp_path / "run")
    for protocol, given in options.items():
        two = json.loads((tmp_path / f"{protocol}.json").read_text())
        one = run.evaluate(protocol, devkit, **given)
        for name, value in one.items():
            if isinstance(value, float):
                assert two[name] == pytest.approx(value, abs=0.02), name
            elif isinstance(value, int):
                assert two[name] == value
