"""Processes of one run that do not see the same images, and one that dies."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SCRIPT = """
import os, sys
from unlabeled import cli

os.chdir(os.environ["RANK"])
cli.main(["train", "pictures", "--out", "../run", "--epochs", sys.argv[1], "--cache", "../cache" + os.environ["RANK"]])
"""


def start(folder: Path, epochs: int) -> list[subprocess.Popen[str]]:
    """Two processes that train on `pictures` of folders of their own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "script.py").write_text(SCRIPT)
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, "script.py", str(epochs)],
            cwd=folder,
            env=os.environ | group | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]


def draw(folder: Path, counts: tuple[int, int], seeds: tuple[int, int] = (0, 0)) -> None:
    for rank, (count, seed) in enumerate(zip(counts, seeds, strict=True)):
        (folder / str(rank) / "pictures").mkdir(parents=True)
        rng = np.random.default_rng(seed)
        for i in range(count):
            pixels = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / str(rank) / "pictures" / f"{i:02}.png")


@pytest.mark.parametrize(("counts", "seeds"), [((24, 22), (0, 0)), ((24, 24), (0, 1))])
def test_different_images_end_every_process_in_one_sentence(
    tmp_path: Path, counts: tuple[int, int], seeds: tuple[int, int]
) -> None:
    draw(tmp_path, counts, seeds)
    for process in start(tmp_path, 1):
        told = process.communicate(timeout=120)[0]
        assert process.returncode == 2, told
        assert "Traceback" not in told
        assert "find different images" in told
        assert f"{counts[0]}, {counts[1]}" in told


def test_the_survivor_of_a_killed_process_says_so_and_keeps_the_run(tmp_path: Path) -> None:
    draw(tmp_path, (24, 24))
    survivor, victim = start(tmp_path, 500)
    deadline = time.monotonic() + 100
    while not list((tmp_path / "run" / "checkpoints").glob("epoch-*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    told = survivor.communicate(timeout=60)[0]
    assert survivor.returncode == 2, told
    assert "Traceback" not in told
    assert "another process of this run ended" in told
    assert list((tmp_path / "run" / "checkpoints").glob("epoch-*"))
