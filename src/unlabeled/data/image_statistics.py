"""Cheap statistics of every image that a person understands: how bright, how sharp, which colour, how large, how old.

They say what a clustering may have been made by besides content. Shapes: N images, n those of this rank, h×w an image of
the store, C channels. Pixels are those of the store: what the network was given, not the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from unlabeled.distributed import all_gather_rows, shard

if TYPE_CHECKING:
    from unlabeled.data.source import Source
    from unlabeled.data.store import ImageStore

HUES: Final = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
_HUE_ENDS: Final = np.array([18, 45, 70, 165, 200, 255, 290, 342])
"""Degrees at which a hue ends and the next begins; red begins again behind pink."""
COLOURS: Final = ("black", "grey", "white", *HUES)
COLOURFUL: Final = 0.2
"""A pixel is of a hue where its channels differ by this share of 255 or more (and by as large a share of the largest)."""
COLOURFUL_SHARE: Final = 0.05
"""Share of colourful pixels from which an image has a hue."""
MOST_PIXELS: Final = 64
"""Pixels of a side that colours are counted on; a grid of them, where there are more."""
SECONDS_OF_A_DAY: Final = 86_400
LEAST_DAYS: Final = 1.0
"""Between the early and the late files, from which dates are those of the images and not of a copy."""
AT_ONCE: Final = 65_536
"""Pixels looked at in one call."""
PARTS_WAITING: Final = 1024
MEASURED: Final = ("brightness", "contrast", "sharpness", "saturation", "colour", "height", "width")
"""What is measured of an image: the pixels of the store, a position in `COLOURS`, the pixels of a side of the file."""


@dataclass(frozen=True)
class Statistic:
    """One number, or one of some names, for every image."""

    name: str
    kind: Literal["number", "category"]
    values: NDArray[np.float64]
    """[N]; for a category its position in `categories`. NaN, or -1 for a category: not known."""
    low: str
    """What an image with a small value is, for example "darker"; "" for a category."""
    high: str
    """What an image with a large value is."""
    categories: tuple[str, ...] = ()
    is_date: bool = False
    """Whether a number counts the days since 1970."""

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which images have a value, [N]: others are NaN, or -1 for a category."""
        return self.values >= 0 if self.categories else np.isfinite(self.values)


def image_statistics(
    store: ImageStore, source: Source | None = None, progress: Callable[[int, str], None] | None = None
) -> list[Statistic]:
    """The statistics of the images of a store; of `source`, where it is given, also dates of files and folders.

    It looks at every pixel, see `measure`, and says what it saw, see `described`. Several ranks: each looks at its part.
    """
    found = described(measure(store, progress), store.is_colour)
    return found if source is None else [*found, *of_files(store.names, source, store.index_in_source)]


def measure(store: ImageStore, progress: Callable[[int, str], None] | None = None) -> NDArray[np.float32]:
    """What there is to measure of every image of a store: float32 [N, 7], columns as in `MEASURED`.

    `progress` is called with the number of images looked at and a note. Several ranks: each looks at its part.
    """
    mine = range(len(store))[shard(len(store))]
    rows = torch.zeros(len(mine), len(MEASURED))
    done = 0
    # The arithmetic of NumPy lets go of the interpreter, so that cores share the images.
    with ThreadPoolExecutor() as pool:
        parts = _alike(store, mine)
        # Of a million images of all sizes not every one waits in the pool at the same time.
        while block := list(islice(parts, PARTS_WAITING)):
            for found in pool.map(lambda part: _of_images(store, part), block):
                rows[done : done + len(found)] = torch.from_numpy(found)
                done += len(found)
                if progress:
                    progress(done, "")
    return all_gather_rows(rows).numpy()


def described(measured: NDArray[np.float32], is_colour: bool) -> list[Statistic]:
    """What `measure` found, [N, 7], as statistics with names.

    Numbers: brightness (mean, 0…1), contrast (standard deviation, 0…1), sharpness (log10 of the mean squared Laplacian),
    saturation (mean, 0…1), size (log2 of the pixels of the file), aspect (log2 of width over height). A category: colour
    (the commonest hue, or black, grey, white). Those that are the same for all images are left out, and those of colour
    where the images have none.
    """
    brightness, contrast, sharpness, saturation, colour, height, width = measured.astype(np.float64).T
    found = [
        Statistic("brightness", "number", brightness, "darker", "brighter"),
        Statistic("contrast", "number", contrast, "flatter", "richer in contrast"),
        Statistic("sharpness", "number", sharpness, "more blurred", "sharper"),
        Statistic("size", "number", np.log2(height * width), "smaller", "larger"),
        Statistic("aspect", "number", np.log2(width / height), "narrower", "wider"),
    ]
    if is_colour:
        found.append(Statistic("saturation", "number", saturation, "paler", "more colourful"))
        found.append(Statistic("colour", "category", colour, "", "", COLOURS))
    return [one for one in found if _tells(one)]


