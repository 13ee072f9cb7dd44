"""The images of a run as small files for a page, made when they are asked for, from the files the run was trained on.

They come from the source and not from the store of decoded pixels: nothing is decoded before someone looks at it, nothing
is written, and a photograph is shown larger than what the network was given. Shapes: H×W×C pixels of one image.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from unlabeled.data.decode import examine
from unlabeled.data.display import Display, from_record
from unlabeled.data.pixels import Undecodable, ValueRange, scale_to_uint8
from unlabeled.data.resize import reduce
from unlabeled.data.sources import Source
from unlabeled.errors import DataError
from unlabeled.report.page import printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from unlabeled.runs.images import DataRecord

THUMBNAIL = 128
"""Pixels of the short side of a thumbnail, never enlarged."""
LARGE = 1600
"""Pixels of the long side of an image shown alone, never enlarged."""
KEPT_BYTES = 128 << 20
"""Thumbnails kept in memory, those asked for last: about 20,000 photographs."""
LOSSLESS_SIDE = 96
"""Up to this size pictures are sent as PNG: they are shown enlarged, where the blocks of JPEG would be seen."""


@dataclass(frozen=True)
class Picture:
    """An encoded picture and its media type."""

    content: bytes
    media_type: str


class Pictures:
    """Thumbnails and large views of the training images, by index. May be used from several threads."""

    def __init__(self, record: DataRecord, names: list[str], kept_bytes: int = KEPT_BYTES) -> None:
        """Raises DataError where the images are no longer where the run was trained on them."""
        self.source: Source = record.source()
        place = {name: i for i, name in enumerate(self.source.names)}
        self.place: NDArray[np.int64] = np.array([place.get(name, -1) for name in names], np.int64)
        """[N] position of each image in the source, -1 for one that is gone."""
        self._names, self._data = names, record.data
        low, high, clipped = (record.value_range[key] for key in ("low", "high", "share_clipped"))
        self._range = ValueRange(tuple(low), tuple(high), clipped)
        self._display = from_record(record.display) if record.display else None
        self._kept: OrderedDict[int, Picture] = OrderedDict()
        self._kept_bytes, self._bytes = kept_bytes, 0
        self._lock = threading.Lock()

    def thumbnail(self, index: int) -> Picture:
        """Image `index`, its short side at most `THUMBNAIL`; of panoramas the middle.

        Raises:
            DataError: the image is gone or damaged.
        """
        with self._lock:
            if kept := self._kept.get(index):
                self._kept.move_to_end(index)
                return kept
        made = encode(reduce(self.pixels(index, THUMBNAIL), THUMBNAIL))
        with self._lock:
            if index not in self._kept:
                self._kept[index] = made
                self._bytes += len(made.content)
            while self._bytes > self._kept_bytes:
                self._bytes -= len(self._kept.popitem(last=False)[1].content)
        return made

    def large(self, index: int) -> Picture:
        """Image `index` whole, its long side at most `LARGE`. Raises DataError as `thumbnail` does."""
        return encode(shrunk(self.pixels(index), LARGE))

    def pixels(self, index: int, short_side: int = 0) -> NDArray[np.uint8]:
        """uint8 H×W×(1 or 3) of image `index`, not decoded finer than `short_side` needs; raises DataError."""
        place = int(self.place[index])
        name = printable(self._names[index])
        if place < 0:
            raise DataError(f"{name} is no longer in {self._data}, where it was when the run was trained.")
        try:
            found = examine(self.source.read(place), name, short_side=short_side).pixels
        except Undecodable as error:
            raise DataError(f"{name} cannot be shown: {error.reason}.") from error
        return shown_channels(found, self._range, self._display)


def shown_channels(pixels: np.ndarray, values: ValueRange, display: Display | None = None) -> NDArray[np.uint8]:
    """Eight bits, and the channels that a screen can show: those of `display`, or the first three (of two the first)."""
    channels = pixels.shape[2]
    if len(values.low) not in (1, channels):
        # A grey file among coloured ones: its one channel has no range of its own.
        values = ValueRange((min(values.low),), (max(values.high),), values.share_clipped)
    first = (0, 1, 2) if channels >= 3 else (0,)
    plain = Display(first, (0.0,) * len(first), (255.0,) * len(first))
    return (display or plain).apply(scale_to_uint8(pixels, values))


def shrunk(pixels: NDArray[np.uint8], long_side: int) -> NDArray[np.uint8]:
    """The whole picture with its long side at most `long_side`, antialiased; smaller ones as they are."""
    height, width = pixels.shape[:2]
    scale = long_side / max(height, width)
    if scale >= 1:
        return pixels
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = np.asarray(_image(pixels).resize(size, Image.Resampling.BILINEAR))
    return small if small.ndim == 3 else small[:, :, None]


def encode(pixels: NDArray[np.uint8]) -> Picture:
    """uint8 H×W×(1 or 3) as PNG where it is small, else as JPEG; equal pixels give equal bytes."""
    buffer = io.BytesIO()
    if max(pixels.shape[:2]) <= LOSSLESS_SIDE:
        _image(pixels).save(buffer, "png", compress_level=3)
        return Picture(buffer.getvalue(), "image/png")
    _image(pixels).save(buffer, "jpeg", quality=88)
    return Picture(buffer.getvalue(), "image/jpeg")


def _image(pixels: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0])
