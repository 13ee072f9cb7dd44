"""A folder in the layout of the PASCAL VOC devkit: splits, boxes, labels and masks, with any class names.

    VOC2007/JPEGImages/000012.jpg            the picture (any ending that can be decoded)
            Annotations/000012.xml           its objects
            ImageSets/Main/train.txt         names of a split, one a line
            ImageSets/Segmentation/val.txt   likewise, of pictures with masks
            SegmentationClass/000012.png     class of each pixel, 0 = background, 255 = undecided

**Boxes.** VOC counts pixels from 1 and both corners belong to the box. Here they count from 0 and both corners still
belong to the box: 1 is taken from every number and nothing else, so a box is x2 - x1 + 1 pixels wide. `metrics` reads
boxes the same way. For libraries whose boxes are intervals (torchvision) add 1 to x2 and y2.

Nothing odd in an annotation stops the run: `VocSplit.skipped` and `VocSplit.notes` say in sentences what was left out.
Shapes: n objects of a picture, N pictures, C classes. Spec D04, D05.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import numpy as np
import torch
from PIL import Image

from unlabeled import progress
from unlabeled.data.decode import DECODER_ERRORS, decode
from unlabeled.data.pixels import Undecodable
from unlabeled.data.source import IMAGE_ENDINGS, FileSource, read_file
from unlabeled.errors import DataError, unknown_name

__all__ = ["CLASSES", "UNDECIDED", "VocImage", "VocSplit", "classification_labels", "read_mask", "read_voc"]

Task = Literal["Main", "Segmentation"]

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""The twenty classes of VOC 2007 and 2012, in the order that gives them their numbers."""
UNDECIDED = 255
"""Value of a mask where the annotators would not decide."""

_CLASS_FILE = re.compile(r"(.+)_(?:train|val|trainval|test)\.txt")


@dataclass(frozen=True, eq=False)
class VocImage:
    """One picture and what is in it."""

    name: str
    """As the split names it."""
    path: Path
    """The picture."""
    size: tuple[int, int]
    """Height and width, pixels."""
    boxes: torch.Tensor
    """float32 [n, 4]: x1, y1, x2, y2, counted from 0, both corners inside the box."""
    labels: torch.Tensor
    """int64 [n]: position of the object's class in `VocSplit.class_names`."""
    difficult: torch.Tensor
    """bool [n]: objects that are hard to recognise; they neither count nor cost."""
    mask: Path | None
    """Its segmentation mask, where there is one; see `read_mask`."""


@dataclass(frozen=True, eq=False)
class VocSplit:
    """The pictures of a split that can be used."""

    root: Path
    """The folder that holds JPEGImages."""
    split: str
    """Its name, such as trainval."""
    images: list[VocImage]
    class_names: list[str]
    """Without background: a mask's value i > 0 is class i - 1 here."""
    skipped: list[tuple[str, str]]
    """Pictures left out: name and a sentence that names the file."""
    notes: list[str]
    """Sentences about objects that were clipped or left out."""

    def source(self) -> FileSource:
        """The pictures as a source, in order, to be opened like any other."""
        paths = [str(image.path) for image in self.images]
        return FileSource(self.root, f"VOC split {self.split}", paths, [image.name for image in self.images], "")


def read_voc(
    devkit: str | Path,
    split: str,
    *,
    task: Task = "Main",
    class_names: Sequence[str] | None = None,
    decode_all: bool = False,
) -> VocSplit:
    """The pictures that ImageSets/`task`/`split`.txt names.

    devkit: the folder that holds JPEGImages, or a folder above it (VOCdevkit) that holds one such.
    split: any name for which there is a file; trainval may also be given by its two parts.
    task: with "Segmentation" every picture has a mask, checked here; annotations may then be missing.
    class_names: those of the training split, so that numbers mean the same. If not given: the classes for which
    ImageSets/Main has files (dog_train.txt), else VOC's twenty if no other name occurs, else the names that occur, sorted.
    decode_all: decode every picture now, so that a damaged one is skipped here and not found in the middle of a training;
    without it only the head of each is read.

    Raises:
        DataError: no such folder or split, or no picture of it can be used.
    """
    root = _root(Path(devkit))
    listing = root / "ImageSets" / task
    reader = _Reader(root, listing / f"{split}.txt", task, decode_all)
    names = _names(listing, split, reader.notes)
    read = ((name, reader.annotation(name)) for name in names)
    annotations = {name: found for name, found in read if found is not None}
    classes = list(class_names) if class_names is not None else _class_names(root, annotations.values())
    images: list[VocImage] = []
    with progress.bar(f"reading {root.name} {split}", len(annotations)) as update:
        for number, (name, found) in enumerate(annotations.items(), start=1):
            image = reader.image(name, found, classes)
            images += [image] if image else []
            update(number, "")
    if not images:
        first = f"; the first: {reader.skipped[0][1]}" if reader.skipped else ""
        raise DataError(f"none of the {len(names):,} pictures of {listing / split}.txt can be used{first}")
    return VocSplit(root, split, images, classes, reader.skipped, reader.notes)