def of_files(names: Sequence[str], source: Source, index: NDArray[np.int64]) -> list[Statistic]:
    """Folder (a category) and date (days since 1970) of the files of images; `index` [N] is where each is in `source`.

    What is the same for all images is left out, and so are dates that lie within a day, but for a tenth of the images: they
    say in which order the files were copied, which clusters seem to follow wherever a folder holds one kind of thing.
    Reads no file.
    """
    folders, member = np.unique([name.rpartition("/")[0] for name in names], return_inverse=True)
    categories = tuple(str(name or ".") for name in folders)
    found = [Statistic("folder", "category", member.astype(np.float64), "", "", categories)]
    # Only files of their own have dates: a fingerprint of theirs is size, time of change of content, and of the entry.
    dates = [source.fingerprint(i)[1] if i >= 0 and source.location(i) is not None else -1 for i in index.tolist()]
    days = np.array([float(date) if isinstance(date, int) else -1.0 for date in dates]) / 1e9 / SECONDS_OF_A_DAY
    if (days > 0).all() and np.ptp(np.quantile(days, (0.05, 0.95))) >= LEAST_DAYS:
        found.append(Statistic("date", "number", days, "older", "newer", is_date=True))
    return [one for one in found if _tells(one)]


def _tells(one: Statistic) -> bool:
    return len(np.unique(one.values)) > 1


def _alike(store: ImageStore, rows: range) -> Iterator[range]:
    # Neighbouring images of one size, as many as make an array that is worth the call and still fits the cache.
    start = rows.start
    while start < rows.stop:
        size = store.sizes[start]
        most = min(rows.stop, start + max(1, AT_ONCE // max(1, int(size.prod()))))
        others = (store.sizes[start:most] != size).any(1).nonzero()
        end = start + int(others[0]) if len(others) else most
        yield range(start, end)
        start = end


def _of_images(store: ImageStore, rows: range) -> NDArray[np.float32]:
    # The columns of MEASURED of images of one size.
    pixels = np.stack([store.pixels(i).numpy() for i in rows])
    found = np.zeros((len(rows), len(MEASURED)), np.float32)
    found[:, :5] = _of_pixels(pixels, store.is_colour)
    found[:, 5:] = store.original_sizes[rows.start : rows.stop].numpy()
    return found


def _of_pixels(pixels: NDArray[np.uint8], is_colour: bool) -> NDArray[np.float32]:
    # Brightness, contrast, sharpness, saturation, colour, [B, 5], of uint8 [B, h, w, C]; each image for itself.
    count, channels = len(pixels), pixels.shape[3]
    grey = pixels[..., 0].astype(np.float32)
    for channel in range(1, channels):
        grey += pixels[..., channel]
    grey /= 255 * channels
    found = np.zeros((count, 5), np.float32)
    found[:, 0] = brightness = grey.reshape(count, -1).mean(1)
    found[:, 1] = grey.reshape(count, -1).std(1)
    found[:, 2] = -6.0
    if min(grey.shape[1:]) > 2:
        laplacian = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
        laplacian -= 4 * grey[:, 1:-1, 1:-1]
        found[:, 2] = np.log10(np.maximum(np.square(laplacian).reshape(count, -1).mean(1), 1e-6))
    if is_colour:
        step = max(-(-max(grey.shape[1:]) // MOST_PIXELS), 1)
        few = np.divide(pixels[:, ::step, ::step].reshape(count, -1, 3), 255, dtype=np.float32)
        red, green, blue = (few[..., channel] for channel in range(3))
        largest = np.maximum(np.maximum(red, green), blue)
        chroma = largest - np.minimum(np.minimum(red, green), blue)
        found[:, 3] = (chroma / np.maximum(largest, 1e-3)).mean(1)
        found[:, 4] = _colours(few, largest, chroma, brightness)
    return found


def _colours(
    few: NDArray[np.float32], largest: NDArray[np.float32], chroma: NDArray[np.float32], brightness: NDArray[np.float32]
) -> NDArray[np.int64]:
    # Positions [B] in COLOURS of the commonest hues of pixels [B, P, 3] in 0…1.
    colourful = (chroma >= COLOURFUL) & (chroma >= COLOURFUL * largest)
    image, _ = np.nonzero(colourful)
    bins = len(HUES) * image + _hue_bin(few[colourful], chroma[colourful])
    counts = np.bincount(bins, minlength=len(HUES) * len(few)).reshape(len(few), len(HUES))
    plain = np.where(brightness < 0.2, 0, np.where(brightness > 0.8, 2, 1))
    return np.where(colourful.mean(1) < COLOURFUL_SHARE, plain, 3 + counts.argmax(1))


def _hue_bin(rgb: NDArray[np.float32], chroma: NDArray[np.float32]) -> NDArray[np.int64]:
    red, green, blue = rgb.T
    brightest = rgb.argmax(1)
    sector = np.choose(brightest, [(green - blue) / chroma, (blue - red) / chroma + 2, (red - green) / chroma + 4])
    return np.searchsorted(_HUE_ENDS, (60 * sector) % 360, side="right") % len(HUES)
