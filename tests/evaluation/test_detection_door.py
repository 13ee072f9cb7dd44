"""`evaluate voc-detection` on devkits: generated, real ones, and with wrong options or broken pictures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import unlabeled
from pictures import Trained
from rectangles import unpack, write_devkit
from unlabeled.errors import ConfigError, DataError
from unlabeled.evaluation.detection import proposals
from unlabeled.protocols import detection
from unlabeled.run import Run

FEW = {"quick": True, "steps": 2, "side": 48}


@pytest.fixture
def run(trained: Trained, tmp_path: Path) -> Run:
    shutil.copytree(trained.run, tmp_path / "run")
    return unlabeled.load(tmp_path / "run")


def test_the_numbers_of_a_devkit(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    devkit = write_devkit(tmp_path, {"trainval": 3, "test": 3})
    (devkit / "JPEGImages" / "1-0.png").write_bytes((devkit / "JPEGImages" / "1-0.png").read_bytes()[:900])
    first = run.evaluate("voc-detection", devkit, json=tmp_path / "s.json", **FEW)
    assert first["train_images"] == 3 and first["test_images"] == 2 and list(first["skipped"]) == ["1-0"]
    assert 0 <= first["map_11_point"] <= 1 and 0 <= first["untrained_area"] <= 1
    assert first["proposal_recall"] > 0.7 and set(first["per_class"]) <= {"blue", "green", "red"}
    assert json.loads((tmp_path / "s.json").read_text())["settings"]["side"] == 48

    # Proposals come from the cache the second time, and everything else is the same.
    def refuse(*_: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(proposals, "propose", refuse)
    assert run.evaluate("voc-detection", devkit, **FEW) == first
    (tmp_path / "p.json").write_text(json.dumps({f"{s}-{n}": [[1, 1, 40, 30]] for s in (0, 1) for n in range(3)}))
    given = run.evaluate("voc-detection", devkit, proposals=tmp_path / "p.json", train="fc", **FEW)
    assert given["proposal_recall"] < 0.7


@pytest.mark.parametrize("name", ["voc2007-mini", "bccd-voc"])
def test_real_devkits(run: Run, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setattr(detection, "QUICK_IMAGES", 3)
    devkit = unpack(shared_data, name, tmp_path)
    found = run.evaluate("voc-detection", devkit, detector="faster", split="val", **FEW)
    assert found["train_images"] == 3 and 0 <= found["map_area"] <= 1 and "proposal_recall" not in found


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"detector": "fastest"}, "did you mean 'fast"),
        ({"train": "none"}, "Known: all, fc"),
        ({"split": "train"}, "Known: test, val"),
        ({"side": 8}, "--side must be at least 32"),
        ({"steps": 0}, "--steps at least 1"),
        ({"lr": 0.0}, "--lr above 0"),
        ({"detector": "faster", "proposals": "p.npz"}, "leave one of the two out"),
    ],
)
def test_wrong_options_are_sentences(run: Run, tmp_path: Path, options: dict[str, object], says: str):
    with pytest.raises(ConfigError, match=says):
        run.evaluate("voc-detection", tmp_path, **options)


def test_wrong_data_is_a_sentence(run: Run, tmp_path: Path):
    with pytest.raises(ConfigError, match="and no --test"):
        run.evaluate("voc-detection", tmp_path, test=tmp_path)
    with pytest.raises(DataError, match="not in the layout of VOC"):
        run.evaluate("voc-detection", tmp_path)
    devkit = write_devkit(tmp_path, {"trainval": 2, "test": 1})
    with pytest.raises(DataError, match="there is no file of proposals"):
        run.evaluate("voc-detection", devkit, proposals=tmp_path / "none.npz", quick=True)
    for picture in (devkit / "JPEGImages").iterdir():
        picture.write_bytes(picture.read_bytes()[:900])
    with pytest.raises(DataError, match="none of the 2 pictures"):
        run.evaluate("voc-detection", devkit, quick=True)
