"""Images in NumPy files: `.npy`, mapped and never loaded whole, and `.npz`, of which one array is loaded.

Shapes: N×H×W, N×H×W×C or N×C×H×W, and H×W×C for a single image. Types: integers and floats. No pickle.
"""

from __future__ import annotations

import gzip
import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np

from unlabeled.data.cifar import HEAD, read_batch, read_class_names
from unlabeled.data.cifar import PIXELS as CIFAR_PIXELS
from unlabeled.data.decode import DECODER_ERRORS
from unlabeled.data.pixels import channel_axis
from unlabeled.data.source import BYTES_LIMIT, Source, cannot_open, file_fingerprint
from unlabeled.errors import DataError


class ArraySource(Source):
    """Images stacked in one array N×H×W×C; names are row numbers, padded so that they sort."""

    def __init__(self, path: Path, images: np.ndarray) -> None:
        width = len(str(max(len(images) - 1, 0)))
        super().__init__(path, "array", [f"{row:0{width}d}" for row in range(len(images))])
        self.images = images
        self._fingerprint = file_fingerprint(path)

    def read(self, index: int) -> np.ndarray:
        """H×W×C, a view."""
        return self.images[index]

    def fingerprint(self, index: int) -> tuple[int | str, ...]:
        """That of the file, and the row."""
        return (*self._fingerprint, index)


def open_array(path: Path, key: str = "") -> ArraySource:
    """Images of a `.npy` file, or of the array `key` of a `.npz` file. Raises DataError."""
    array = load_npz(path, key, lambda shape: len(shape) >= 3) if path.suffix.lower() == ".npz" else _load_npy(path)
    if array.dtype.kind not in "buif":
        raise DataError(f"{path} holds values of the type {array.dtype}; images are unsigned integers or floats.")
    images = stacked(path, array)
    if not images.size:
        raise DataError(f"no images in the array {path}: its shape is {array.shape}.")
    return ArraySource(path, images)


def stacked(path: Path | str, array: np.ndarray) -> np.ndarray:
    """N×H×W×C of an array of images; `path` names it in errors.

    Raises:
        DataError: it has fewer than three axes or more than four.
    """
    if array.ndim == 3 and array.shape[2] in {3, 4} and min(array.shape[:2]) > 4:
        return array[None]  # one colour image rather than a stack of slivers 3 or 4 pixels wide
    if array.ndim == 3:
        return array[:, :, :, None]
    if array.ndim == 4:
        return np.moveaxis(array, 1 + channel_axis(array.shape[1:]), -1)
    raise DataError(
        f"{path} holds an array of the shape {array.shape}, but images are N×H×W, N×H×W×C or N×C×H×W: "
        "reshape it before saving (one grey image is 1×H×W)."
    )


