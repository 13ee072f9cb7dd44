"""Images that lie in files with their labels: CIFAR's binary version and MNIST's IDX files.

CIFAR-10 and CIFAR-100 are also published as pickles, which can run anything when they are read; they are refused, with
the name of the binary version. Shapes: N images, H×W×C as in `arrays`.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Final

import numpy as np

from unlabeled.data.arrays import ArraySource
from unlabeled.data.source import BYTES_LIMIT, file_fingerprint
from unlabeled.errors import DataError

CIFAR_PIXELS: Final = 3 * 32 * 32
_IDX_IMAGES: Final = b"\x00\x00\x08\x03"
_IDX_LABELS: Final = b"\x00\x00\x08\x01"


class LabelledArray(ArraySource):
    """An array of images that knows the class of each."""

    def __init__(self, path: Path, images: np.ndarray, labels: list[str], files: list[Path]) -> None:
        """`files`: what the images were read from."""
        super().__init__(path, images)
        self.labels = labels
        self._fingerprint = tuple(fact for file in files for fact in file_fingerprint(file))

    def column(self, name: str) -> list[str] | None:
        """The labels, whatever folders or tables would be asked for under `folder` or `label`."""
        return self.labels if self.labels and name in ("folder", "label") else None


def is_cifar(path: Path) -> bool:
    """Whether a file or folder is CIFAR's binary version or its pickles."""
    if path.is_dir():
        return (path / "batches.meta.txt").is_file() or _is_pickled(path) or (path / "coarse_label_names.txt").is_file()
    return path.suffix == ".bin"


def open_cifar(path: Path) -> LabelledArray:
    """Training images of a folder `cifar-10-batches-bin` or `cifar-100-binary`, or the images of one of its .bin files.

    The classes of CIFAR-100 are the hundred fine ones.

    Raises:
        DataError: pickles, or a file that is no whole number of records.
    """
    folder = path if path.is_dir() else path.parent
    if path.is_dir() and _is_pickled(path):
        raise DataError(
            f"{path} holds CIFAR as pickles, which are not read because a pickle can run anything: take the binary version "
            "(cifar-10-binary.tar.gz, cifar-100-binary.tar.gz), or an .npz of its arrays."
        )
    is_fine = (folder / "fine_label_names.txt").is_file()
    labels = 2 if is_fine else 1
    files = sorted([*folder.glob("data_batch_*.bin"), *folder.glob("train.bin")]) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path} names the classes of CIFAR and has no data_batch_1.bin or train.bin; unpack it again.")
    parts = [_records(file, labels) for file in files]
    records = np.concatenate(parts)
    images = records[:, labels:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    names = _names(folder / ("fine_label_names.txt" if is_fine else "batches.meta.txt"))
    ids = records[:, labels - 1].tolist()
    labels_of = [names[i] if i < len(names) else str(i) for i in ids]
    return LabelledArray(path, np.ascontiguousarray(images), labels_of, files)


def _is_pickled(path: Path) -> bool:
    return (path / "batches.meta").is_file() or ((path / "meta").is_file() and (path / "train").is_file())


def _records(file: Path, labels: int) -> np.ndarray:
    content = np.fromfile(file, np.uint8)
    size = labels + CIFAR_PIXELS
    if not len(content) or len(content) % size:
        raise DataError(
            f"{file} has {len(content):,} bytes, which is no whole number of CIFAR's records of {size:,} bytes; fetch it again."
        )
    return content.reshape(-1, size)


def _names(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8", errors="replace").split() if file.is_file() else []


def is_idx(path: Path) -> bool:
    """Whether a file begins as an IDX file of bytes (MNIST and its kin), perhaps compressed."""
    return _head(path) in (_IDX_IMAGES, _IDX_LABELS)


def open_idx(path: Path) -> LabelledArray:
    """Images of an IDX file; labels from the file beside it whose name has `labels-idx1` for `images-idx3`, if it is there.

    Raises:
        DataError: labels where images were meant, a file cut short, or labels of another number of images.
    """
    images = _read_idx(path)
    if images.ndim != 3:
        raise DataError(f"{path} holds labels, not images; give the file of images, whose name has 'images' in it.")
    beside = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
    labels: list[str] = []
    if beside != path and beside.is_file():
        found = _read_idx(beside)
        if found.shape != images.shape[:1]:
            raise DataError(
                f"{beside} has {len(found):,} labels and {path} {len(images):,} images; they must belong together."
            )
        labels = [str(value) for value in found.tolist()]
    return LabelledArray(path, images[..., None], labels, [path])


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            head = file.read(4)
        if head[:2] == b"\x1f\x8b":
            with gzip.open(path, "rb") as file:
                head = file.read(4)
    except (OSError, EOFError, zlib.error):
        return b""
    return head


def _read_idx(path: Path) -> np.ndarray:
    try:
        with path.open("rb") as file:
            is_packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if is_packed else path.open("rb") as file:
            content = file.read(BYTES_LIMIT)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    dims = content[3] if len(content) > 3 else 0
    shape = tuple(np.frombuffer(content, ">u4", dims, 4).tolist()) if len(content) >= 4 + 4 * dims else ()
    if content[:3] != b"\x00\x00\x08" or len(content) - 4 - 4 * dims != int(np.prod(shape)):
        raise DataError(f"{path} is cut short or is no IDX file of bytes: its header says {shape}; fetch it again.")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dims).reshape(shape)
