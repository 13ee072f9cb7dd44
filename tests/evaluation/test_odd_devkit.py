"""A devkit with everything odd in it at once: every VOC protocol goes on, and names each file in a sentence."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import unlabeled
from pictures import Trained
from unlabeled.run import Run
from voc_pictures import write_devkit

BOX = "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"


@pytest.fixture(scope="module")
def devkit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures in train and val; what is odd is in train, and one broken picture in val."""
    folder = write_devkit(tmp_path_factory.mktemp("odd"), train=24, test=2)
    root = folder / "VOC2007"

    def annotate(number: int, *objects: tuple[object, ...]) -> None:
        file = root / "Annotations" / f"{number:03d}.xml"
        text = "".join(BOX.format(*one) for one in objects)
        file.write_text(file.read_text().replace("</annotation>", f"{text}</annotation>"))

    (root / "JPEGImages" / "000.jpg").unlink()
    annotate(1, ("cat", 7, 3, 7, 20))
    annotate(2, ("cat", 300, 3, 330, 20))
    (root / "Annotations" / "003.xml").unlink()
    annotate(4, ("unicorn", 1, 1, 20, 20))
    Image.fromarray(np.zeros((5, 7), np.uint8)).save(root / "SegmentationClass" / "005.png")
    annotate(6, ("dog", -4, 1, 400, 20))
    for task in ("Main", "Segmentation"):
        with (root / "ImageSets" / task / "train.txt").open("a") as file:
            file.write("nowhere\n")
    picture = root / "JPEGImages" / "013.jpg"
    picture.write_bytes(picture.read_bytes()[:300])
    return folder


@pytest.fixture
def run(trained: Trained, tmp_path: Path) -> Run:
    shutil.copytree(trained.run, tmp_path / "run")
    return unlabeled.load(tmp_path / "run", device="cpu")


@pytest.mark.parametrize(
    ("protocol", "options", "skipped"),
    [
        ("voc-classification", {}, {"000", "003", "nowhere", "013"}),
        ("voc-detection", {"quick": True, "side": 48}, {"000", "003", "nowhere", "013"}),
        # Objects are not needed there; a mask is.
        ("voc-segmentation", {"batch_size": 2}, {"000", "005", "nowhere", "013"}),
    ],
)
def test_the_run_goes_on_and_every_file_is_named(
    run: Run,
    devkit: Path,
    protocol: str,
    options: dict[str, Any],
    skipped: set[str],
    capsys: pytest.CaptureFixture[str],
):
    found = run.evaluate(protocol, devkit, split="val", steps=1, **options)
    assert set(found["skipped"]) == skipped
    assert all(name in sentence for name, sentence in found["skipped"].items())
    train = 12 - len(skipped & {"000", "003", "005"})
    assert (found["train_images"], found["test_images"]) == (train, 11)
    notes = list(found["notes"].values())
    for number, clause in (
        (1, "no area"), (2, "outside the picture"), (4, "unknown class 'unicorn'"), (6, "is clipped"),
    ):  # fmt: skip
        assert [note for note in notes if f"{number:03d}.xml" in note and clause in note], clause
    printed = capsys.readouterr().err
    assert printed.count("Note: ") == 6 + ("nothing_learned" in found) and "listed under skipped and notes" in printed
