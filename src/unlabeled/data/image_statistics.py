"""Cheap statistics of every image that a person understands: how bright, how sharp, which colour, how large, how old.

They say what a clustering may have been made by besides content. Shapes: N images, n those of this rank, h×w an image of
the store, C channels. Pixels are those of the store: what the network was given, not the file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Statistic:
    """One number, or one of some names, for every image."""

    name: str
    kind: Literal["number", "category"]
    values: NDArray[np.float64]
    """[N]; for a category its position in `categories`."""
    low: str
    """What an image with a small value is, for example "darker"; "" for a category."""
    high: str
    """What an image with a large value is."""
    categories: tuple[str, ...] = ()


def image_statistics(
    store: ImageStore, source: Source | None = None, progress: Callable[[int, str], None] | None = None
) -> list[Statistic]:
    """The statistics of the images of a store; of `source`, where it is given, also dates of files and folders.

    Numbers: brightness (mean, 0…1), contrast (standard deviation, 0…1), sharpness (log10 of the mean squared Laplacian),
    saturation (mean, 0…1), size (log2 of the pixels of the file), aspect (log2 of width over height), date (days since
    1970, of the file). Categories: colour (the commonest hue, or black, grey, white), folder. Those that are the same for
    all images are left out, and those of colour where the images have none. Several ranks: each looks at its part.
    """
    mine = range(len(store))[shard(len(store))]
    rows = torch.zeros(len(mine), 5, dtype=torch.float64)
    for place, i in enumerate(mine):
        rows[place] = torch.tensor(_of_pixels(store.pixels(i).numpy(), store.is_colour))
        if progress:
            progress(place + 1, "")
    table = all_gather_rows(rows).numpy()
    height, width = store.original_sizes.numpy().astype(np.float64).T
    found = [
        Statistic("brightness", "number", table[:, 0], "darker", "brighter"),
        Statistic("contrast", "number", table[:, 1], "flatter", "richer in contrast"),
        Statistic("sharpness", "number", table[:, 2], "more blurred", "sharper"),
        Statistic("size", "number", np.log2(height * width), "smaller", "larger"),
        Statistic("aspect", "number", np.log2(width / height), "narrower", "wider"),
    ]
    if store.is_colour:
        found.append(Statistic("saturation", "number", table[:, 3], "paler", "more colourful"))
        found.append(Statistic("colour", "category", table[:, 4], "", "", COLOURS))
    if source is not None:
        found += _of_files(store, source)
    return [one for one in found if len(np.unique(one.values)) > 1]


def _of_pixels(pixels: NDArray[np.uint8], is_colour: bool) -> tuple[float, float, float, float, float]:
    # Brightness, contrast, sharpness, saturation, colour of uint8 [h, w, C].
    grey = pixels.mean(2, dtype=np.float32) / 255
    sharpness = -6.0
    if min(grey.shape) > 2:
        inside = grey[1:-1, 1:-1]
        laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * inside
        sharpness = float(np.log10(max(float(np.mean(laplacian**2)), 1e-6)))
    brightness, contrast = float(grey.mean()), float(grey.std())
    if not is_colour:
        return brightness, contrast, sharpness, 0.0, 0.0
    step = max(-(-max(pixels.shape[:2]) // MOST_PIXELS), 1)
    few = np.divide(pixels[::step, ::step].reshape(-1, 3), 255, dtype=np.float32)
    largest, chroma = few.max(1), few.max(1) - few.min(1)
    saturation = float((chroma / np.maximum(largest, 1e-3)).mean())
    return brightness, contrast, sharpness, saturation, float(_colour(few, largest, chroma, brightness))


def _colour(
    few: NDArray[np.float32], largest: NDArray[np.float32], chroma: NDArray[np.float32], brightness: float
) -> int:
    # Position in COLOURS of the commonest hue of pixels [P, 3] in 0…1.
    colourful = (chroma >= COLOURFUL) & (chroma >= COLOURFUL * largest)
    if colourful.mean() < COLOURFUL_SHARE:
        return 0 if brightness < 0.2 else 2 if brightness > 0.8 else 1
    counts = np.bincount(_hue_bin(few[colourful], chroma[colourful]), minlength=len(HUES))
    return 3 + int(counts.argmax())


def _hue_bin(rgb: NDArray[np.float32], chroma: NDArray[np.float32]) -> NDArray[np.int64]:
    red, green, blue = rgb.T
    brightest = rgb.argmax(1)
    sector = np.choose(brightest, [(green - blue) / chroma, (blue - red) / chroma + 2, (red - green) / chroma + 4])
    return np.searchsorted(_HUE_ENDS, (60 * sector) % 360, side="right") % len(HUES)


def _of_files(store: ImageStore, source: Source) -> list[Statistic]:
    folders = [name.rpartition("/")[0] for name in store.names]
    names, member = np.unique(folders, return_inverse=True)
    found = [
        Statistic("folder", "category", member.astype(np.float64), "", "", tuple(str(name or ".") for name in names))
    ]
    # Only files of their own have dates: a fingerprint of theirs is size, time of change of content, and of the entry.
    dates = [
        source.fingerprint(int(i))[1] if source.location(int(i)) is not None else -1 for i in store.index_in_source
    ]
    days = np.array([float(date) if isinstance(date, int) else -1.0 for date in dates]) / 1e9 / SECONDS_OF_A_DAY
    if (days > 0).all():
        found.append(Statistic("date", "number", days, "older", "newer"))
    return found
