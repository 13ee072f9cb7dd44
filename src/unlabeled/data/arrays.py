"""Images in NumPy files: `.npy`, mapped and never loaded whole, and `.npz`, of which one array is loaded.

Shapes: N×H×W, N×H×W×C or N×C×H×W, and H×W×C for a single image. Types: integers and floats. No pickle.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from unlabeled.data.decode import DECODER_ERRORS
from unlabeled.data.pixels import channel_axis
from unlabeled.data.source import Source, file_fingerprint
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
