"""Pixels H×W×C in memory: limits, turning, white ground, number of channels, 8 bits."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np

from unlabeled.data.reading import ReadOptions
from unlabeled.errors import DataError

PIXEL_LIMIT: Final = 178_956_970
"""Images that declare more pixels (height × width) are refused undecoded: 179 megapixels, as Pillow has it."""

VALUE_LIMIT: Final = 4 * PIXEL_LIMIT
"""The same limit for height × width × channels."""

CLIP_PERCENT: Final = 0.1
"""Per cent of values that scaling to 8 bits may clip at either end: hot pixels must not darken the others."""

_SAMPLE: Final = 4096
"""Pixels of one image that enter the estimate of the range of values."""

_LUMA: Final = (0.299, 0.587, 0.114)


TURNED: Final = "the pixels are turned as the orientation tag asks"
"""The one note that tells of no loss: it is not repeated when training begins."""


class PixelBudget:
    """At most `limit` pixels are decoded at one time, over all threads; a larger image waits until it is alone."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0
        self._change = threading.Condition()

    @contextmanager
    def take(self, pixels: int) -> Generator[None]:
        """Wait for room for `pixels`, and hold it while inside."""
        with self._change:
            self._change.wait_for(lambda: self._taken == 0 or self._taken + pixels <= self._limit)
            self._taken += pixels
        try:
            yield
        finally:
            with self._change:
                self._taken -= pixels
                self._change.notify_all()


