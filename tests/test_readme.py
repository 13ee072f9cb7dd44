"""Every command the documents show is one that the program takes; links lead somewhere."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from unlabeled.cli import app

CHECKOUT = Path(__file__).resolve().parent.parent
PAGES = [CHECKOUT / "README.md", CHECKOUT / "CONTRIBUTING.md", *sorted((CHECKOUT / "docs").rglob("*.md"))]


def commands(page: Path) -> list[str]:
    lines = [line for block in re.findall(r"```\n(.*?)```", page.read_text(), re.S) for line in block.splitlines()]
    return [line.split("#")[0].strip() for line in lines if line.startswith(("unlabeled ", "torchrun "))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_parse(page: Path):
    for line in commands(page):
        verb = line.split(" -m unlabeled ")[-1].removeprefix("unlabeled ")
        app.parse_args(shlex.split(verb), exit_on_error=False, print_error=False)


def test_the_readme_has_a_tour():
    assert {line.split()[1] for line in commands(CHECKOUT / "README.md")} >= {
        *("check", "train", "resume", "cluster", "search", "embed", "evaluate", "report")
    } - {"resume"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target


@pytest.mark.slow
def test_the_tour_runs(tmp_path: Path):
    """The README's commands and its Python, after a short demonstration, in a folder of their own."""
    environment = os.environ | {"UNLABELED_CACHE": str(tmp_path / "cache")}

    def run(*arguments: str) -> str:
        line = [sys.executable, *arguments]
        result = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        return result.stdout

    run("-m", "unlabeled", "demo", "--epochs", "4")
    for line in commands(CHECKOUT / "README.md"):
        if "photos/" not in line:
            run("-m", *shlex.split(line))
    code = re.search(r"```python\n(.*?)```", (CHECKOUT / "README.md").read_text(), re.S)
    assert code is not None
    assert "0000.png" in run("-c", code.group(1))