def classification_labels(split: VocSplit) -> torch.Tensor:
    """int64 [N, C]: 1 where a class is in the picture, 0 where only difficult objects of it are, -1 where none is.

    The coding of VOC's own files (dog_train.txt); scores leave the zeros out.
    """
    labels = torch.full((len(split.images), len(split.class_names)), -1)
    for row, image in zip(labels, split.images, strict=True):
        row[image.labels[image.difficult]] = 0
        row[image.labels[~image.difficult]] = 1
    return labels


def read_mask(image: VocImage, num_classes: int) -> torch.Tensor:
    """uint8 [H, W] of 0 (background) to `num_classes`, and 255 where undecided.

    Raises:
        DataError: no mask, not readable, of another size than the picture, or with a class that has no name.
    """
    path = image.mask
    if path is None:
        raise DataError(f"{image.path} has no mask; SegmentationClass must hold {image.name}.png.")
    try:
        content = io.BytesIO(read_file(str(path)))
        # Only PNG: after lossy compression a mask is none any more.
        with warnings.catch_warnings(action="ignore"), Image.open(content, formats=("PNG",)) as file:
            mode, values = file.mode, np.array(file)
    except Undecodable as error:
        raise DataError(f"the mask {path} cannot be read: {error.reason}.") from None
    except DECODER_ERRORS:
        raise DataError(f"the mask {path} cannot be read: it is no PNG image, or a damaged one.") from None
    if mode not in ("P", "L"):
        raise DataError(
            f"the mask {path} is a PNG of colours ({mode}), it must hold one class number a pixel (a palette or grey PNG)."
        )
    if values.shape != image.size:
        raise DataError(
            f"the mask {path} has {values.shape[0]} × {values.shape[1]} pixels and its picture {image.size[0]} × "
            f"{image.size[1]} (height × width); they must be equal."
        )
    highest = int(values[values != UNDECIDED].max(initial=0))
    if highest > num_classes:
        raise DataError(
            f"the mask {path} holds the class {highest}, but there are {num_classes} (and 0 for background, 255 for undecided)."
        )
    return torch.from_numpy(values)


