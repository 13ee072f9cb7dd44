"""Where newcomers get hurt: folders with nothing in them, mistyped places, commands that cannot be copied."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from command_line import Call, assert_one_box, call, process
from pictures import Trained, flags
from unlabeled.cli.console import wrapped
from unlabeled.report.collect import place_of

__all__ = ["call"]  # a fixture


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A folder of two files that are no images."""
    folder = tmp_path / "broken"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg"):
        (folder / name).write_text("this is no picture")
    return folder


# check


def test_check_fails_where_nothing_can_be_read(broken: Path, tmp_path: Path, call: Call):
    result = call("check", broken, "--json", tmp_path / "found.json")
    assert_one_box(result, "has 2 images and none can be read", "convert or replace")
    assert "a.jpg: it is text, not an image" in result[1]
    assert len(json.loads((tmp_path / "found.json").read_text())["broken"]) == 2


def test_check_passes_what_can_be_trained_on(trained: Trained, broken: Path, call: Call):
    shutil.copy(trained.photos / "kind0" / "000.png", broken)
    status, out, err = call("check", broken)
    assert (status, err) == (0, "")
    assert "2 of 3 images cannot be used" in out


# Places


@pytest.mark.parametrize(
    "line",
    [
        ("train", "{broken}", "--out", "{new}/run"),
        ("train", "{photos}", "--out", "{new}/run", "--lr", "-1"),
        ("train", "{photos}", "--out", "{new}/run", "--batch-size", "1000"),
        ("train", "{photos}", "--out", "{new}/run", "--labels", "nowhere.csv"),
        ("demo", "--out", "{new}/run", "--epochs", "-1"),
        ("import", "{broken}/a.jpg", "--out", "{new}/run"),
        ("embed", "{run}", "{broken}", "--out", "{new}/f.npy"),
        ("cluster", "{run}", "{broken}", "--out", "{new}/f.csv"),
        ("search", "{run}", "{broken}", "--json", "{new}/f.json"),
        ("check", "nowhere", "--json", "{new}/f.json"),
        ("evaluate", "knn", "{run}", "{broken}", "--json", "{new}/f.json"),
        ("visualize", "clusters", "{run}", "{broken}", "--out", "{new}/pictures"),
    ],
)
def test_a_command_that_fails_early_leaves_no_folders(
    line: tuple[str, ...], trained: Trained, broken: Path, tmp_path: Path, call: Call
):
    new = tmp_path / "no" / "such"
    places = {"broken": broken, "photos": trained.photos, "run": trained.run, "new": new}
    assert_one_box(call(*(part.format(**places) for part in line)))
    assert not new.parent.exists()


def test_a_refused_command_keeps_the_folder_it_was_given(broken: Path, tmp_path: Path, call: Call):
    (tmp_path / "mine").mkdir()
    assert_one_box(call("train", broken, "--out", tmp_path / "mine"))
    assert list((tmp_path / "mine").iterdir()) == []


def test_replacing_goes_wrong_before_anything_is_gone(trained: Trained, broken: Path, tmp_path: Path, call: Call):
    run = Path(shutil.copytree(trained.run, tmp_path / "run"))
    before = sorted(run.iterdir())
    assert_one_box(call("train", broken, "--out", run, "--if-exists", "replace"))
    assert sorted(run.iterdir()) == before


def test_commands_of_a_report_name_the_run_as_it_is_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "runs" / "tour").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for given in (Path("runs/tour"), tmp_path / "runs" / "tour"):
        assert place_of(given) == ("runs/tour", "")
    monkeypatch.chdir("runs")
    assert place_of(Path("../runs/tour")) == ("../runs/tour", "")
    monkeypatch.chdir("tour")
    for given in (Path(), Path(".."), tmp_path / "runs"):
        place, note = place_of(given)
        assert place == given.resolve().name and "the folder that holds the run" in note


# What boxes say


