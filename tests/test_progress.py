"""Progress in words, on a terminal and in a log file."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from unlabeled import progress
from unlabeled.training.loop import Meter


@pytest.mark.parametrize(
    ("seconds", "wanted"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599.7, "1 h 00 min"),
        (7530, "2 h 05 min"),
    ],
)
def test_duration(seconds: float, wanted: str):
    assert progress.duration(seconds) == wanted


@pytest.mark.parametrize(
    ("seconds", "wanted"),
    [(0, "10 s"), (44, "40 s"), (100, "2 min"), (5000, "83 min"), (5500, "1 h 30 min"), (90_000, "25 h 00 min")],
)
def test_an_estimate_has_no_more_digits_than_it_knows(seconds: float, wanted: str):
    assert progress.roughly(seconds) == wanted


def test_an_epoch_says_how_long_the_whole_training_will_take():
    history = [{"seconds": 1000.0}, *({"seconds": seconds} for seconds in (5.0, 7.0) * 5)]
    assert Meter(0).title(44, []) == "epoch 1 of 44"
    assert Meter(3).title(44, history) == "epoch 4 of 44 (about 4 min to go in all)", "the last ten say it"
    assert Meter(3, elapsed=240).title(44, history) == "epoch 4 of 44 (about 10 s to go in all)"
    assert Meter(43).title(44, history) == "epoch 44 of 44", "the bar itself says when this one ends"


@pytest.mark.parametrize(
    ("count", "wanted"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (3_400_000, "3.4 MB"),
        (999_960, "1.0 MB"),
        (5e12, "5.0 TB"),
        (7e15, "7000.0 TB"),
    ],
)
def test_size(count: float, wanted: str):
    assert progress.size(count) == wanted


def test_a_log_file_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch):
    file, now = io.StringIO(), 100.0
    monkeypatch.setattr(progress, "console", Console(file=file, soft_wrap=True))
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with progress.bar("embedding [all]", 1000) as update:
        update(10, "")
        now += progress.LOG_SECONDS + 1
        update(100, "5 images/s")
        update(101, "")
        now += 100
        update(1000, "")
    assert file.getvalue() == "embedding [all]: 100 of 1,000, 4 min 39 s to go 5 images/s\n"


def test_a_terminal_gets_a_bar_that_goes_away(monkeypatch: pytest.MonkeyPatch):
    file = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=file, force_terminal=True, width=120))
    with progress.bar("embedding [all]", 10) as update:
        update(10, "fast [red]")
    assert "embedding [all]" in file.getvalue() and "10/10" in file.getvalue() and "fast [red]" in file.getvalue()


def test_only_the_first_rank_speaks(monkeypatch: pytest.MonkeyPatch):
    from unlabeled import distributed

    file = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=file))
    monkeypatch.setattr(distributed, "is_main", lambda: False)
    progress.say("hello")
    with progress.bar("title", 3) as update:
        update(3, "")
    assert file.getvalue() == ""