class _Reader:
    """Reads one picture after the other and keeps what was wrong."""

    def __init__(self, root: Path, listing: Path, task: Task, decode_all: bool) -> None:
        self.root, self.listing, self.task, self.decode_all = root, listing, task, decode_all
        self.skipped: list[tuple[str, str]] = []
        self.notes: list[str] = []

    @cached_property
    def files(self) -> dict[str, str]:
        """File of JPEGImages by its name without ending."""
        found: dict[str, str] = {}
        for entry in sorted(path.name for path in (self.root / "JPEGImages").iterdir()):
            stem, _, end = entry.rpartition(".")
            if end.lower() in IMAGE_ENDINGS:
                found.setdefault(stem, entry)
                found[entry] = entry
        return found

    def annotation(self, name: str) -> Annotation | None:
        """The objects of a picture, None (and a sentence) if the picture cannot be used."""
        if name not in self.files:
            path = self.root / "JPEGImages" / f"{name}.jpg"
            return self._skip(name, f"{path} is not there, but {self.listing} names it.")
        path = self.root / "Annotations" / f"{Path(self.files[name]).stem}.xml"
        if self.task == "Segmentation" and not path.exists():
            return Annotation((), ())
        try:
            return read_annotation(path)
        except Undecodable as error:
            return self._skip(name, f"the annotation {path} cannot be used: {error.reason}.")

    def image(self, name: str, found: Annotation, classes: list[str]) -> VocImage | None:
        """The picture with those of its objects that can be used, None (and a sentence) if it cannot be."""
        path = self.root / "JPEGImages" / self.files[name]
        try:
            size = _size(path)
            if self.decode_all:
                decode(read_file(str(path)), path.name)
        except Undecodable as error:
            return self._skip(name, f"{path} cannot be used: {error.reason}.")
        boxes, labels, difficult = self._objects(path.stem, found, classes, size)
        mask = self.root / "SegmentationClass" / f"{path.stem}.png"
        image = VocImage(name, path, size, boxes, labels, difficult, mask if mask.is_file() else None)
        if self.task == "Segmentation":
            try:
                read_mask(image, len(classes))
            except DataError as error:
                return self._skip(name, str(error))
        return image

    def _objects(
        self, stem: str, found: Annotation, classes: list[str], size: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        where = f"Annotations/{stem}.xml"
        self.notes += [f"{where}: {fault}." for fault in found.faults]
        height, width = size
        rows: list[tuple[float, ...]] = []
        labels: list[int] = []
        difficult: list[bool] = []
        for item in found.objects:
            told = f"the box of '{item.name}' ({', '.join(f'{value:g}' for value in item.box)})"
            if item.name not in classes:
                self.notes.append(f"{where}: {unknown_name('class', item.name, classes)} The object is left out.")
                continue
            if item.box[2] <= item.box[0] or item.box[3] <= item.box[1]:
                self.notes.append(f"{where}: {told} has no area and is left out.")
                continue
            x1, y1, x2, y2 = (value - 1 for value in item.box)
            clipped = (max(x1, 0.0), max(y1, 0.0), min(x2, width - 1.0), min(y2, height - 1.0))
            if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
                self.notes.append(f"{where}: {told} lies outside the picture ({width} × {height}) and is left out.")
                continue
            if clipped != (x1, y1, x2, y2):
                self.notes.append(f"{where}: {told} reaches beyond the picture ({width} × {height}) and is clipped.")
            rows.append(clipped)
            labels.append(classes.index(item.name))
            difficult.append(item.difficult)
        boxes = torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)
        return boxes, torch.tensor(labels, dtype=torch.int64), torch.tensor(difficult, dtype=torch.bool)

    def _skip(self, name: str, sentence: str) -> None:
        self.skipped.append((name, sentence))


def _root(devkit: Path) -> Path:
    if devkit.is_file():
        raise DataError(f"{devkit} is a file; unpack it and give the folder that holds JPEGImages and ImageSets.")
    if not devkit.is_dir():
        raise DataError(f"there is no folder {devkit}; give the folder that holds JPEGImages and ImageSets.")
    roots = [devkit] if _is_root(devkit) else sorted(path for path in devkit.iterdir() if _is_root(path))
    if not roots:
        roots = sorted(path for path in devkit.glob("VOCdevkit/*") if _is_root(path))
    if not roots:
        raise DataError(
            f"{devkit} is not in the layout of VOC: neither it nor a folder in it holds both JPEGImages and ImageSets."
        )
    if len(roots) > 1:
        listed = ", ".join(str(path) for path in roots[:6])
        raise DataError(f"{devkit} holds {len(roots)} sets, give one of them: {listed}.")
    return roots[0]


def _is_root(folder: Path) -> bool:
    return (folder / "JPEGImages").is_dir() and (folder / "ImageSets").is_dir()


