"""The runner of the benchmarks on rows made up here, and the form of every benchmark; nothing is measured."""

from __future__ import annotations

import importlib
import inspect
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks import __main__ as runner
from benchmarks import method_step, search
from benchmarks.goals import goal_of

from unlabeled.config import Config
from unlabeled.methods import build_method

ROWS = [
    {"name": "weighted kNN, 10 classes", "ours": 2.0, "reference": 5.0, "ratio": 2.5, "unit": "s", "detail": "one"},
    {"name": "224 px, cached", "ours": 1e4, "reference": 1e3, "ratio": 10.0, "unit": "img/s", "detail": "two"},
    {"name": "something else", "ours": 1.0, "reference": 1.0, "ratio": 1.0, "unit": "s", "detail": "three"},
]


@pytest.mark.parametrize("name", runner.known())
def test_every_benchmark_can_be_run(name: str) -> None:
    if name == "clustering":
        pytest.importorskip("faiss")
    run = importlib.import_module(f"benchmarks.{name}").run
    assert list(inspect.signature(run).parameters) == ["quick"]


def test_search_finds_the_same_neighbors_as_a_product() -> None:
    table = torch.nn.functional.normalize(torch.randn(3_000, 128, generator=torch.Generator().manual_seed(0)), dim=1)
    row = search.measure(table, 3, 1)
    assert row["detail"].endswith("600 of 600 neighbors are the same")


def test_what_is_kept_for_every_image() -> None:
    """A bank is a row an image; weight vectors come with a gradient and a momentum each."""
    kept = {}
    for objective in ("softmax", "parametric"):
        settings: dict[str, Any] = {"method": "instance", "objective": objective}
        config = Config(backbone="alexnet_small", image_size=32, embedding_dims=16, **settings)
        kept[objective] = method_step.bytes_for_images(build_method(config, 5_000, 3), settings)
    # The bank is kept with a few numbers of statistics.
    assert kept == pytest.approx({"softmax": 5_000 * 16 * 4, "parametric": 3 * 5_000 * 16 * 4}, rel=0.01)


def test_table_and_record(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(runner, "in_new_process", lambda name, quick: ROWS)
    assert runner.main(["sampler", "--json", str(tmp_path / "rows.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("weighted kNN") and line.endswith("2 reached") for line in lines)
    assert any(line.startswith("224 px") and line.endswith("15 MISSED") for line in lines)
    assert any(line.startswith("something else") and line.endswith("1.00") for line in lines)
    record = json.loads((tmp_path / "rows.json").read_text())
    assert [row["verdict"] for row in record["rows"]] == ["reached", "MISSED", ""]
    assert set(record["machine"]) == {"processor", "instructions", "torch", "python", "commit"}


def test_small_sizes_are_not_judged(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(runner, "in_new_process", lambda name, quick: ROWS)
    assert runner.main(["sampler", "--quick"]) == 0
    assert "MISSED" not in capsys.readouterr().out


def test_a_failure_is_told_and_the_others_still_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(name: str, quick: bool) -> list[dict]:
        if name == "sampler":
            raise subprocess.CalledProcessError(3, name)
        return ROWS

    monkeypatch.setattr(runner, "in_new_process", run)
    assert runner.main(["sampler", "knn_vote"]) == 1
    captured = capsys.readouterr()
    assert "weighted kNN" in captured.out
    assert "sampler ended with status 3" in captured.err


def test_a_benchmark_in_its_own_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stub = tmp_path / "benchmarks"
    stub.mkdir()
    for file in ("__init__.py", "__main__.py", "goals.py"):
        (stub / file).write_text((runner.FOLDER / file).read_text())
    (stub / "stub.py").write_text(
        "import os\n"
        "def run(quick):\n"
        "    print('noise')\n"
        "    return [{'quick': quick, 'threads': os.environ['OMP_NUM_THREADS']}]\n"
    )
    monkeypatch.setattr(runner, "FOLDER", stub)
    assert runner.known() == ["stub"]
    assert runner.in_new_process("stub", True) == [{"quick": True, "threads": "1"}]


def test_unknown_names_list_the_known(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        runner.main(["nothing"])
    said = capsys.readouterr().err
    assert all(name in said for name in ("nothing", *runner.known()))


def test_goals_are_for_the_sizes_they_were_set_for() -> None:
    assert goal_of("exact 10-NN graph 50000 x 256, against faiss flat") == 2.2
    assert goal_of("224 px, 12-megapixel files, first epoch (decode, store, crop, flip)") == 3
    assert goal_of("uniform draw, 50,000 images in 1,000 clusters") is None
