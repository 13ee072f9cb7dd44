from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unlabeled.data import photographs as demo_module
from unlabeled.data.photographs import DemoSet, demo_set, photograph_files
from unlabeled.errors import DataError, MissingExtraError


@pytest.fixture(scope="module")
def demo() -> DemoSet:
    return demo_set()


def test_shapes_counts_and_labels(demo: DemoSet) -> None:
    assert demo.train.shape == (3600, 32, 32, 3)
    assert demo.train.dtype == np.uint8
    assert demo.test.shape == (1080, 32, 32, 3)
    assert len(demo.class_names) == 18 == len(set(demo.class_names))
    assert demo.class_names == sorted(demo.class_names)
    assert np.bincount(demo.train_labels).tolist() == [200] * 18
    assert np.bincount(demo.test_labels).tolist() == [60] * 18
    assert demo.train_labels.dtype == np.int64


def test_same_seed_same_arrays_other_seed_other_arrays() -> None:
    small = {"train_per_photo": 3, "test_per_photo": 2}
    first, again, other = demo_set(16, 1, **small), demo_set(16, 1, **small), demo_set(16, 2, **small)
    assert np.array_equal(first.train, again.train)
    assert np.array_equal(first.test, again.test)
    assert np.array_equal(first.train_labels, again.train_labels)
    assert not np.array_equal(first.train, other.train)


def test_no_training_pixel_is_ever_seen_by_a_test_crop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    width, height = 400, 120
    pixels = np.full((height, width, 3), 128, dtype=np.uint8)
    pixels[:, :240] = (200, 0, 0)  # left 60 %
    pixels[:, 248:] = (0, 0, 90)  # right 38 %
    Image.fromarray(pixels).save(tmp_path / "striped.png")
    monkeypatch.setattr(demo_module, "photograph_files", lambda: [tmp_path / "striped.png"])
    demo = demo_set(24, train_per_photo=300, test_per_photo=300)
    assert np.unique(demo.train.reshape(-1, 3), axis=0).tolist() == [[200, 0, 0]]
    assert np.unique(demo.test.reshape(-1, 3), axis=0).tolist() == [[0, 0, 90]]


def test_crops_are_pieces_of_the_photograph_they_are_labelled_with() -> None:
    demo = demo_set(20, train_per_photo=2, test_per_photo=1)
    for path in photograph_files():
        label = demo.class_names.index(path.stem)
        with Image.open(path) as opened:
            colours = np.asarray(opened.convert("RGB")).reshape(-1, 3)
        low, high = colours.min(axis=0), colours.max(axis=0)
        own = demo.train[demo.train_labels == label].reshape(-1, 3)
        assert (own >= low).all()
        assert (own <= high).all()
        if (colours[:, 0] == colours[:, 1]).all():
            assert (own[:, 0] == own[:, 1]).all()


def test_a_network_is_never_asked_and_nothing_heavy_is_imported() -> None:
    program = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise AssertionError('network')\n"
        "socket.socket.connect = refuse\n"
        "from unlabeled.data.photographs import demo_set\n"
        "demo_set(8, train_per_photo=1, test_per_photo=1)\n"
        "print(sorted(m for m in ('skimage', 'sklearn', 'pooch', 'torch') if m in sys.modules))\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_missing_scikit_image_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "skimage" else find(name))
    with pytest.raises(MissingExtraError, match=r"pip install 'unlabeled\[demo\]'"):
        demo_set()


def test_bad_sizes_and_missing_files_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="size 0"):
        demo_set(0)
    monkeypatch.setattr(demo_module, "_PHOTOGRAPHS", {"skimage": ("data", ("nowhere.png",))})
    with pytest.raises(DataError, match=r"data/nowhere\.png"):
        demo_set()
