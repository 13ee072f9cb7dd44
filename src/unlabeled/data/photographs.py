"""The demonstration set: crops of the photographs that ship inside the wheels of scikit-image and scikit-learn.

Each source photograph is one class, and the class serves for scoring only. Training crops come from the left 60 % of
a photograph and test crops from its right 38 %, with a strip of 2 % between them that nobody sees, so that a test crop
shares no pixel with a training crop. Nothing is downloaded: files are read by name from the folders of the installed
packages, and neither package is imported, so scikit-image's own downloader (pooch) is never asked.

What the packages say about the pictures. Dedicated to the public domain (CC0, or "no known copyright restrictions"):
astronaut, hubble_deep_field (NASA), brick, grass, gravel, camera (Lav Varshney), cell (Müller et al. 2018), chelsea
(Stéfan van der Walt), coffee (Rachel Michetti), coins (Brooklyn Museum), ihc (CMMI), retina (Mikael Häggström), rocket
(SpaceX). Part of the Middlebury 2014 stereo benchmark: motorcycle_left. No statement of their own: moon, page. Creative
Commons Attribution 2.0, from scikit-learn: china (danielbuechele), flower (vultilion). This package ships none of them.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from unlabeled.errors import DataError, MissingExtraError
from unlabeled.randomness import numpy_generator

TRAIN_SHARE = 0.60
TEST_SHARE = 0.38
CROP_SIDES = (40, 96)

# Left out: the right twin of the motorcycle, drawings, binary pictures, and pictures too small to cut in two.
_PHOTOGRAPHS = {
    "skimage": (
        "data",
        (
            "astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "coffee.png", "coins.png",
            "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png",
            "page.png", "retina.jpg", "rocket.jpg",
        ),
    ),
    "sklearn": ("datasets/images", ("china.jpg", "flower.jpg")),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class DemoSet:
    """Crops as uint8 [n, S, S, 3], the photograph each was cut from as int64 [n], and the photographs' names."""

    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray
    class_names: list[str]


def demo_set(size: int = 32, seed: int = 0, *, train_per_photo: int = 200, test_per_photo: int = 60) -> DemoSet:
    """Cut the demonstration set: 18 photographs, 3,600 training and 1,080 test crops at the defaults.

    A crop is a square of 40 to 96 pixels (uniform), at a uniform place of its region, resized to `size` pixels with
    antialiasing; grey photographs are repeated to three channels. The crops come in random order. The same arguments
    give the same arrays.

    Raises MissingExtraError if scikit-image is not installed, DataError if a photograph is not where the wheel puts it.
    """
    if size < 1 or train_per_photo < 1 or test_per_photo < 1:
        given = f"size {size}, train_per_photo {train_per_photo}, test_per_photo {test_per_photo}"
        raise DataError(f"the demonstration set needs numbers of at least 1, got {given}; raise the one below 1.")
    files = photograph_files()
    train: list[np.ndarray] = []
    test: list[np.ndarray] = []
    for path in files:
        with Image.open(path) as opened:
            photograph = opened.convert("RGB")
        width, height = photograph.size
        # Each region is cut off before anything is resampled: a filter can then not look across the border.
        left = photograph.crop((0, 0, int(TRAIN_SHARE * width), height))
        right = photograph.crop((width - int(TEST_SHARE * width), 0, width, height))
        train.append(_crops(left, train_per_photo, size, numpy_generator(seed, "demo crops", "train", path.stem)))
        test.append(_crops(right, test_per_photo, size, numpy_generator(seed, "demo crops", "test", path.stem)))
    train_images, train_labels = _shuffled(train, numpy_generator(seed, "demo order", "train"))
    test_images, test_labels = _shuffled(test, numpy_generator(seed, "demo order", "test"))
    return DemoSet(train_images, train_labels, test_images, test_labels, [path.stem for path in files])


def photograph_files() -> list[Path]:
    """Paths of the source photographs inside the installed packages, sorted by name.

    Raises MissingExtraError if scikit-image is not installed, DataError if a file is missing from its package.
    """
    files: list[Path] = []
    for package, (folder, names) in _PHOTOGRAPHS.items():
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise MissingExtraError("The demonstration set of photographs", "demo")
        root = Path(next(iter(spec.submodule_search_locations)))
        for name in names:
            path = root / folder / name
            if not path.is_file():
                raise DataError(f"{package} should hold {folder}/{name} and does not; reinstall that package.")
            files.append(path)
    return sorted(files, key=lambda path: path.stem)


def _crops(region: Image.Image, count: int, size: int, generator: np.random.Generator) -> np.ndarray:
    """`count` random square crops of one region as uint8 [count, size, size, 3]."""
    width, height = region.size
    longest = min(CROP_SIDES[1], width, height)
    sides = generator.integers(CROP_SIDES[0], longest, size=count, endpoint=True)
    lefts = generator.integers(0, width - sides, endpoint=True)
    tops = generator.integers(0, height - sides, endpoint=True)
    crops = np.empty((count, size, size, 3), dtype=np.uint8)
    for i, (left, top, side) in enumerate(zip(lefts.tolist(), tops.tolist(), sides.tolist(), strict=True)):
        crop = region.crop((left, top, left + side, top + side))
        crops[i] = np.asarray(crop.resize((size, size), Image.Resampling.BILINEAR))
    return crops


def _shuffled(per_class: list[np.ndarray], generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    labels = np.repeat(np.arange(len(per_class), dtype=np.int64), [len(crops) for crops in per_class])
    order = generator.permutation(len(labels))
    return np.concatenate(per_class)[order], labels[order]
