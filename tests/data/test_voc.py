"""The VOC reader: real sets against the files of their makers, and everything odd ends in a sentence."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unlabeled.data.voc import CLASSES, classification_labels, read_mask, read_voc
from unlabeled.errors import DataError

OBJECT = """<object><name>{name}</name><difficult>{difficult}</difficult>
<bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"""


def annotation(*objects: tuple[str, tuple[object, ...], int]) -> str:
    parts = (OBJECT.format(name=name, box=box, difficult=difficult) for name, box, difficult in objects)
    return f"<annotation>{''.join(parts)}</annotation>"


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    """Two good pictures of 30 × 20 (width × height), `a` and `b`, with masks, in VOC2007."""
    root = tmp_path / "VOC2007"
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main", "ImageSets/Segmentation", "SegmentationClass"):
        (root / folder).mkdir(parents=True)
    for name in ("a", "b"):
        add(root, name, annotation(("dog", (1, 1, 10, 10), 0)))
    return tmp_path


def add(root: Path, name: str, xml: str | None, mask: np.ndarray | None = None) -> None:
    """One more picture of the split `train` of both tasks."""
    Image.new("RGB", (30, 20), (90, 120, 30)).save(root / "JPEGImages" / f"{name}.jpg")
    if xml is not None:
        (root / "Annotations" / f"{name}.xml").write_text(xml)
    pixels = np.zeros((20, 30), np.uint8) if mask is None else mask
    image = Image.fromarray(pixels)
    if pixels.ndim == 2:
        image.putpalette([value for i in range(256) for value in (i, 255 - i, 0)])
    image.save(root / "SegmentationClass" / f"{name}.png")
    for task in ("Main", "Segmentation"):
        with (root / "ImageSets" / task / "train.txt").open("a") as file:
            file.write(f"{name}\n")


def test_boxes_count_from_zero_with_both_corners_inside(devkit: Path):
    objects = (("dog", (1, 1, 30, 20), 0), ("cat", ("4.5", 5, 9, 20), 1))
    add(devkit / "VOC2007", "c", annotation(*objects))
    found = read_voc(devkit, "train")
    image = found.images[2]
    assert (image.name, image.size, found.class_names) == ("c", (20, 30), list(CLASSES))
    assert image.boxes.tolist() == [[0, 0, 29, 19], [3.5, 4, 8, 19]]
    assert [found.class_names[i] for i in image.labels] == ["dog", "cat"]
    assert image.difficult.tolist() == [False, True]
    assert not found.notes and not found.skipped


def test_labels_say_present_absent_or_difficult_only(devkit: Path):
    objects = (("dog", (1, 1, 9, 9), 1), ("cat", (1, 1, 9, 9), 1), ("cat", (2, 2, 9, 9), 0))
    add(devkit / "VOC2007", "c", annotation(*objects))
    labels = classification_labels(read_voc(devkit, "train"))
    assert labels[2, CLASSES.index("dog")] == 0 and labels[2, CLASSES.index("cat")] == 1
    assert int((labels[2] == -1).sum()) == 18


@pytest.mark.parametrize(
    ("item", "clause"),
    [
        (("dog", (5, 5, 5, 9), 0), "has no area"),
        (("dog", (9, 5, 5, 9), 0), "has no area"),
        (("dog", (40, 2, 50, 9), 0), "lies outside the picture (30 × 20)"),
        (("dgo", (1, 1, 9, 9), 0), "unknown class 'dgo', did you mean 'dog'?"),
        (("dog", ("x", 1, 9, 9), 0), "has no box of four numbers"),
        (("dog", ("nan", 1, 9, 9), 0), "has no box of four numbers"),
        (("dog", ("inf", 1, 9, 9), 0), "has no box of four numbers"),
        (("", (1, 1, 9, 9), 0), "object 1 has no name"),
    ],
)
def test_an_odd_object_is_left_out_with_a_sentence(
    devkit: Path, item: tuple[str, tuple[object, ...], int], clause: str
):
    add(devkit / "VOC2007", "c", annotation(item, ("cat", (1, 1, 9, 9), 0)))
    found = read_voc(devkit, "train", class_names=["cat", "dog"])
    assert found.images[2].labels.tolist() == [0] and len(found.images[2].boxes) == 1
    (note,) = found.notes
    assert clause in note and "Annotations/c.xml" in note


def test_a_box_that_reaches_out_is_clipped(devkit: Path):
    add(devkit / "VOC2007", "c", annotation(("dog", (-3, 0, 99, 10), 0)))
    found = read_voc(devkit, "train")
    assert found.images[2].boxes.tolist() == [[0, 0, 29, 9]]
    assert "reaches beyond the picture" in found.notes[0]


BOMB = '<!DOCTYPE a [<!ENTITY b "dog"><!ENTITY c "&b;&b;">]><annotation><object><name>&c;</name></object></annotation>'


@pytest.mark.parametrize(
    ("xml", "clause"),
    [
        (None, "there is no such file"),
        ("", "no well-formed XML"),
        ("<annotation><object>", "no well-formed XML"),
        ("<html></html>", "begins with <html>"),
        (BOMB, "DOCTYPE"),
        (BOMB.replace("<!DOCTYPE", '<?xml version="1.0" encoding="utf-16"?>\n<!DOCTYPE'), "no well-formed XML"),
        ("<a>" * 40 + "</a>" * 40, "nested more than 32"),
    ],
)
def test_a_picture_without_a_usable_annotation_is_listed(devkit: Path, xml: str | None, clause: str):
    add(devkit / "VOC2007", "c", xml)
    found = read_voc(devkit, "train")
    assert [image.name for image in found.images] == ["a", "b"]
    ((name, sentence),) = found.skipped
    assert name == "c" and clause in sentence and "c.xml" in sentence


def test_entities_in_another_encoding_are_refused_too(devkit: Path):
    add(devkit / "VOC2007", "c", None)
    (devkit / "VOC2007" / "Annotations" / "c.xml").write_bytes(BOMB.encode("utf-16"))
    assert "DOCTYPE" in read_voc(devkit, "train").skipped[0][1]


def test_missing_and_damaged_pictures_are_listed(devkit: Path):
    root = devkit / "VOC2007"
    for name in ("c", "d"):
        add(root, name, annotation(("dog", (1, 1, 9, 9), 0)))
    (root / "JPEGImages" / "c.jpg").unlink()
    (root / "JPEGImages" / "d.jpg").write_text("no picture")
    found = read_voc(devkit, "train")
    assert len(found.images) == 2
    assert "c.jpg is not there, but" in found.skipped[0][1] and "train.txt names it" in found.skipped[0][1]
    assert "d.jpg cannot be used" in found.skipped[1][1]
    # A picture whose head is right is only found out by decoding it.
    picture = root / "JPEGImages" / "b.jpg"
    picture.write_bytes(picture.read_bytes()[:-10])
    assert len(read_voc(devkit, "train").images) == 2
    assert "cut short" in read_voc(devkit, "train", decode_all=True).skipped[1][1]


@pytest.mark.parametrize(
    ("mask", "clause"),
    [
        (np.zeros((20, 29), np.uint8), "20 × 29 pixels and its picture 20 × 30"),
        (np.full((20, 30), 21, np.uint8), "holds the class 21, but there are 20"),
        (np.zeros((20, 30, 3), np.uint8), "PNG of colours"),
    ],
)
def test_an_odd_mask_is_listed(devkit: Path, mask: np.ndarray, clause: str):
    add(devkit / "VOC2007", "c", annotation(), mask)
    found = read_voc(devkit, "train", task="Segmentation")
    assert len(found.images) == 2
    assert clause in found.skipped[0][1] and "SegmentationClass/c.png" in found.skipped[0][1]


def test_masks_keep_their_numbers_and_need_no_annotation(devkit: Path):
    values = np.arange(600, dtype=np.int64).reshape(20, 30) % 21
    values[3, 4] = 255
    add(devkit / "VOC2007", "c", None, values.astype(np.uint8))
    found = read_voc(devkit, "train", task="Segmentation")
    assert torch.equal(read_mask(found.images[2], 20), torch.from_numpy(values).byte())
    assert len(found.images[2].boxes) == 0
    (devkit / "VOC2007" / "SegmentationClass" / "c.png").write_text("no mask")
    with pytest.raises(DataError, match="cannot be read"):
        read_mask(found.images[2], 20)
    (devkit / "VOC2007" / "SegmentationClass" / "c.png").unlink()
    assert "has no mask" in read_voc(devkit, "train", task="Segmentation").skipped[0][1]


def test_where_the_class_names_come_from(devkit: Path):
    root = devkit / "VOC2007"
    assert read_voc(devkit, "train").class_names == list(CLASSES)
    add(root, "c", annotation(("scooter", (1, 1, 9, 9), 0)))
    assert read_voc(devkit, "train").class_names == ["dog", "scooter"]
    (root / "ImageSets" / "Main" / "dog_train.txt").write_text("a  1\n")
    found = read_voc(devkit, "train")
    assert found.class_names == ["dog"] and "unknown class 'scooter'" in found.notes[0]


def test_splits(devkit: Path):
    lists = devkit / "VOC2007" / "ImageSets" / "Main"
    (lists / "val.txt").write_text("b  -1\n\nb\n")
    (lists / "dog_val.txt").write_text("b  1\n")
    found = read_voc(devkit / "VOC2007", "trainval")
    assert [image.name for image in found.images] == ["a", "b"] and any("twice" in note for note in found.notes)
    with pytest.raises(DataError, match=r"no split 'test' .*there are train, val"):
        read_voc(devkit, "test")
    (lists / "empty.txt").write_text("\n")
    with pytest.raises(DataError, match="names no picture"):
        read_voc(devkit, "empty")
    (lists / "gone.txt").write_text("x\n../../a\n")
    with pytest.raises(DataError, match=r"none of the 2 pictures .*x\.jpg is not there"):
        read_voc(devkit, "gone")


def test_folders_that_are_no_devkit(devkit: Path):
    with pytest.raises(DataError, match="there is no folder"):
        read_voc(devkit / "nothing", "train")
    with pytest.raises(DataError, match="is a file; unpack it"):
        read_voc(devkit / "VOC2007" / "JPEGImages" / "a.jpg", "train")
    with pytest.raises(DataError, match="not in the layout of VOC"):
        read_voc(devkit / "VOC2007" / "Annotations", "train")
    for folder in ("JPEGImages", "ImageSets"):
        (devkit / "VOC2012" / folder).mkdir(parents=True)
    with pytest.raises(DataError, match="holds 2 sets, give one of them"):
        read_voc(devkit, "train")


def test_the_source_opens_the_pictures_in_order(devkit: Path):
    found = read_voc(devkit, "train")
    source = found.source()
    assert source.names == ["a", "b"] and source.read(1) == found.images[1].path.read_bytes()


def unpacked(shared_data: Path, name: str, folder: Path) -> Path:
    with zipfile.ZipFile(shared_data / name / f"{name}.zip") as archive:
        archive.extractall(folder)
    return folder


def test_labels_are_those_of_the_official_files(shared_data: Path, tmp_path: Path):
    root = unpacked(shared_data, "voc2007-mini", tmp_path) / "VOCdevkit" / "VOC2007"
    found = read_voc(tmp_path, "trainval")
    assert (len(found.images), found.notes, found.skipped) == (280, [], [])
    labels = classification_labels(found)
    for column, name in enumerate(found.class_names):
        rows = [
            line.split()
            for part in ("train", "val")
            for line in (root / "ImageSets" / "Main" / f"{name}_{part}.txt").read_text().splitlines()
        ]
        official = {row[0]: int(row[1]) for row in rows}
        assert [official[image.name] for image in found.images] == labels[:, column].tolist()


def test_blood_cells_and_masks(shared_data: Path, tmp_path: Path):
    cells = read_voc(unpacked(shared_data, "bccd-voc", tmp_path / "cells"), "trainval")
    assert cells.class_names == ["Platelets", "RBC", "WBC"] and len(cells.images) == 292
    assert sum("has no area" in note for note in cells.notes) == 2
    masks = read_voc(unpacked(shared_data, "voc2012-seg-mini", tmp_path / "masks"), "val", task="Segmentation")
    assert len(masks.images) == 50 and masks.class_names == list(CLASSES)
    for image in masks.images[:10]:
        values = set(read_mask(image, 20).unique().tolist()) - {0, 255}
        assert values == {int(label) + 1 for label in image.labels}
