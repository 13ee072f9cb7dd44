"""Detection under torchrun with two gloo processes: the same weights and the same detections as one process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ranks import script_on_two_ranks
from rectangles import made_pictures
from unlabeled.evaluation.voc_detection import Detecting, VocDetectionProtocol
from unlabeled.models import build_backbone

SCRIPT = """
import sys
sys.path[:0] = sys.argv[2:]
import torch
torch.set_num_threads(1)
from test_detection_ranks import scored
from unlabeled.distributed import is_main, process_group

with process_group("cpu"):
    found = scored()
    if is_main():
        torch.save(found, sys.argv[1])
"""


def scored() -> dict[str, torch.Tensor]:
    """Detections and weights after four steps of three pictures: on two ranks one has two of them, the other one."""
    learnt, tested = made_pictures(4, 0), made_pictures(3, 1)
    backbone = build_backbone("alexnet_small", image_size=32, generator=torch.Generator().manual_seed(0)).eval()
    found: dict[str, torch.Tensor] = {}
    for detector in ("fast", "faster"):
        how = Detecting(detector, side=48, steps=4, lr=0.01, regions=16, images_per_step=3)
        own = VocDetectionProtocol(backbone, learnt, tested, 3, how)
        found[f"{detector} precision"] = torch.from_numpy(np.stack([own.scores.area, own.scores.eleven_point]))
        found[f"{detector} boxes"] = own.detect()
        found |= {f"{detector} {name}": value for name, value in own.detector.state_dict().items()}
    return found


def test_two_processes_learn_and_detect_what_one_does(tmp_path: Path):
    folders = Path(__file__).parent, Path(__file__).parents[1]
    script_on_two_ranks(tmp_path, SCRIPT, tmp_path / "two.pt", *folders)
    two, one = torch.load(tmp_path / "two.pt", weights_only=True), scored()
    assert two.keys() == one.keys()
    for name, value in one.items():
        if name.endswith("boxes"):
            assert len(value) == len(two[name]) > 0
            assert torch.equal(value[:, 0].sort().values, two[name][:, 0].sort().values)
            assert value[:, 2].sum() == pytest.approx(float(two[name][:, 2].sum()), rel=1e-3)
        else:
            torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-4, equal_nan=True)
