"""Images that are in memory already: arrays, tensors, Pillow images, and lists that mix these with paths of files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image

from unlabeled.data.arrays import stacked
from unlabeled.data.decode import from_pillow
from unlabeled.data.pixels import Undecodable
from unlabeled.data.source import Source, display_name, file_fingerprint, read_file, unique_names
from unlabeled.errors import DataError

IN_MEMORY: Final = "images given in memory"
"""Stands for the place of images that were passed to a Python function and lie in no file."""

Images = str | Path | Source | np.ndarray | torch.Tensor | Image.Image | Sequence[Any]
"""What every function that takes images accepts: a path, an open source, an array or tensor N×H×W×C, N×C×H×W or N×H×W, a
Pillow image, or a list of paths, arrays, tensors and Pillow images."""


class MemorySource(Source):
    """Images of a Python list or array; files among them are read when they are needed."""

    def __init__(self, items: list[Path | np.ndarray]) -> None:
        width = len(str(max(len(items) - 1, 0)))
        names = [
            display_name(str(item)) if isinstance(item, Path) else f"{row:0{width}d}" for row, item in enumerate(items)
        ]
        super().__init__(Path(IN_MEMORY), "list", unique_names(names))
        self._items = items

    def read(self, index: int) -> bytes | np.ndarray:
        """The bytes of a file, or the array."""
        item = self._items[index]
        return read_file(str(item)) if isinstance(item, Path) else item

    def location(self, index: int) -> Path | None:
        """The file, if it is one."""
        item = self._items[index]
        return item if isinstance(item, Path) else None

    def fingerprint(self, index: int) -> tuple[int | str, ...]:
        """That of the file, or a digest of the pixels."""
        item = self._items[index]
        if isinstance(item, Path):
            return file_fingerprint(item)
        return (hashlib.blake2b(np.ascontiguousarray(item).tobytes(), digest_size=16).hexdigest(),)


def from_memory(data: Any) -> Source | None:
    """A source of what is in memory; None for a path, which `open_source` opens.

    Raises:
        DataError: an empty list, or something in it that is no image.
    """
    if isinstance(data, Source):
        return data
    if isinstance(data, (str, os.PathLike)):
        return None
    if isinstance(data, (np.ndarray, torch.Tensor, Image.Image)):
        return MemorySource(list(_arrays(data, "the images")))
    if not isinstance(data, Sequence):
        raise DataError(
            f"images are wanted and a {type(data).__name__} was given: give a path, an array or tensor of images, Pillow images, "
            "or a list of these."
        )
    items: list[Path | np.ndarray] = []
    for row, item in enumerate(data):
        if isinstance(item, (str, os.PathLike)):
            items.append(Path(os.fspath(item)).expanduser())
        else:
            items.extend(_arrays(item, f"item {row} of the list", single=True))
    if not items:
        raise DataError("the list of images is empty: give at least one path, array or Pillow image.")
    return MemorySource(items)


def _arrays(data: Any, what: str, *, single: bool = False) -> list[np.ndarray]:
    """One array H×W×C for each image."""
    if isinstance(data, Image.Image):
        try:
            return [from_pillow(data)]
        except Undecodable as error:
            raise DataError(f"{what} cannot be used: {error.reason}.") from None
    if isinstance(data, torch.Tensor):
        data = data.detach().cpu()
        data = data.float().numpy() if data.dtype == torch.bfloat16 else data.numpy()
    if not isinstance(data, np.ndarray):
        raise DataError(f"{what} is a {type(data).__name__}; give a path, an array, a tensor or a Pillow image.")
    if data.dtype.kind not in "buif":
        raise DataError(f"{what} has values of the type {data.dtype}; images are unsigned integers or floats.")
    if data.ndim == 2:
        return [data[:, :, None]]
    if single and data.ndim == 3:
        # One image: channels first or last, as `channel_axis` tells.
        data = data[None]
    return list(stacked(what, data))
