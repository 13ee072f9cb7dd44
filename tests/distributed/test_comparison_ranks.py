"""`evaluate all` under torchrun with two gloo processes: every protocol that data allow, and the table of one process."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import unlabeled
from least_sizes import shrink
from oxford_pictures import write_oxford
from pictures import Trained
from ranks import script_on_two_ranks
from voc_pictures import COLOURS, write_devkit

CLASSES = {"cliques", "edge-ratio", "knn", "nmi", "linear", "mlp", "svm", "low-shot", "semi-supervised"}
VOC = {"voc-classification", "voc-detection", "voc-segmentation"}
SURE = {"cliques", "edge-ratio", "knn", "nmi", "svm", "retrieval"}
"""Protocols without dropout and without a sum over gradients, whose numbers are the same on any number of processes."""

SCRIPT = """
import json, sys

sys.path.insert(0, sys.argv[1])
import unlabeled
from least_sizes import shrink
from unlabeled import distributed

shrink(setattr)
with distributed.process_group("cpu"):
    found = [unlabeled.load(run, device="cpu").evaluate("all", **asked) for run, asked in json.loads(sys.argv[2])]
    told = [[one[key] for key in ("rows", "left_out", "seconds", "contenders")] for one in found]
    first = distributed.broadcast_object(told)
    assert json.dumps(told) == json.dumps(first), distributed.rank()
    if distributed.is_main():
        for number, one in enumerate(found):
            with open(f"{sys.argv[3]}-{number}.json", "w") as file:
                json.dump(one, file)
"""


def test_two_processes_fill_the_table_of_one(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    devkit, oxford = write_devkit(tmp_path / "devkit", train=32, test=4), write_oxford(tmp_path / "oxford")
    shutil.move(str(oxford / "other"), tmp_path / "other")
    table = tmp_path / "classes.csv"
    names = sorted(file.name for file in (devkit / "VOC2007" / "JPEGImages").iterdir())
    table.write_text("\n".join(["path,label", *(f"{name},{list(COLOURS)[i % 3]}" for i, name in enumerate(names))]))
    asked: list[dict[str, Any]] = [
        {"data": str(devkit), "labels": str(table), "quick": True},
        {"data": str(oxford), "pca": str(tmp_path / "other"), "quick": True},
    ]
    # Runs of their own: what one has scored must not be found by the other.
    runs = {name: shutil.copytree(trained.run, tmp_path / name / "run") for name in ("one", "two")}
    calls = json.dumps([(str(runs["two"]), one) for one in asked])
    script_on_two_ranks(tmp_path, SCRIPT, Path(__file__).parents[1], calls, tmp_path / "two")
    two = [json.loads((tmp_path / f"two-{number}.json").read_text()) for number in range(len(asked))]

    shrink(monkeypatch.setattr)
    alone = unlabeled.load(runs["one"], device="cpu")
    for wanted, call, found in zip((CLASSES | VOC, {"cliques", "retrieval"}), asked, two, strict=True):
        one = alone.evaluate("all", **call)
        assert {row["protocol"] for row in found["rows"]} == wanted
        assert json.dumps(found["left_out"]) == json.dumps(one["left_out"]).replace(str(runs["one"]), str(runs["two"]))
        for ours, theirs in zip(one["rows"], found["rows"], strict=True):
            assert (ours["protocol"], ours["measure"]) == (theirs["protocol"], theirs["measure"])
            (expected,), (score,) = ours["scores"], theirs["scores"]
            near = 1e-6 if ours["protocol"] in SURE else 0.3
            for key in ("trained", "untrained"):
                assert score[key] == pytest.approx(expected[key], abs=near), (ours["protocol"], key)
    files = [runs["two"] / f"comparison.{ending}" for ending in ("md", "json", "html")]
    assert json.loads(files[1].read_text())["rows"] == two[-1]["rows"] and all(file.stat().st_size for file in files)
