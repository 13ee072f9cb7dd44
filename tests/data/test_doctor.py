"""What the doctor says of folders whose faults are known."""

from __future__ import annotations

import io
import json
import threading
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from rich.console import Console

from unlabeled.data import doctor as doctor_module
from unlabeled.data.doctor import check, sentences, table, to_json
from unlabeled.data.sources import open_source

RNG = np.random.default_rng(0)


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def test_a_sound_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_module, "FEW", 5)
    for k in range(5):
        save(tmp_path / f"{k}.png", RNG.integers(0, 256, (40, 48 + k, 3), dtype=np.uint8))
    doctor = check(open_source(tmp_path))
    assert (doctor.total, doctor.readable, doctor.broken) == (5, 5, [])
    assert doctor.heights == (40, 40, 40) and doctor.widths == (48, 50, 52)
    assert sentences(doctor) == ["All 5 images can be read, and nothing stands out."]


def test_images_of_another_size_and_too_few_of_them_are_remarked(tmp_path: Path) -> None:
    for k in range(6):
        save(tmp_path / f"{k}.png", RNG.integers(0, 256, (40, 40, 3), dtype=np.uint8))
    save(tmp_path / "slide.png", RNG.integers(0, 256, (161, 100, 3), dtype=np.uint8))
    save(tmp_path / "large.png", RNG.integers(0, 256, (160, 100, 3), dtype=np.uint8))
    save(tmp_path / "stamp.png", RNG.integers(0, 256, (9, 9, 3), dtype=np.uint8))
    doctor = check(open_source(tmp_path))
    assert doctor.odd == ["slide.png", "stamp.png"]
    told = sentences(doctor)
    assert any("2 images are of another size by far" in one and "slide.png, stamp.png" in one for one in told)
    assert any(one.startswith("9 images: so few teach a network next to nothing") for one in told)


def test_an_image_that_takes_long_is_named_and_the_others_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for k in range(5):
        save(tmp_path / f"{k}.png", RNG.integers(0, 256, (40, 40, 3), dtype=np.uint8))
    may_go_on, told = threading.Event(), list[tuple[int, str]]()
    real = doctor_module.examine

    def examine(content: object, name: str, **options: object) -> object:
        if name == "0.png":
            may_go_on.wait(20)
        return real(content, name, **options)  # type: ignore[arg-type]

    def note(done: int, text: str) -> None:
        told.append((done, text))
        if (4, "at 0.png") in told:
            may_go_on.set()

    monkeypatch.setattr(doctor_module, "examine", examine)
    monkeypatch.setattr(doctor_module, "_PATIENCE", 0.02)
    assert check(open_source(tmp_path), progress=note, workers=2).readable == 5
    assert (4, "at 0.png") in told
    assert told[-1] == (5, "")


def test_scales_are_of_the_images_that_will_be_used(tmp_path: Path) -> None:
    for k in range(3):
        tifffile.imwrite(
            tmp_path / f"{k}.tif",
            RNG.integers(0, 1000, (40, 40, 5)).astype(np.uint16),
            photometric="minisblack",
            planarconfig="contig",
        )
    tifffile.imwrite(tmp_path / "other.tif", RNG.integers(0, 60000, (40, 40)).astype(np.uint16))
    assert list(check(open_source(tmp_path)).scaling) == ["uint16 × 5"]


def test_faults_are_named(tmp_path: Path) -> None:
    good = RNG.integers(0, 256, (40, 48, 3), dtype=np.uint8)
    for name in ("a.png", "copy1.png", "copy2.png"):
        save(tmp_path / name, good)
    save(tmp_path / "grey.png", good[:, :, 0])
    save(tmp_path / "red.png", np.broadcast_to(np.array([200, 0, 0], np.uint8), (40, 48, 3)).copy())
    save(tmp_path / "[bold]tiny.png", good[:8, :8])
    save(tmp_path / "long.png", RNG.integers(0, 256, (40, 200, 3), dtype=np.uint8))
    tifffile.imwrite(tmp_path / "deep.tif", np.linspace(113, 4095, 1600).reshape(40, 40).astype(np.uint16))
    (tmp_path / "cut.jpg").write_bytes(b"")
    (tmp_path / "notes.txt").write_bytes(b"x")
    doctor = check(open_source(tmp_path), workers=3)
    assert doctor.duplicates == [["a.png", "copy1.png", "copy2.png"]] and doctor.surplus == 2
    assert doctor.blank == ["red.png"] and doctor.small == ["[bold]tiny.png"] and doctor.long == ["long.png"]
    assert doctor.broken == [("cut.jpg", "the file is empty")]
    assert doctor.channels == {3: 6, 1: 2} and doctor.depths == {"uint8": 7, "uint16": 1}
    assert doctor.ranges["uint16"] == (113, 4095)
    text = "\n".join(sentences(doctor))
    for words in (
        "1 of 9 images cannot be used and will be skipped (1: the file is empty).",
        "mixed channels: 6 RGB, 2 grey; grey ones will be repeated to RGB.",
        "mixed bit depths: 7 of 8 bits, 1 of 16 bits",
        "16-bit images: values 113..4095, will be scaled to 8 bits from 11",
        "2 of 8 images are exact duplicates of others (1 group, for example a.png, copy1.png, copy2.png)",
        "1 image is blank, every pixel the same: consider removing it (red.png).",
        "1 other file passed over by the ending: 1 .txt.",
    ):
        assert words in text, text
    stream = io.StringIO()
    Console(file=stream, width=100).print(table(doctor))
    assert "6 RGB, 2 grey" in stream.getvalue()
    assert json.loads(json.dumps(to_json(doctor)))["duplicates"] == doctor.duplicates


def test_many_channels_and_an_array(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", RNG.random((6, 5, 40, 44)).astype(np.float32))
    doctor = check(open_source(tmp_path / "x.npy"))
    assert doctor.channels == {5: 6} and doctor.depths == {"float32": 6}
    assert len(doctor.scaling["float32 × 5"].low) == 5
    (words,) = (s for s in sentences(doctor) if s.startswith("Floating-point images: values"))
    assert words.count("..") == 2 and "each channel by a range of its own" in words


def test_nothing_readable(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"text")
    doctor = check(open_source(tmp_path))
    assert doctor.readable == 0 and doctor.heights == (0, 0, 0)
    assert sentences(doctor)[0] == "No image can be read, so there is nothing to train on."