def test_a_command_in_an_error_can_be_copied(tmp_path: Path):
    place = tmp_path / ("a folder with a name so long that it does not fit on a line of eighty " + "x" * 60)
    shown = process("embed", place, place, "--out", "f.npy", COLUMNS="80")
    assert shown.returncode == 2
    assert f"    unlabeled train DATA --out '{place}'" in shown.stderr.splitlines()


def test_lines_keep_what_belongs_together():
    assert wrapped(
        "a bad thing happened; go on with `unlabeled resume my run`, or choose `--if-exists replace`.", 30
    ) == [
        "  a bad thing happened; go on",
        "  with",
        "    unlabeled resume my run",
        "  or choose",
        "  `--if-exists replace`.",
    ]
    assert wrapped("give the folder that `unlabeled train --out` wrote.", 60) == [
        "  give the folder that `unlabeled train --out` wrote."
    ]
    assert wrapped("no pictures. See `unlabeled check --help`.", 60) == [
        "  no pictures. See",
        "    unlabeled check --help",
    ]


def test_a_name_that_is_no_text_is_no_traceback(tmp_path: Path):
    result = process("check", tmp_path / "b\udcff\x1b[31m.jpg")
    assert_one_box((result.returncode, result.stdout, result.stderr), "no file or folder")
    assert "\x1b" not in result.stderr


# Options


def test_embed_takes_a_precision(trained: Trained, tmp_path: Path, call: Call):
    for precision in ("float32", "bfloat16"):
        out = tmp_path / f"{precision}.npy"
        assert call("embed", trained.run, trained.new, "--out", out, "--precision", precision)[0] == 0
    exact, rough = (np.load(tmp_path / f"{name}.npy") for name in ("float32", "bfloat16"))
    assert exact.dtype == rough.dtype == np.float32
    assert not np.array_equal(exact, rough) and np.allclose(exact, rough, atol=0.1 * np.abs(exact).max())
    assert_one_box(call("embed", trained.run, trained.new, "--out", "f.npy", "--precision", "half"), '"bfloat16"')


def test_a_run_of_one_epoch_speaks_of_one(trained: Trained, tmp_path: Path, call: Call):
    status, _, err = call(
        "train", trained.photos, "--out", tmp_path / "my run", "--cache", trained.cache, *flags(epochs=1)
    )
    assert status == 0
    assert "1 epoch of 5 steps" in err and "1 epochs" not in err
    report = (tmp_path / "my run" / "report.html").read_text()
    assert "1 epochs" not in report
    assert "unlabeled embed &#39;my run&#39; NEW_IMAGES" in report


def test_ctrl_c_is_answered(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch):
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("unlabeled.api.check", stopped)
    status, _, err = call("check", tmp_path)
    assert status == 130 and "Stopped." in err


def test_ctrl_c_while_the_program_is_being_imported_is_answered():
    early = """
import sys
class Stop:
    def find_spec(self, name, *_):
        if name == "cyclopts":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Stop())
from unlabeled.__main__ import main
main()
"""
    ended = subprocess.run([sys.executable, "-c", early], capture_output=True, text=True, check=False, timeout=300)
    assert (ended.returncode, ended.stderr) == (130, "Stopped.\n")


@pytest.mark.parametrize(
    ("given", "seen"), [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")]
)
def test_threads_that_wait_sleep_soon_unless_told_otherwise(given: dict[str, str], seen: str):
    program = "import os, sys\nfrom unlabeled.__main__ import main\nsys.argv = ['unlabeled', '--version']\n"
    program += "try:\n    main()\nfinally:\n    print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)\n"
    clean = {name: value for name, value in os.environ.items() if name not in {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}}
    ended = subprocess.run(
        [sys.executable, "-c", program], env=clean | given, capture_output=True, text=True, check=True, timeout=300
    )
    assert ended.stdout.split()[-2:] == [seen, "False"]