def _names(listing: Path, split: str, notes: list[str]) -> list[str]:
    """Names in a split file, each once; of trainval also from its two parts."""
    path = listing / f"{split}.txt"
    parts = [path]
    if split == "trainval" and not path.is_file():
        parts = [listing / "train.txt", listing / "val.txt"]
    names: dict[str, None] = {}
    for part in parts:
        if not part.is_file():
            there = sorted(file.stem for file in listing.glob("*.txt") if not _CLASS_FILE.fullmatch(file.name))
            known = f"there are {', '.join(there[:12])}" if there else f"{listing} has none at all"
            raise DataError(f"there is no split '{split}' ({part} is missing); {known}.")
        try:
            lines = read_file(str(part)).decode("utf-8", "surrogateescape").splitlines()
        except Undecodable as error:
            raise DataError(f"{part} cannot be used: {error.reason}.") from None
        for line in lines:
            # Files of one class carry -1, 0 or 1 after each name.
            name = re.sub(r"\s+-?[01]$", "", line.strip().removeprefix("\ufeff"))
            if name in names:
                notes.append(f"{part} names {name} twice; it is taken once.")
            elif name:
                names[name] = None
    if not names:
        raise DataError(f"{path} names no picture; it must hold one name a line.")
    return list(names)


def _class_names(root: Path, annotations: Iterable[Annotation]) -> list[str]:
    listing = root / "ImageSets" / "Main"
    matches = (_CLASS_FILE.fullmatch(file.name) for file in listing.glob("*.txt"))
    if listed := sorted({match[1] for match in matches if match}):
        return listed
    found = {item.name for annotation in annotations for item in annotation.objects}
    return list(CLASSES) if found <= set(CLASSES) else sorted(found)


def _size(path: Path) -> tuple[int, int]:
    """Height and width as the picture is shown, from the head of the file where that is easy. Raises Undecodable."""
    if path.is_file():
        try:
            with warnings.catch_warnings(action="ignore"), Image.open(path, formats=("JPEG", "PNG")) as image:
                turned = image.getexif().get(0x0112, 1) in range(5, 9)
                return (image.width, image.height) if turned else (image.height, image.width)
        except DECODER_ERRORS:
            pass  # another format, or damaged: decoding it says which
    height, width = decode(read_file(str(path)), path.name).shape[:2]
    return height, width


BYTES = 16 << 20
"""Largest annotation that is read: a thousand objects take half a MiB."""
DEPTH = 32
"""Deepest nesting; VOC's own files go to four."""


@dataclass(frozen=True)
class VocObject:
    """One object as the file has it."""

    name: str
    """Of its class."""
    box: tuple[float, float, float, float]
    """xmin, ymin, xmax, ymax, as they stand: pixels counted from 1."""
    difficult: bool


@dataclass(frozen=True)
class Annotation:
    """The objects of one picture."""

    objects: tuple[VocObject, ...]
    faults: tuple[str, ...]
    """Clauses about objects that could not be read."""


def read_annotation(path: Path) -> Annotation:
    """The objects in an annotation file.

    Raises:
        Undecodable: it cannot be read or is no annotation; the reason is a clause.
    """
    content = read_file(str(path))
    if len(content) > BYTES:
        raise Undecodable(f"it has {len(content):,} bytes, more than the {BYTES:,} allowed")
    root = _parse(content)
    if root.tag != "annotation":
        raise Undecodable(f"it begins with <{root.tag[:40]}>, not with <annotation>")
    objects: list[VocObject] = []
    faults: list[str] = []
    for number, element in enumerate(root.findall("object"), start=1):
        name = (element.findtext("name") or "").strip()
        box = _box(element.find("bndbox"))
        if not name:
            faults.append(f"object {number} has no name and is left out")
        elif box is None:
            faults.append(f"object {number} ('{name}') has no box of four numbers and is left out")
        else:
            objects.append(VocObject(name, box, (element.findtext("difficult") or "0").strip() == "1"))
    return Annotation(tuple(objects), tuple(faults))


def _box(element: Element | None) -> tuple[float, float, float, float] | None:
    if element is None:
        return None
    try:
        x1, y1, x2, y2 = (float(element.findtext(key) or "") for key in ("xmin", "ymin", "xmax", "ymax"))
    except ValueError:
        return None
    return (x1, y1, x2, y2) if all(map(math.isfinite, (x1, y1, x2, y2))) else None


def _parse(content: bytes) -> Element:
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    depth = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > DEPTH:
            raise Undecodable(f"its elements are nested more than {DEPTH} deep")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def doctype(*_: object) -> None:
        raise Undecodable("it has a DOCTYPE, which annotations do not need and which is never read")

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = doctype
    try:
        parser.Parse(content, True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise Undecodable(f"it is no well-formed XML ({error})") from None
    return builder.close()
