"""`evaluate retrieval` on two gloo processes gives what one gives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pictures import Trained, pictures
from ranks import on_two_ranks
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
    line = [
        "-m",
        "unlabeled",
        "evaluate",
        "retrieval",
        trained.run,
        images,
        "--ground-truth",
        lists,
        "--pca",
        trained.new,
    ]
    spoken = on_two_ranks(*line, "--side", "32", "--json", tmp_path / "two.json", "--device", "cpu")
    assert spoken.count("mean_ap") == 1
    two = json.loads((tmp_path / "two.json").read_text())
    assert two["protocol"] == "retrieval"
    for key in ("mean_ap", "untrained", "queries", "gallery_images", "pca_images", "dims"):
        assert two[key] == pytest.approx(one[key], abs=1e-6)
    assert np.allclose(list(two["per_query"].values()), list(one["per_query"].values()))
