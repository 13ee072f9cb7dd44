"""The images of the claims: CIFAR-10, crops of photographs, Zipf-skewed parts of them, shapes whose colour says nothing.

All are made from a seed alone, so every run of a claim, today or in a year, sees the same pixels.
Shapes: N images of S x S pixels, RGB, uint8 [N, S, S, 3]; labels int64 [N].
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unlabeled.data.labels import read_labels
from unlabeled.data.photographs import demo_set
from unlabeled.data.source import Source
from unlabeled.data.sources import open_source
from unlabeled.data.store import open_store
from unlabeled.errors import DataError
from unlabeled.randomness import numpy_generator

SIDE = 32
"""Pixels of a side, all sets alike."""
TILES = 100
"""Images in a row and in a column of a tiled shard."""
CLASSES = 18
"""Photographs of the demonstration set."""
SHAPES = ("disk", "square", "triangle", "plus", "ring", "bars", "hourglass", "half disk")
"""Classes of the colour-nuisance set."""
HUES = 8
"""Colours of it, every one equally often in every class."""


@dataclass(frozen=True)
class Images:
    """Labelled images; `colours` is the nuisance of the shapes, int64 [N], None for photographs."""

    pixels: np.ndarray
    labels: np.ndarray
    colours: np.ndarray | None = None

    def __getitem__(self, index: np.ndarray) -> Images:
        """Some of them."""
        return Images(self.pixels[index], self.labels[index], None if self.colours is None else self.colours[index])

    def __len__(self) -> int:
        return len(self.labels)


def cifar10(folder: Path, part: str, count: int) -> Images:
    """`count` images of CIFAR-10, the first of a fixed shuffle in which classes are as equal as they can be.

    folder: the archive or folder of the Python or binary version as downloaded, `train/` and `test/` with class folders, or
    lossless tiles `train_0.webp` ... `test.webp` with `labels.npz`.
    part: `train` or `test`.

    Raises:
        DataError: neither is there, or there are fewer images.
    """
    images = _tiles(folder, part, count) if (folder / "labels.npz").is_file() else _as_downloaded(folder, part)
    if len(images) < count:
        raise DataError(
            f"{count:,} {part} images are wanted and {folder} has {len(images):,}; choose a smaller --size."
        )
    return images[balanced(images.labels, count)]


def photographs(part: str, count: int) -> Images:
    """`count` crops of the demonstration set (`unlabeled.demo`); the class is the photograph.

    Raises:
        MissingExtraError: scikit-image, whose photographs these are, is not installed.
    """
    each = -(-count // CLASSES)
    made = demo_set(SIDE, train_per_photo=each, test_per_photo=each)
    pixels, labels = (made.train, made.train_labels) if part == "train" else (made.test, made.test_labels)
    images = Images(pixels, labels.astype(np.int64))
    return images[balanced(images.labels, count)]


def most_skewed(labels: np.ndarray, exponent: float = 1.0) -> int:
    """Images that a Zipf distribution over these classes can have before its most frequent class runs out."""
    counts = np.bincount(labels)
    share = (1 / np.arange(1, len(counts) + 1)) ** exponent
    return int(counts.min() * share.sum())


def zipf(labels: np.ndarray, count: int, *, exponent: float = 1.0, seed: int = 0) -> np.ndarray:
    """Rising positions [count] of images whose classes are as frequent as 1, 1/2, 1/3, ... to the power of `exponent`.

    The stand-in for YFCC100M in the papers (spec D14). Which class is the most frequent depends on the seed.

    Raises:
        DataError: a class has too few images for its share.
    """
    random = numpy_generator(seed, "zipf")
    classes = random.permutation(np.unique(labels))
    share = (1 / np.arange(1, len(classes) + 1)) ** exponent
    ends = np.rint(np.cumsum(share) / share.sum() * count).astype(int)
    chosen: list[np.ndarray] = []
    for label, wanted in zip(classes, np.diff(ends, prepend=0), strict=True):
        members = np.flatnonzero(labels == label)
        if len(members) < wanted:
            raise DataError(
                f"a skewed set of {count:,} needs {wanted:,} images of class {label}, there are {len(members):,}; take fewer."
            )
        chosen.append(random.permutation(members)[:wanted])
    return np.sort(np.concatenate(chosen))


def coloured_shapes(count: int, *, seed: int = 0, noise: float = 12.0) -> Images:
    """Shapes of eight classes in eight hues, turned, moved and scaled at random, on a coloured ground (spec D14).

    Every shape comes in every hue equally often (exactly, where `count` is a multiple of 64), so colour says nothing about
    the class. noise: standard deviation added to every pixel, in 0…255.
    """
    random = numpy_generator(seed, "coloured shapes")
    place = random.permutation(count)
    labels, colours = place % len(SHAPES), place // len(SHAPES) % HUES
    inside = _masks(labels, random)[:, :, :, None]
    hue = (colours + random.uniform(-0.3, 0.3, count)) / HUES
    shape = _rgb(hue, random.uniform(0.6, 1.0, count), random.uniform(0.5, 1.0, count))
    ground = _rgb(random.uniform(0, 1, count), random.uniform(0.2, 1.0, count), random.uniform(0.0, 0.45, count))
    pixels = ground[:, None, None] + inside * (shape - ground)[:, None, None]
    pixels = 255 * pixels + random.normal(0, noise, pixels.shape)
    return Images(pixels.clip(0, 255).astype(np.uint8), labels.astype(np.int64), colours.astype(np.int64))


def _masks(labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """How much of each pixel is inside the shape: [N, S, S] in 0…1, a soft edge about a pixel wide."""
    count = len(labels)
    turn, size = random.uniform(0, 2 * np.pi, count), random.uniform(7.0, 12.0, count)
    room = SIDE / 2 - size
    across, down = (random.uniform(-1, 1, count) * room for _ in range(2))
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    x, y = x - across[:, None, None], y - down[:, None, None]
    cos, sin, scale = (part[:, None, None] for part in (np.cos(turn), np.sin(turn), size))
    u, v = (cos * x + sin * y) / scale, (cos * y - sin * x) / scale
    result = np.empty((count, SIDE, SIDE))
    for number, name in enumerate(SHAPES):
        mine = labels == number
        # Signed distance to the outline in units of the shape, in pixels after the scale.
        result[mine] = (_depth(name, u[mine], v[mine]) * scale[mine] + 0.5).clip(0, 1)
    return result


def _depth(name: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Positive inside the shape, negative outside, about the distance to its outline; the shape fills -1…1."""
    radius = np.hypot(u, v)
    across, down = np.abs(u), np.abs(v)
    if name == "disk":
        return 0.85 - radius
    if name == "square":
        return 0.75 - np.maximum(across, down)
    if name == "triangle":
        return np.minimum(0.6 + v, 0.5 * (0.9 - v) - 0.87 * across)
    if name == "plus":
        return np.minimum(0.95 - np.maximum(across, down), 0.3 - np.minimum(across, down))
    if name == "ring":
        return 0.22 - np.abs(radius - 0.75)
    if name == "bars":
        return np.minimum(0.9 - down, 0.22 - np.abs(across - 0.55))
    if name == "hourglass":
        return np.minimum(0.9 - down, 0.7 * (down - across) + 0.08)
    return np.minimum(0.9 - radius, 0.15 - v)


