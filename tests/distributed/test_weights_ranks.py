"""Two gloo processes import weights with images, and export them, as one does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

import unlabeled
from pictures import Trained, write_pictures

SCRIPT = """
import sys, unlabeled
file, out, data, cache, exported = sys.argv[1:]
from unlabeled.distributed import process_group
with process_group("cpu"):
    run = unlabeled.import_weights(file, out, data=data, cache=cache, num_clusters=3)
    written = run.export("safetensors", exported)
print(len(written.files), "files", flush=True)
"""


def test_two_processes_import_what_one_imports(trained: Trained, tmp_path: Path):
    photos = write_pictures(tmp_path / "photos", 17)
    file, script = tmp_path / "a.safetensors", tmp_path / "script.py"
    unlabeled.load(trained.run).export("safetensors", file)
    one = unlabeled.import_weights(file, tmp_path / "one", data=photos, cache=trained.cache, num_clusters=3)
    script.write_text(SCRIPT)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", str(script)]
    places = [file, tmp_path / "two", photos, trained.cache, tmp_path / "b.safetensors"]
    result = subprocess.run(
        [*launch, *map(str, places)],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert sorted(result.stdout.split("\n"))[1:] == ["0 files", "2 files"]
    two = unlabeled.load(tmp_path / "two")
    torch.testing.assert_close(two.catalogue.features, one.catalogue.features, atol=1e-5, rtol=0)
    assert two.names == one.names and [row.cluster for row in two.cluster()] == [row.cluster for row in one.cluster()]
