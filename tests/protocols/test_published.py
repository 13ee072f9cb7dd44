"""Every protocol says what the papers report for it, in the numbers of the papers' own tables."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from pictures import Trained
from unlabeled import cli
from unlabeled.protocols import PROTOCOLS, PUBLISHED, published

ROOT = Path(__file__).parents[2]
ELSEWHERE = {
    # Measured beside figures, in the text of the thesis (spec A04) and of DeepCluster (A02), and so in no table.
    "edge-ratio": {"0.4", "3.0"},
    "low-shot": {"0.1"},
    "nmi": {"0.8"},
}


def test_every_protocol_has_a_sentence():
    assert set(PUBLISHED) == set(PROTOCOLS) and published("all") is None
    assert all(sentence.endswith(".") for sentence in PUBLISHED.values())


@pytest.mark.parametrize("protocol", sorted(PUBLISHED))
def test_its_numbers_are_in_the_tables_of_the_papers(protocol: str):
    tables = (ROOT / "docs" / "paper-numbers.md").read_text()
    known = set(re.findall(r"(?<=\| )\d+\.\d(?= \|)", tables)) | ELSEWHERE.get(protocol, set())
    # Numbers of tables, figures and sections are no results.
    sentence = re.sub(r"(tables?|figure|section) [\d.]+\d( and [\d.]+\d)?", "", PUBLISHED[protocol])
    assert set(re.findall(r"\d+\.\d+", sentence)) <= known


def test_the_command_prints_it_and_the_json_has_it(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run, file = shutil.copytree(trained.run, tmp_path / "run"), tmp_path / "scores.json"
    for protocol in ("knn", "edge-ratio"):
        with pytest.raises(SystemExit):
            cli.main(["evaluate", protocol, str(run), str(trained.photos), "--json", str(file), "--published"])
        printed = " ".join(capsys.readouterr().out.split())
        assert f"Published: {' '.join(str(published(protocol)).split())}" in printed
        assert json.loads(file.read_text())["published"] == published(protocol)
    with pytest.raises(SystemExit):
        cli.main(["evaluate", "edge-ratio", str(run), str(trained.photos)])
    assert "Published" not in capsys.readouterr().out, "numbers of other images only where they are asked for"
