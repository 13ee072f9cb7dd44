from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from unlabeled.errors import MissingExtraError, RunError
from unlabeled.runs.journal import Journal, read


def run(path: Path, epochs: range) -> None:
    with Journal(path, epochs.start - 1) as journal:
        for epoch in epochs:
            journal.write({"epoch": epoch, "loss": epoch / 7})


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with Journal(path) as journal:
        journal.write(
            {
                "epoch": 1,
                "loss": torch.tensor(0.5),
                "count": np.int64(3),
                "name": "größer",
                "sizes": [1, 2.5],
                "ok": True,
            }
        )
        assert read(path)[0]["loss"] == 0.5  # flushed, not only at the end
    assert read(path) == [{"epoch": 1, "loss": 0.5, "count": 3, "name": "größer", "sizes": [1, 2.5], "ok": True}]


def test_numbers_json_does_not_know_survive(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with Journal(path) as journal:
        journal.write({"epoch": 1, "loss": math.nan, "deep": {"all": [math.inf, torch.tensor(-math.inf)]}})
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    record = read(path)[0]
    assert math.isnan(record["loss"])
    assert record["deep"] == {"all": [math.inf, -math.inf]}


@pytest.mark.parametrize("epoch", [1, 3, 5])
def test_a_resumed_journal_equals_an_uninterrupted_one(tmp_path: Path, epoch: int) -> None:
    whole, resumed = tmp_path / "whole.jsonl", tmp_path / "resumed.jsonl"
    run(whole, range(1, 6))
    assert [record["epoch"] for record in read(whole)] == [1, 2, 3, 4, 5]
    run(resumed, range(1, 5))
    with resumed.open("a") as file:
        file.write('{"epoch": 5, "lo')  # killed while writing
    run(resumed, range(epoch, 6))
    assert resumed.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("tail", ['{"epoch": 2, "l', '{"epoch": 2', '{"epoch": 2}', '{"epoch": 2, "l\n', "\x00\x00\n"])
def test_a_half_written_line_is_left_out(tmp_path: Path, tail: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"epoch": 1}\n' + tail)
    assert read(path) == [{"epoch": 1}]
    with Journal(path, epochs_done=1) as journal:
        journal.write({"epoch": 2})
        assert journal.records == [{"epoch": 1}, {"epoch": 2}]
    assert read(path) == [{"epoch": 1}, {"epoch": 2}]


def test_a_new_journal_is_empty(tmp_path: Path) -> None:
    run(tmp_path / "j", range(1, 3))
    Journal(tmp_path / "j").close()
    assert read(tmp_path / "j") == []


def test_a_damaged_line_inside_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"epoch": 1}\nwhat\n{"epoch": 2}\n')
    with pytest.raises(RunError, match="line 2 of"):
        read(path)
    with pytest.raises(RunError, match="no journal at"):
        read(tmp_path / "absent")


def test_tensorboard_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", None)
    with pytest.raises(MissingExtraError, match=r"unlabeled\[tensorboard\]"):
        Journal(tmp_path / "j", tensorboard=tmp_path / "events")


def test_tensorboard_gets_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, float, int]] = []

    class Writer:
        def __init__(self, folder: str, purge_step: int) -> None:
            self.folder = folder
            assert purge_step == 1, "what an interrupted run wrote of this epoch goes"

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, value, step))

        def close(self) -> None:
            written.append(("closed", 0, 0))

    module = type(sys)("torch.utils.tensorboard.writer")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", module)
    with Journal(tmp_path / "j", tensorboard=tmp_path / "events") as journal:
        journal.write({"epoch": 3, "loss": 0.5, "note": "text"})
    assert written == [("loss", 0.5, 3), ("closed", 0, 0)]


def test_only_the_main_rank_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.jsonl"
    run(path, range(1, 3))
    before = path.read_bytes()
    monkeypatch.setattr("unlabeled.runs.journal.is_main", lambda: False)
    with Journal(path, epochs_done=1) as journal:
        journal.write({"epoch": 2, "loss": math.inf})
        assert journal.records[-1] == {"epoch": 2, "loss": math.inf}
        assert journal.records[:-1] == [{"epoch": 1, "loss": 1 / 7}]
    assert path.read_bytes() == before
