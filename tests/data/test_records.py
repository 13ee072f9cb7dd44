"""CIFAR's binary version and IDX files: pixels and labels as written, and a sentence for what is not them."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from unlabeled.data.labels import read_labels
from unlabeled.data.sources import open_source
from unlabeled.errors import DataError

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
CLASSES = np.arange(12) % 3


def cifar(folder: Path, name: str, rows: slice, coarse: bool = False) -> None:
    folder.mkdir(exist_ok=True)
    columns = [np.zeros((12, 1), np.uint8)] if coarse else []
    pixels = IMAGES.transpose(0, 3, 1, 2).reshape(12, -1)
    np.concatenate([*columns, CLASSES[:, None].astype(np.uint8), pixels], axis=1)[rows].tofile(folder / name)


def test_cifar_10(tmp_path: Path):
    folder = tmp_path / "cifar-10-batches-bin"
    cifar(folder, "data_batch_1.bin", slice(0, 5))
    cifar(folder, "data_batch_2.bin", slice(5, 9))
    cifar(folder, "test_batch.bin", slice(9, 12))
    (folder / "batches.meta.txt").write_text("airplane\nautomobile\nbird\n\n")
    train, test = open_source(folder), open_source(folder / "test_batch.bin")
    assert (len(train), len(test)) == (9, 3)
    assert all(np.array_equal(train.read(i), IMAGES[i]) for i in range(9))
    assert np.array_equal(test.read(0), IMAGES[9])
    found = read_labels(train, "folder")
    assert found.ids.tolist() == CLASSES[:9].tolist() and found.class_names == ["airplane", "automobile", "bird"]


def test_cifar_100_has_the_fine_classes(tmp_path: Path):
    folder = tmp_path / "cifar-100-binary"
    cifar(folder, "train.bin", slice(0, 12), coarse=True)
    (folder / "fine_label_names.txt").write_text("apple\nbear\ncan\n")
    (folder / "coarse_label_names.txt").write_text("things\n")
    assert read_labels(open_source(folder), "folder").class_names == ["apple", "bear", "can"]


def idx(path: Path, array: np.ndarray) -> Path:
    content = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_idx(tmp_path: Path, ending: str):
    path = idx(tmp_path / f"train-images-idx3-ubyte{ending}", IMAGES[..., 0])
    with pytest.raises(DataError, match="one folder for each class"):
        read_labels(open_source(path), "folder")
    beside = idx(tmp_path / f"train-labels-idx1-ubyte{ending}", CLASSES)
    source = open_source(path)
    assert np.array_equal(source.read(3), IMAGES[3, :, :, :1])
    assert read_labels(source, "folder").ids.tolist() == CLASSES.tolist()
    with pytest.raises(DataError, match="holds labels, not images"):
        open_source(beside)
    idx(beside, CLASSES[:5])
    with pytest.raises(DataError, match=r"5 labels and .* 12 images"):
        open_source(path)


def test_what_is_not_them_is_said(tmp_path: Path):
    cut = idx(tmp_path / "a-images-idx3-ubyte", IMAGES[..., 0])
    cut.write_bytes(cut.read_bytes()[:-7])
    with pytest.raises(DataError, match="cut short"):
        open_source(cut)
    (tmp_path / "odd.bin").write_bytes(b"x" * 100)
    with pytest.raises(DataError, match="no whole number"):
        open_source(tmp_path / "odd.bin")
    pickled = tmp_path / "cifar-10-batches-py"
    pickled.mkdir()
    (pickled / "batches.meta").write_bytes(b"\x80\x02}q\x01.")
    with pytest.raises(DataError, match="binary version"):
        open_source(pickled)
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "batches.meta.txt").write_text("airplane\n")
    with pytest.raises(DataError, match=r"data_batch_1\.bin"):
        open_source(empty)