def _rgb(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Hue in turns, saturation and value in 0…1, [N] each, to RGB [N, 3] in 0…1."""
    sector = (6 * hue[:, None] + np.array([5.0, 3.0, 1.0])) % 6
    dip = np.clip(np.minimum(sector, 4 - sector), 0, 1)
    return value[:, None] * (1 - saturation[:, None] * dip)


def balanced(labels: np.ndarray, count: int) -> np.ndarray:
    """Rising positions of the first `count` images in an order that takes the classes in turn."""
    turn = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        turn[members] = np.arange(len(members))
    return np.sort(np.lexsort((labels, turn))[:count])


def _tiles(folder: Path, part: str, count: int) -> Images:
    from PIL import Image

    with (folder / "labels.npz").open("rb") as file, np.load(file, allow_pickle=False) as archive:
        shards = {name: archive[name] for name in sorted(archive) if name.startswith(part)}
    pixels: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    for name, ids in shards.items():
        if sum(map(len, labels)) >= count:
            break
        with Image.open(folder / f"{name}.webp") as picture:
            tiles = np.asarray(picture.convert("RGB")).reshape(TILES, SIDE, TILES, SIDE, 3)
        pixels.append(tiles.swapaxes(1, 2).reshape(-1, SIDE, SIDE, 3))
        labels.append(ids.astype(np.int64))
    return Images(np.concatenate(pixels), np.concatenate(labels))


def _as_downloaded(data: Path, part: str) -> Images:
    source = _source(data, part)
    store = open_store(source, short_side=SIDE, cache=None)
    if store.uniform is None or tuple(store.uniform.shape[1:]) != (SIDE, SIDE, 3):
        raise DataError(f"the {part} images of {data} must all be {SIDE} x {SIDE} RGB.")
    images = Images(store.uniform.numpy(), read_labels(source, "folder").ids[store.index_in_source])
    # Folders come class by class; the shards are shuffled.
    return images[numpy_generator(0, "class folders").permutation(len(images))]


def _source(data: Path, part: str) -> Source:
    if (data / part).is_dir():
        return open_source(data / part)
    test = f"test_batch{'.bin' if 'bin' in data.name else ''}"
    if data.is_file():
        return open_source(data if part == "train" else f"{data}:{test}")
    if (data / test).is_file():
        return open_source(data if part == "train" else data / test)
    raise DataError(
        f"no CIFAR-10 in {data}: give --data the archive or the folder as downloaded (cifar-10-python.tar.gz), a folder with "
        "`train/` and `test/` of class folders, or one with the tiles `train_0.webp` … and `labels.npz`."
    )
