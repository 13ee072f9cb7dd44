"""Generated pictures of coloured rectangles with their boxes, for tests of detection; and real devkits, unpacked."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from unlabeled.data.voc import VocImage
from unlabeled.evaluation.detection.proposals import propose
from unlabeled.evaluation.voc_detection import DetectionImages

COLOURS = torch.tensor([[220, 40, 40], [40, 200, 60], [60, 60, 230]], dtype=torch.uint8)
NAMES = ("blue", "green", "red")[::-1]


def rectangles(count: int, seed: int) -> tuple[list[VocImage], dict[str, torch.Tensor]]:
    """Grey noise of 48 × 64 with one or two rectangles; the class is the colour."""
    random = np.random.default_rng(seed)
    images: list[VocImage] = []
    pixels: dict[str, torch.Tensor] = {}
    for number in range(count):
        picture = torch.from_numpy(random.integers(90, 140, (3, 48, 64), dtype=np.uint8))
        boxes: list[list[float]] = []
        labels: list[int] = []
        for left in (0, 32)[: 1 + number % 2]:
            width, height = random.integers(14, 28, 2).tolist()
            x, y = left + int(random.integers(0, 32 - width)), int(random.integers(0, 48 - height))
            kind = (number + len(labels)) % 3
            picture[:, y : y + height, x : x + width] = COLOURS[kind][:, None, None]
            boxes.append([x, y, x + width - 1, y + height - 1])
            labels.append(kind)
        name = f"{seed}-{number}"
        pixels[name] = picture
        difficult = torch.zeros(len(labels), dtype=torch.bool)
        box, label = torch.tensor(boxes, dtype=torch.float32), torch.tensor(labels)
        images.append(VocImage(name, Path(name), (48, 64), box, label, difficult, None))
    return images, pixels


def made_pictures(count: int, seed: int, *, given: bool = True) -> DetectionImages:
    """`rectangles` with proposals computed."""
    images, pixels = rectangles(count, seed)
    regions = [torch.from_numpy(propose(pixels[image.name].permute(1, 2, 0).numpy())) for image in images]
    return DetectionImages(images, lambda image: pixels[image.name], regions if given else None)


def write_devkit(folder: Path, counts: dict[str, int]) -> Path:
    """`rectangles` as a devkit: a picture and an annotation each, and a list for every split."""
    root = folder / "VOCmade"
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / part).mkdir(parents=True, exist_ok=True)
    for seed, (split, count) in enumerate(counts.items()):
        images, pixels = rectangles(count, seed)
        for image in images:
            Image.fromarray(pixels[image.name].permute(1, 2, 0).numpy()).save(root / f"JPEGImages/{image.name}.png")
            objects = "".join(
                f"<object><name>{NAMES[label]}</name><difficult>0</difficult><bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin>"
                f"<xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
                for label, box in zip(image.labels.tolist(), (image.boxes + 1).tolist(), strict=True)
            )
            (root / f"Annotations/{image.name}.xml").write_text(f"<annotation>{objects}</annotation>")
        (root / f"ImageSets/Main/{split}.txt").write_text("\n".join(image.name for image in images))
    return root


def unpack(shared_data: Path, name: str, folder: Path) -> Path:
    """A devkit of ../shared/data, unpacked into `folder`."""
    with zipfile.ZipFile(shared_data / name / f"{name}.zip") as archive:
        archive.extractall(folder)
    return next(iter(sorted((folder / "VOCdevkit").iterdir())))
