"""Two gloo processes import weights with images, and export them, as one does."""

from __future__ import annotations

from pathlib import Path

import torch

import unlabeled
from pictures import Trained, write_pictures
from ranks import script_on_two_ranks

SCRIPT = """
import os, sys, unlabeled
file, out, data, cache, exported = sys.argv[1:]
from unlabeled.distributed import process_group
with process_group("cpu"):
    run = unlabeled.import_weights(file, out, data=data, cache=cache, num_clusters=3)
    written = run.export("safetensors", exported)
os.write(1, f"{len(written.files)} files\\n".encode())  # in one piece, whatever the other rank says meanwhile
"""


def test_two_processes_import_what_one_imports(trained: Trained, tmp_path: Path):
    photos = write_pictures(tmp_path / "photos", 17)
    file = tmp_path / "a.safetensors"
    unlabeled.load(trained.run).export("safetensors", file)
    one = unlabeled.import_weights(file, tmp_path / "one", data=photos, cache=trained.cache, num_clusters=3)
    places = [file, tmp_path / "two", photos, trained.cache, tmp_path / "b.safetensors"]
    spoken = script_on_two_ranks(tmp_path, SCRIPT, *places)
    assert sorted(spoken.split("\n"))[1:] == ["0 files", "2 files"]
    two = unlabeled.load(tmp_path / "two")
    torch.testing.assert_close(two.catalogue.features, one.catalogue.features, atol=1e-5, rtol=0)
    assert two.names == one.names and [row.cluster for row in two.cluster()] == [row.cluster for row in one.cluster()]
