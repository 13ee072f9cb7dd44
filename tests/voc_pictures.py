"""A devkit of small pictures: bright squares of one colour a class on dark ground, with boxes, labels and masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"cat": (220, 60, 60), "dog": (60, 220, 60), "sheep": (60, 60, 220)}


def write_devkit(folder: Path, train: int = 24, test: int = 12, side: int = 40) -> Path:
    """Splits train, val (half of each pair) and test of Main and Segmentation; pictures are side × (side + 8)."""
    root = folder / "VOC2007"
    for name in ("JPEGImages", "Annotations", "ImageSets/Main", "ImageSets/Segmentation", "SegmentationClass"):
        (root / name).mkdir(parents=True)
    splits = {"train": range(train // 2), "val": range(train // 2, train), "test": range(train, train + test)}
    for split, numbers in splits.items():
        for number in numbers:
            _write(root, f"{number:03d}", number, side)
        for task in ("Main", "Segmentation"):
            names = "".join(f"{number:03d}\n" for number in numbers)
            (root / "ImageSets" / task / f"{split}.txt").write_text(names)
    for task in ("Main", "Segmentation"):
        names = "".join(f"{number:03d}\n" for number in range(train))
        (root / "ImageSets" / task / "trainval.txt").write_text(names)
    for name in COLOURS:
        (root / "ImageSets" / "Main" / f"{name}_train.txt").touch()
    return folder


def _write(root: Path, name: str, number: int, side: int) -> None:
    random = np.random.default_rng(number)
    pixels = random.integers(0, 50, (side, side + 8, 3)).astype(np.uint8)
    mask = np.zeros(pixels.shape[:2], np.uint8)
    objects: list[str] = []
    for i in {number % 3, int(random.integers(3))}:
        top, left = random.integers(0, side // 2, 2).tolist()
        half = side // 2
        pixels[top : top + half, left : left + half] = list(COLOURS.values())[i]
        mask[top : top + half, left : left + half] = i + 1
        kind, box = list(COLOURS)[i], (left + 1, top + 1, left + half, top + half)
        numbers = "".join(
            f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        )
        objects.append(f"<object><name>{kind}</name><difficult>0</difficult><bndbox>{numbers}</bndbox></object>")
    mask[0] = 255
    Image.fromarray(pixels).save(root / "JPEGImages" / f"{name}.jpg", quality=95)
    Image.fromarray(mask).save(root / "SegmentationClass" / f"{name}.png")
    (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{''.join(objects)}</annotation>")
