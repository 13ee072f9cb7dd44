"""The command line as tests call it: in this process or in one of its own, and what its error boxes say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable

import pytest

from unlabeled import cli

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Run a command line in this process: exit status, standard output and error, each as one line of words."""

    def run(*tokens: object) -> tuple[int, str, str]:
        status = 0
        try:
            cli.main([str(token) for token in tokens])
        except SystemExit as stop:
            status = int(stop.code or 0)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def words(box: str) -> str:
    """What a box says, on one line."""
    return " ".join(re.sub("[│╭╮╰╯─]", " ", box).split())


def assert_one_box(result: tuple[int, str, str], *wanted: str) -> None:
    status, _, err = result
    assert status == 2, err
    assert err.count("╭─ Error") == 1
    assert "Traceback" not in err
    for part in wanted:
        assert part in words(err), words(err)


def process(*tokens: object, **changes: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"COLUMNS": "100", "OMP_NUM_THREADS": "1"} | changes
    line = [sys.executable, "-m", "unlabeled", *map(str, tokens)]
    return subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
