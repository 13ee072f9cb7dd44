"""Pictures of numbers: what `evaluate` found, and how many directions the features use."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from unlabeled import health
from unlabeled.cluster import whitening
from unlabeled.config import Config
from unlabeled.errors import RunError, typed
from unlabeled.pictures.opened import json_text, opened
from unlabeled.runfolder import csv_text
from unlabeled.visualize import plots
from unlabeled.visualize.curves import Line, svg
from unlabeled.visualize.plots import Panel, Series, figure

if TYPE_CHECKING:
    from unlabeled.run import Run

DIMS = 256
"""Directions of the spectrum, those that the papers keep."""
SPREAD_ROWS = 4096


def value(record: Mapping[str, Any], key: str) -> float | None:
    """A finite number of a record, or None."""
    found = record.get(key)
    if not isinstance(found, (int, float)) or isinstance(found, bool) or not math.isfinite(found):
        return None
    return float(found)


def spectrum(run: Run, data: str | Path | None = None) -> dict[str, bytes | str]:
    """Share of the variance in the first k principal directions, trained and untrained (A08), and the spread (A28)."""
    store = opened(run, data)
    found: dict[str, list[float]] = {}
    spread: dict[str, dict[str, float]] = {}
    for name, backbone in (("trained", run.backbone), ("untrained", run.untrained_backbone())):
        rows = clustered_rows(run.config, run.features_of(store, backbone, name))
        found[name] = variance_shares(run.config, rows)
        spread[name] = health.feature_statistics(rows[:: max(1, len(rows) // SPREAD_ROWS)])
    longest = max(map(len, found.values()))
    lines = [Line(name, [float(i + 1) for i in range(len(shares))], list(shares)) for name, shares in found.items()]
    first = " and ".join(f"{100 * shares[0]:.0f} % ({name})" for name, shares in found.items())
    note = (
        f"Share of the variance of the features of {len(store):,} images that lies in their first k principal directions. "
        f"The first direction alone holds {first}."
    )
    chart = svg(
        lines, title="PCA spectrum", description=note, x_label="number of principal directions k", y_range=(0, 1), percent=True,
        width=640, height=320,
    )  # fmt: skip
    rows = [
        (k + 1, *(f"{shares[k]:.8g}" if k < len(shares) else "" for shares in found.values())) for k in range(longest)
    ]
    return {
        "spectrum.svg": figure(
            f"Spectrum of the features, {run.config.backbone}", note, [Panel("Share of the variance", chart)]
        ),
        "spectrum.csv": csv_text(("directions", *found), rows),
        "spread.json": json_text(spread),
    }


def clustered_rows(config: Config, features: torch.Tensor) -> torch.Tensor:
    """What is clustered, and so what the spectrum is of: features [N, D] before or after their ReLU."""
    return features.clamp(min=0) if config.feature == "after_relu" else features


def variance_shares(config: Config, rows: torch.Tensor) -> list[float]:
    """Share of the variance of rows [N, D] in their first 1, 2, 3 … principal directions; all 0 where nothing varies."""
    fitted = whitening.fit(rows, min(DIMS, rows.shape[1]), whiten=False, seed=config.seed)
    return (fitted.eigenvalues.double().cumsum(0) / max(fitted.total_variance, 1e-300)).tolist()


_TABLES = {
    "low-shot": ("shots", "Low-shot classification", "labelled images a class"),
    "semi-supervised": ("fractions", "Semi-supervised classification", "labelled share of the images"),
    "linear": ("stages", "Linear classifier on each stage", "stage"),
    "svm": ("stages", "Support vector machine on each stage", "stage"),
    "knn": ("stages", "kNN on each stage", "stage"),
}
_BEFORE = ("untrained", "scratch")


def scores(run: Run, *, compare: Sequence[str | Path] | None = None) -> dict[str, bytes | str]:
    """What `evaluate` found so far (V07, A25): accuracy by number of labels and by stage, trained and untrained.

    `compare`: other runs, for example a supervised one, whose scores of the same protocols are drawn too.
    """
    if not run.scores:
        raise RunError(
            f"{run.path} has no scores yet; make some with `unlabeled evaluate all {typed(run.path)} DATA --labels folder`."
        )
    others = [(other.path.resolve().name, other.scores) for other in (run.another(path) for path in compare or ())]
    panels: list[Panel] = []
    table: list[tuple[Any, ...]] = []
    for protocol, metric in ((protocol, metric) for protocol in _TABLES for metric in ("", "top5")):
        key, heading, x_label = _TABLES[protocol]
        found = run.scores.get(protocol, {}).get(key)
        if not isinstance(found, Mapping) or not found or (metric and not _has(found, metric)):
            continue
        names = list(found)
        drawn = series(found, names, metric)
        for name, theirs in others:
            other = theirs.get(protocol, {}).get(key)
            if isinstance(other, Mapping) and other:
                drawn.append(replaced(series(other, names, metric)[0], name))
        suffix = ", top-5" if metric else ""
        chart = plots.by_category(names, drawn, x_label=x_label)
        panels.append(Panel(f"{heading}{suffix}", chart, _note(drawn, len(others))))
        table += [
            (f"{protocol}{suffix}", place, one.label, f"{number:.6g}", "" if half is None else f"{half:.6g}")
            for one in drawn
            for place, number, half in zip(names, one.values, one.halves or [None] * len(names), strict=True)
            if number is not None
        ]
    for name, (after, before) in headline(run.scores).items():
        bars = plots.ranked([("trained", after), ("untrained", before)], first=False, width=plots.WIDTH)
        panels.append(Panel(name, bars))
        table += [(name, "all", "trained", f"{after:.6g}", ""), (name, "all", "untrained", f"{before:.6g}", "")]
    note = "Scores of this run and of the untrained network it began as, as `unlabeled evaluate` stored them in scores.json."
    return {
        "scores.svg": figure(f"Scores of {run.path.resolve().name}", note, panels),
        "scores.csv": csv_text(("protocol", "at", "network", "score", "ci95_half_width"), table),
    }


def _has(rows: Mapping[str, Mapping[str, Any]], metric: str) -> bool:
    return any(value(row, metric) is not None for row in rows.values())


def series(rows: Mapping[str, Mapping[str, Any]], names: Sequence[str], metric: str = "") -> list[Series]:
    """Trained and untrained of a table of scores, with the intervals where there are any.

    The main number of each row, or `metric`, "top5", of which the untrained network's is called `scratch_top5` and so on.
    """
    first = next(iter(rows.values()))
    own = metric or ("top1" if "top1" in first else "knn")
    suffix = f"_{metric}" if metric else ""
    before = next((name for name in _BEFORE if f"{name}{suffix}" in first), None)
    columns = [("trained", own, f"{metric}_ci95" if metric else "ci95")]
    if before:
        label = "from scratch" if before == "scratch" else before
        columns.append((label, f"{before}{suffix}", f"{before}{suffix}_ci95"))
    return [
        Series(
            label,
            [value(rows.get(name, {}), key) for name in names],
            [value(rows.get(name, {}), half) for name in names],
        )
        for label, key, half in columns
    ]


def replaced(one: Series, label: str) -> Series:
    """The same under another name."""
    return Series(label, one.values, one.halves)


def _note(drawn: Sequence[Series], others: int) -> str:
    text = "Accuracy on held-out images."
    if any(half for one in drawn for half in one.halves):
        text += " Bars: 95 % intervals over random draws of the labelled images."
    return text + (" Other runs by their names." if others else "")


def headline(found: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """The first number of each protocol that has one for the untrained network too: trained and untrained."""
    pairs: dict[str, tuple[float, float]] = {}
    for protocol, numbers in found.items():
        after = next((score for key in numbers if (score := value(numbers, key)) is not None), None)
        before = value(numbers, "untrained")
        if after is not None and before is not None and 0 <= min(after, before) <= max(after, before) <= 1:
            pairs[protocol] = (after, before)
    return pairs
