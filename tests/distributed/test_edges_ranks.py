"""Graphs of gathered features on two ranks: each has all rows, and finds what one process finds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import unlabeled
from pictures import Trained, flags
from ranks import verbs_on_two_ranks


def test_edges_and_cliques_on_two_ranks(trained: Trained, tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(trained.run, run)
    alone = unlabeled.load(run, device="cpu")
    wanted = {what: alone.evaluate(what, trained.photos) for what in ("edge-ratio", "cliques")}
    made = tmp_path / "made"
    small = " ".join(flags(epochs=1, evaluate_every=1))
    verbs_on_two_ranks(
        tmp_path,
        [
            f"evaluate edge-ratio {run} {trained.photos} --device cpu --json {tmp_path / 'edge-ratio.json'}",
            f"evaluate cliques {run} {trained.photos} --device cpu --json {tmp_path / 'cliques.json'}",
            # The journal's edge ratio, and the report, which one rank makes alone.
            f"train {trained.photos} --out {made} --labels folder --device cpu --cache {trained.cache} {small}",
        ],
    )
    for what, scores in wanted.items():
        found = json.loads((tmp_path / f"{what}.json").read_text())
        numbers = {key: value for key, value in scores.items() if isinstance(value, float)}
        assert numbers and {key: found[key] for key in numbers} == pytest.approx(numbers, abs=0.02)
    records = unlabeled.load(made, device="cpu").history
    assert 0 < records[-1]["edge_ratio"] <= 1
    assert "Do neighbours share a label?" in (made / "report.html").read_text(encoding="utf-8")
