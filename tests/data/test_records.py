"""CIFAR and IDX files: pixels and labels as written, and a sentence for what is not them.

CIFAR's Python version is written here instruction by instruction, as Python 2 and its NumPy wrote it.
"""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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


def text(value: bytes) -> bytes:
    short = len(value) < 256
    return (b"U" + bytes([len(value)]) if short else b"T" + struct.pack("<i", len(value))) + value


def number(value: int) -> bytes:
    return b"K" + bytes([value]) if value < 256 else b"J" + struct.pack("<i", value)


def array(rows: np.ndarray, kind: bytes = b"u1", shape: tuple[int, int] | None = None) -> bytes:
    """What Python 2 wrote of an array of two axes."""
    height, width = shape or rows.shape
    begun = b"cnumpy.core.multiarray\n_reconstruct\nq\x10cnumpy\nndarray\nq\x11K\x00\x85U\x01b\x87R"
    dtype = (
        b"cnumpy\ndtype\nq\x12"
        + text(kind)
        + b"K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    return begun + b"(K\x01" + number(height) + number(width) + b"\x86" + dtype + b"\x89" + text(rows.tobytes()) + b"tb"


def listed(items: Sequence[bytes]) -> bytes:
    return b"](" + b"".join(items) + b"e"


def pickled(entries: dict[bytes, bytes]) -> bytes:
    return b"\x80\x02}q\x01(" + b"".join(text(key) + value for key, value in entries.items()) + b"u."


def batch(rows: slice, **changed: bytes) -> bytes:
    pixels = np.ascontiguousarray(IMAGES.transpose(0, 3, 1, 2).reshape(12, -1)[rows])
    entries = {
        b"batch_label": text(b"training batch 1 of 5"),
        b"labels": listed([number(label) for label in CLASSES[rows].tolist()]),
        b"data": array(pixels),
        b"filenames": listed([text(b"some_ship_s_000002.png")] * len(pixels)),
    }
    return pickled(entries | {key.encode(): value for key, value in changed.items()})


META = pickled(
    {b"num_cases_per_batch": number(4), b"label_names": listed([text(b"plane"), text(b"auto"), text(b"bird")])}
)
BATCHES = {
    "data_batch_2": batch(slice(5, 9)),
    "batches.meta": META,
    "data_batch_1": batch(slice(0, 5)),
    "test_batch": batch(slice(9, 12)),
}


def archive(path: Path, folder: str, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as packed:
        for name, content in {"readme.html": b"<p>", **files}.items():
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_the_python_version_of_cifar_10(tmp_path: Path, packed: bool):
    if packed:
        whole = archive(tmp_path / "cifar-10-python.tar.gz", "cifar-10-batches-py", BATCHES)
        part = f"{whole}:test_batch"
    else:
        whole = tmp_path / "cifar-10-batches-py"
        whole.mkdir()
        for name, content in BATCHES.items():
            (whole / name).write_bytes(content)
        part = str(whole / "test_batch")
    train, test = open_source(whole), open_source(part)
    assert (len(train), len(test)) == (9, 3)
    assert all(np.array_equal(train.read(i), IMAGES[i]) for i in range(9))
    assert np.array_equal(test.read(2), IMAGES[11])
    found = read_labels(train, "folder")
    assert found.class_names == ["auto", "bird", "plane"]
    assert [found.class_names[k] for k in found.ids] == ["plane", "auto", "bird"] * 3
    assert read_labels(test, "folder").class_names == found.class_names


def test_the_python_version_of_cifar_100_has_the_fine_classes(tmp_path: Path):
    fine = listed([number(label) for label in CLASSES.tolist()])
    content = batch(slice(0, 12), fine_labels=fine, coarse_labels=listed([number(0)] * 12))
    content = content.replace(text(b"labels") + fine, b"", 1)
    meta = pickled(
        {
            b"fine_label_names": listed([text(b"apple"), text(b"bear"), text(b"can")]),
            b"coarse_label_names": listed([text(b"things")]),
        }
    )
    packed = archive(tmp_path / "cifar-100-python.tar.gz", "cifar-100-python", {"train": content, "meta": meta})
    assert read_labels(open_source(packed), "folder").class_names == ["apple", "bear", "can"]
    with pytest.raises(DataError, match=r"no file 'test': it has meta, train"):
        open_source(f"{packed}:test")


def test_the_binary_version_is_read_from_its_archive(tmp_path: Path):
    cifar(tmp_path / "made", "data_batch_1.bin", slice(0, 5))
    files = {"data_batch_1.bin": (tmp_path / "made/data_batch_1.bin").read_bytes(), "batches.meta.txt": b"a\nb\nc\n"}
    source = open_source(archive(tmp_path / "cifar-10-binary.tar.gz", "cifar-10-batches-bin", files))
    assert np.array_equal(source.read(4), IMAGES[4]) and read_labels(source, "folder").class_names == ["a", "b", "c"]


def test_an_archive_of_image_files_is_none_of_cifar(tmp_path: Path):
    packed = archive(tmp_path / "mine.tar.gz", "train", {"train": b"x", "data_batch_1": b"x"})
    with pytest.raises(DataError, match="no images"):
        open_source(packed)


class Evil:
    """Leaves a mark when it is read by a reader that does what it is told."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return subprocess.call, (["touch", str(self.mark)],)


def test_nothing_in_a_pickle_is_run(tmp_path: Path):
    mark, file = tmp_path / "was-here", tmp_path / "data_batch_1"
    file.write_bytes(pickle.dumps({"data": Evil(mark)}, protocol=2))
    with pytest.raises(DataError, match=r"names \w+\.call, .*binary version"):
        open_source(file)
    evil = b"cposix\nsystem\n" + text(f"touch {mark}".encode()) + b"\x85R"
    for content in (batch(slice(0, 5), extra=evil), batch(slice(0, 5), data=evil), batch(slice(0, 5), labels=evil)):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"data_batch_1 names posix\.system, .* a pickle can run anything"):
            open_source(file)
    (tmp_path / "batches.meta").write_bytes(pickled({b"label_names": evil}))
    file.write_bytes(batch(slice(0, 5)))
    with pytest.raises(DataError, match=r"batches\.meta names posix\.system"):
        open_source(file)
    assert not mark.exists()


ROWS = IMAGES.reshape(12, -1)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (batch(slice(0, 12), data=array(ROWS, shape=(60_000, 3072))), r"36,864 bytes .* 60000×3072"),
        (batch(slice(0, 12), data=array(ROWS, kind=b"O8")), r"type O8"),
        (batch(slice(0, 12), data=array(ROWS.reshape(24, -1))), r"24×1536"),
        (batch(slice(0, 12), data=number(3)), "no array under 'data'"),
        (batch(slice(0, 12), data=b"cnumpy.core.multiarray\n_reconstruct\n(tR"), "no array under 'data'"),
        (batch(slice(0, 12), data=b"cnumpy\nndarray\nK\x01\x85R"), "cannot be read"),
        (batch(slice(0, 12), labels=listed([number(1)] * 5)), "5 labels and 12 images"),
        (batch(slice(0, 12), labels=listed([text(b"cat")] * 12)), "no list of numbers"),
        (META, "no array under 'data'"),
        (batch(slice(0, 12))[:-9], "cannot be read"),
        (b"\x80\x02}T\xff\xff\xff\x7fabc", "cannot be read"),
        (b"\x80\x02}r\xff\xff\xff\x7f.", "object number 2,147,483,647"),
        (b"\x80\x02}" + b")" + b"\x85" * 100_000 + b"Ns.", "instructions or 100 tuples"),
        (b"\x80\x02}]K\x01s.", "cannot be read"),
        (b"\x80\x02}ca\nb\n)\x81.", "instruction NEWOBJ"),
        (b"\x80\x02}" + b"0" * 9, "instruction POP"),
        (b"\x80\x02}K\x07.", "holds a int"),
    ],
)
def test_what_a_pickle_claims_is_checked(tmp_path: Path, content: bytes, sentence: str):
    file = tmp_path / "data_batch_1"
    file.write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        open_source(file)


def test_a_damaged_archive_is_said(tmp_path: Path):
    packed = archive(tmp_path / "cifar-10-python.tar.gz", "cifar-10-batches-py", BATCHES)
    packed.write_bytes(packed.read_bytes()[:-2_000])
    with pytest.raises(DataError, match="damaged"):
        open_source(packed)


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
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "batches.meta.txt").write_text("airplane\n")
    with pytest.raises(DataError, match=r"data_batch_1\.bin"):
        open_source(empty)
