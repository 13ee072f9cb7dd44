"""`evaluate retrieval` on two gloo processes gives what one gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pictures import Trained, pictures
from unlabeled.run import Run


def test_two_processes_give_what_one_gives(trained: Trained, tmp_path: Path):
    images, lists = tmp_path / "images", tmp_path / "gt"
    images.mkdir()
    lists.mkdir()
    for i, pixels in enumerate(pictures(9, side=32, kinds=3, seed=3)[0]):
        Image.fromarray(pixels).save(images / f"i{i}.png")
    for kind, text in (("query", "i0 1 1 30 30"), ("good", "i0 i3"), ("ok", "i6"), ("junk", "i1")):
        (lists / f"q_{kind}.txt").write_text(text)
    one = Run(trained.run, "cpu").evaluate("retrieval", images, ground_truth=lists, pca=trained.new, side=32)
    line = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m", "unlabeled"]
    line += [
        "evaluate",
        "retrieval",
        str(trained.run),
        str(images),
        "--ground-truth",
        str(lists),
        "--pca",
        str(trained.new),
    ]
    line += ["--side", "32", "--json", str(tmp_path / "two.json"), "--device", "cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(line, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("mean_ap") == 1
    two = json.loads((tmp_path / "two.json").read_text())
    assert two["protocol"] == "retrieval"
    for key in ("mean_ap", "untrained", "queries", "gallery_images", "pca_images", "dims"):
        assert two[key] == pytest.approx(one[key], abs=1e-6)
    assert np.allclose(list(two["per_query"].values()), list(one["per_query"].values()))