IN_FLIGHT: Final = PixelBudget(PIXEL_LIMIT // 2)
"""The budget of this process: one huge picture at a time, or many ordinary ones."""


class Undecodable(Exception):
    """This one image cannot be used; `reason` is a clause a person understands, such as "the file is cut short"."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def check_size(height: int, width: int, channels: int = 1) -> None:
    """Refuse (Undecodable) what declares no pixels, or too many to be decoded safely."""
    if height < 1 or width < 1 or channels < 1:
        raise Undecodable(f"it declares {height} × {width} pixels and {channels} channels, so there is nothing to see")
    if height * width > PIXEL_LIMIT or height * width * channels > VALUE_LIMIT:
        raise Undecodable(too_large(height * width))


def too_large(pixels: int) -> str:
    """The clause for an image of too many pixels."""
    return f"it declares {pixels:,} pixels, more than the {PIXEL_LIMIT:,} allowed: shrink or tile it first"


def turn(pixels: np.ndarray, orientation: int, notes: list[str]) -> np.ndarray:
    """Apply an EXIF orientation (1 to 8; anything else means none) to H×W[×C]."""
    if orientation not in range(2, 9):
        return pixels
    notes.append(TURNED)
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    # Orientations 5 and 7 are the transposed image and its half turn; 6 and 8 are quarter turns.
    if orientation in {3, 4, 7, 8}:
        pixels = pixels[::-1]
    if orientation in {2, 3, 6, 7}:
        pixels = pixels[:, ::-1]
    return pixels


def composite(pixels: np.ndarray, notes: list[str], options: ReadOptions) -> np.ndarray:
    """Color H×W×(1 or 3) of H×W×(1+1) or H×W×(3+1) unsigned integers, alpha last and not premultiplied.

    Transparent pixels are put on white. An alpha of 0 everywhere is no transparency and is left out; with
    `options.alpha = band` the alpha channel stays.
    """
    if options.alpha == "band":
        return pixels
    top = np.iinfo(pixels.dtype).max
    alpha = pixels[:, :, -1:]
    if not (alpha != top).any():
        return pixels[:, :, :-1]
    if not alpha.any():
        notes.append("alpha is 0 everywhere, which is no transparency, and was left out")
        return pixels[:, :, :-1]
    if _varies_like_a_picture(alpha):
        notes.append(
            "alpha varies like a picture and was put on white: if it is a fourth band (infrared, depth), keep it with "
            "--alpha band"
        )
    else:
        notes.append("transparent parts are put on white")
    share = alpha.astype(np.float32) / top
    return np.rint(pixels[:, :, :-1] * share + top * (1 - share)).astype(pixels.dtype)


def _varies_like_a_picture(alpha: np.ndarray) -> bool:
    """Whether most of alpha is neither opaque nor transparent, with at least 16 levels."""
    values = sample_pixels(alpha, _SAMPLE)[:, 0]
    between = (values > 0) & (values < np.iinfo(alpha.dtype).max)
    return between.mean() > 0.5 and len(np.unique(values)) >= 16


def without_fill(pixels: np.ndarray, fill: float, notes: list[str]) -> np.ndarray:
    """H×W×C with the declared fill value (GDAL_NODATA) replaced, in each channel, by its smallest other value.

    Raises Undecodable where nothing but fill values is there.
    """
    if np.isnan(fill):
        return pixels  # NaN is replaced in every image
    if pixels.dtype.kind == "f":
        # The tag is text of a few digits; a float32 minimum comes back a little off.
        hidden = np.isclose(pixels, fill, rtol=1e-5, atol=0)
    else:
        hidden = pixels == fill
    if not hidden.any():
        return pixels
    if hidden.all():
        raise Undecodable(f"all of its values are the fill value {fill:g} that its GDAL_NODATA tag declares")
    notes.append("fill values (GDAL_NODATA) are shown as the smallest valid value")
    result = pixels.copy()
    for channel in range(pixels.shape[2]):
        valid = pixels[:, :, channel][~hidden[:, :, channel]]
        least = valid.min() if valid.size else pixels[~hidden].min()
        result[:, :, channel][hidden[:, :, channel]] = least
    return result


LONE_GAP: Final = 10
"""An extreme value is alone if the gap to the next value is this many times the range of all others."""


def lone_extreme(pixels: np.ndarray) -> float | None:
    """A smallest or largest value of H×W×C, not 8-bit, that lies far from all others and is common: likely a fill value.

    Common means more than `CLIP_PERCENT` of the pixels, for rarer ones do not change the range of values.
    """
    values = np.sort(sample_pixels(pixels, 1 << 16).reshape(-1))
    for extreme, others in ((values[0], values[values > values[0]]), (values[-1], values[values < values[-1]])):
        count = len(values) - len(others)
        if len(others) < 2 or 100 * count <= CLIP_PERCENT * len(values):
            continue
        spread = float(others[-1]) - float(others[0])
        gap = min(abs(float(others[0]) - float(extreme)), abs(float(others[-1]) - float(extreme)))
        if spread > 0 and gap > LONE_GAP * spread:
            return float(extreme)
    return None


def channels_last(array: np.ndarray) -> np.ndarray:
    """A view of an array of three axes with its channels last; see `channel_axis` for how they are found."""
    return np.moveaxis(array, channel_axis(array.shape), -1)


def channel_axis(shape: Sequence[int]) -> int:
    """Which axis of (C, H, W) or (H, W, C) counts channels: 0 or 2.

    An axis of at most four, the last before the first; else the one that differs from two equal ones; else the shorter.
    """
    first, middle, last = shape
    if last <= 4 or first <= 4:
        return 2 if last <= 4 else 0
    if first == middle:
        return 2
    if middle == last:
        return 0
    return 0 if first < last else 2


def is_colour(channels: int) -> bool:
    """Whether an image of so many channels is red, green and blue, so that colour operations mean something."""
    return channels == 3


def to_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """H×W×C to H×W×channels: grey to RGB by repetition, RGB to grey by luma (ITU-R BT.601).

    Raises Undecodable, with both numbers, for every other mismatch.
    """
    have = image.shape[2]
    if have == channels:
        return image
    if (have, channels) == (1, 3):
        return np.repeat(image, 3, axis=2)
    if (have, channels) == (3, 1):
        grey = image.astype(np.float32) @ np.asarray(_LUMA, np.float32)[:, None]
        return grey if image.dtype == np.float32 else np.rint(grey).astype(image.dtype)
    raise Undecodable(f"it has {have} channels where the others have {channels}")


@dataclass(frozen=True)
class ValueRange:
    """Which values become 0 and 255, per channel."""

    low: tuple[float, ...]
    high: tuple[float, ...]
    share_clipped: float
    """Share of all values outside the range, which become exactly 0 or 255."""


def value_range(images: Iterable[np.ndarray]) -> ValueRange:
    """The range of values of images H×W×C with the same number of channels.

    Images of uint8 have the range 0 to 255 and are left out of the estimate; of all others the percentiles 0.1 and 99.9
    of each channel count, over at most 4,096 evenly spaced pixels of each image. Raises DataError if there is no image,
    or if their numbers of channels differ.
    """
    channels = 0
    samples: list[np.ndarray] = []
    for image in images:
        if channels and image.shape[2] != channels:
            raise DataError(f"images of {channels} and of {image.shape[2]} channels have no common range of values.")
        channels = image.shape[2]
        if image.dtype != np.uint8:
            samples.append(sample_pixels(image, _SAMPLE))
    if not channels:
        raise DataError("no images, so no range of values.")
    if not samples:
        return ValueRange((0.0,) * channels, (255.0,) * channels, 0.0)
    values = np.concatenate(samples).astype(np.float32)
    low, high = np.percentile(values, [CLIP_PERCENT, 100 - CLIP_PERCENT], axis=0)
    clipped = float(((values < low) | (values > high)).mean())
    return ValueRange(tuple(map(float, low)), tuple(map(float, high)), clipped)


def sample_pixels(image: np.ndarray, count: int) -> np.ndarray:
    """At most `count` evenly spaced pixels of H×W×C, as [count, C]."""
    flat = image.reshape(-1, image.shape[2])
    return flat[np.linspace(0, len(flat) - 1, min(count, len(flat)), dtype=np.int64)]


def scale_to_uint8(image: np.ndarray, values: ValueRange) -> np.ndarray:
    """H×W×C to uint8: low becomes 0, high 255, linearly, and what is outside is clipped; uint8 is returned as it is."""
    if image.dtype == np.uint8:
        return image
    low, high = np.asarray(values.low, np.float32), np.asarray(values.high, np.float32)
    width = np.where(high > low, high - low, 1)
    return np.rint(np.clip((image.astype(np.float32) - low) / width, 0, 1) * 255).astype(np.uint8)