def _load_npy(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except DECODER_ERRORS as error:
        raise DataError(f"{path} cannot be read as a NumPy array: {_why(error)}.") from error


def load_npz(path: Path, key: str, wanted: Callable[[tuple[int, ...]], bool]) -> np.ndarray:
    """The array `key`, or the only one whose shape is `wanted`. Raises DataError that lists the arrays there are."""
    try:
        # Opened here, because NumPy leaves a damaged archive open.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            shapes = _shapes(path)
            if key and key not in shapes:
                raise DataError(f"{path} has no array '{key}': it has {_listed(shapes)}.")
            fitting = [key] if key else [name for name, shape in shapes.items() if wanted(shape)]
            if len(fitting) != 1:
                fault = "several arrays that could be meant" if fitting else "no array of the shape wanted"
                example = (fitting or list(shapes) or ["x"])[0]
                raise DataError(
                    f"{path} has {fault}, it has {_listed(shapes)}: name one, for example {path.name}:{example}."
                )
            return file[fitting[0]]
    except (*DECODER_ERRORS, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} cannot be read as a NumPy archive: {_why(error)}.") from error


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes from the headers: nothing is unpacked for them."""
    shapes: dict[str, tuple[int, ...]] = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if not name.endswith(".npy"):
                continue
            with archive.open(name) as member:
                version = np.lib.format.read_magic(member)
                header = (
                    np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                )
                shapes[name.removesuffix(".npy")] = header(member)[0]
    return shapes


def _listed(shapes: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {'×'.join(map(str, shape)) or 'scalar'}" for name, shape in shapes.items()) or "no arrays"


def _why(error: BaseException) -> str:
    if "pickle" in str(error):
        return "it is no file that np.save wrote, or holds Python objects, which are never read; save it as an array of numbers"
    return (
        "it does not fit in memory"
        if isinstance(error, MemoryError)
        else " ".join(str(error).split()) or type(error).__name__
    )


_TRAINING: Final = re.compile(r"data_batch_\d+|train")
_PART: Final = re.compile(
    r"(data_batch_\d+|test_batch|train|test)(\.bin)?|batches\.meta(\.txt)?|meta|(fine|coarse)_label_names\.txt"
)
_NAME_FILES: Final = {True: ("batches.meta", "meta"), False: ("fine_label_names.txt", "batches.meta.txt")}
"""Whether pickled, and where the names of the classes are."""
_PART_LIMIT: Final = 256 << 20
"""Bytes of one file; the largest, CIFAR-100's training images, has 155 MB."""

_ARCHIVE_ERRORS: Final = (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError, ValueError)
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
    """Whether a folder, a file or an archive holds CIFAR. A .bin file counts, and any file that begins as CIFAR's pickles do."""
    if path.is_dir():
        is_named = any(
            (path / name).is_file() for name in ("batches.meta", "batches.meta.txt", "coarse_label_names.txt")
        )
        return is_named or ((path / "meta").is_file() and (path / "train").is_file())
    return path.suffix == ".bin" or _begins_as_pickle(path) or _is_cifar_archive(path)


def open_cifar(path: Path, key: str = "") -> LabelledArray:
    """Training images of a folder or archive of CIFAR-10 or CIFAR-100, or the images of one of its files.

    `key`: the file of an archive instead of the training images, `test_batch` or `test` for example. The classes of CIFAR-100
    are the hundred fine ones.

    Raises:
        DataError: no such file, none of images, a damaged one, or a pickle that asks for more than CIFAR's do.
    """
    is_archive = path.is_file() and _is_cifar_archive(path)
    held = _unpacked(path) if is_archive else _files(path)
    wanted = ([key] if key else _training(held)) if is_archive or path.is_dir() else [path.name]
    if not wanted:
        raise DataError(
            f"{path} names the classes of CIFAR and has none of its training images (data_batch_1.bin or train.bin, "
            "data_batch_1 or train); fetch or unpack it again."
        )
    if wanted[0] not in held:
        raise DataError(f"{path} has no file '{key}': it has {', '.join(sorted(held))}.")
    shown = {name: f"{path}:{name}" if is_archive else held[name] for name in wanted}
    is_fine = "fine_label_names.txt" in held
    parts = [
        _binary(content, is_fine, str(shown[name])) if name.endswith(".bin") else read_batch(content, str(shown[name]))
        for name in wanted
        for content in [_content(held[name])]
    ]
    names = _class_names(held, path, is_pickled=not wanted[0].endswith(".bin"))
    labels_of = [names[i] if 0 <= i < len(names) else str(i) for _, labels in parts for i in labels]
    files = [path] if path.is_file() else [path / name for name in wanted]
    return LabelledArray(path, np.concatenate([images for images, _ in parts]), labels_of, files)


def _begins_as_pickle(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(HEAD)) == HEAD
    except OSError:
        return False


def _files(path: Path) -> dict[str, Path | bytes]:
    """CIFAR's files in a folder, by name; of a file itself and those beside it that name the classes."""
    if path.is_dir():
        return {entry.name: entry for entry in path.iterdir() if _PART.fullmatch(entry.name) and entry.is_file()}
    beside = (path.with_name(name) for names in _NAME_FILES.values() for name in names)
    return {file.name: file for file in (path, *beside) if file.is_file()}


def _training(held: Iterable[str]) -> list[str]:
    """Files of training images, in order; the binary ones where a folder has both."""
    binary = sorted(name for name in held if name.endswith(".bin") and _TRAINING.fullmatch(name.removesuffix(".bin")))
    return binary or sorted(name for name in held if _TRAINING.fullmatch(name))


def _content(held: Path | bytes) -> bytes:
    if isinstance(held, bytes):
        return held
    try:
        if held.stat().st_size <= _PART_LIMIT:
            return held.read_bytes()
    except OSError as error:
        raise DataError(f"{held} {cannot_open(error).removeprefix('it ')}.") from error
    raise DataError(
        f"{held} has more than the {_PART_LIMIT:,} bytes that a file of CIFAR may have; give one of its files."
    )


def _binary(content: bytes, is_fine: bool, where: str) -> tuple[np.ndarray, list[int]]:
    """Images uint8 [N, 32, 32, 3] and labels of a file of the binary version; of two labels the fine one is the second."""
    size = is_fine + 1 + CIFAR_PIXELS
    if not content or len(content) % size:
        raise DataError(
            f"{where} has {len(content):,} bytes, which is no whole number of CIFAR's records of {size:,} bytes; fetch it again."
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, size)
    return records[:, is_fine + 1 :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), records[:, int(is_fine)].tolist()


def _class_names(held: dict[str, Path | bytes], path: Path, is_pickled: bool) -> list[str]:
    """Names of the classes from the file of them; none without it, and numbers stand for them then."""
    file = next((name for name in _NAME_FILES[is_pickled] if name in held), None)
    if file is None:
        return []
    content = _content(held[file])
    return read_class_names(content, f"{path}:{file}") if is_pickled else content.decode("utf-8", "replace").split()


def _is_cifar_archive(path: Path) -> bool:
    """Whether one of the first files in a tar archive is one of CIFAR's; the rest is not unpacked for it."""
    if not path.name.lower().endswith((".tar.gz", ".tgz", ".tar")):
        return False
    try:
        with tarfile.open(path, "r|*") as archive:
            first = [info.name for info in islice((info for info in archive if info.isreg()), 4)]
    except _ARCHIVE_ERRORS:
        return False
    return any(_archived(name) for name in first)


def _archived(name: str) -> str:
    """The name of one of CIFAR's files inside its archive, "" for any other: the folder counts, `train` alone says little."""
    folder, _, file = name.removeprefix("./").partition("/")
    return file if folder.startswith("cifar-10") and _PART.fullmatch(file) else ""


def _unpacked(path: Path) -> dict[str, Path | bytes]:
    """CIFAR's files in an archive, by name. Raises DataError."""
    held: dict[str, Path | bytes] = {}
    try:
        with tarfile.open(path, "r|*") as archive:
            for info in archive:
                name = _archived(info.name) if info.isreg() else ""
                if info.size > _PART_LIMIT:
                    raise DataError(
                        f"{path} holds a file of {info.size:,} bytes, and CIFAR's have at most {_PART_LIMIT:,}; fetch it again."
                    )
                member = archive.extractfile(info) if name and name not in held else None
                if member is not None:
                    held[name] = member.read()
    except _ARCHIVE_ERRORS as error:
        raise DataError(f"{path} is damaged ({' '.join(str(error).split())}); fetch it again.") from error
    return held


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
    """The first bytes, unpacked where gzip has packed them."""
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
