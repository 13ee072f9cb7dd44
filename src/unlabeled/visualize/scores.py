"""Pictures of numbers: what `evaluate` found, and how many directions the features use."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from unlabeled import diagnostics
from unlabeled.cluster import whitening
from unlabeled.config import Config
from unlabeled.errors import ConfigError, RunError, typed
from unlabeled.runs.opened import OpenedRun
from unlabeled.visualize import plots
from unlabeled.visualize.charts import Line, svg
from unlabeled.visualize.plots import Panel, Series, figure
from unlabeled.visualize.thumbnails import json_text, opened
from unlabeled.writing import csv_text

DIMS = 256
"""Directions of the spectrum, those that the papers keep."""
SPREAD_ROWS = 4096


def value(record: Mapping[str, Any], key: str) -> float | None:
    """A finite number of a record, or None."""
    found = record.get(key)
    if not isinstance(found, (int, float)) or isinstance(found, bool) or not math.isfinite(found):
        return None
    return float(found)


def spectrum(run: OpenedRun, data: str | Path | None = None) -> dict[str, bytes | str]:
    """Share of the variance in the first k principal directions, trained and untrained (A08), and the spread (A28)."""
    store = opened(run, data)
    found: dict[str, list[float]] = {}
    spread: dict[str, dict[str, float]] = {}
    for name, backbone in (("trained", run.backbone), ("untrained", run.untrained_backbone())):
        rows = clustered_rows(run.config, run.features_of(store, backbone, name))
        found[name] = variance_shares(run.config, rows)
        spread[name] = diagnostics.feature_statistics(rows[:: max(1, len(rows) // SPREAD_ROWS)])
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


def scores(run: OpenedRun, *, compare: Sequence[str | Path] | None = None) -> dict[str, bytes | str]:
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


FINE_TUNED = {
    "voc-classification": "VOC classification, mean average precision",
    "voc-detection": "VOC detection, mean average precision",
    "voc-segmentation": "VOC segmentation, mean intersection over union",
}
STAGES = {
    "linear": "Linear classifier on each stage",
    "svm": "Support vector machine on each stage",
    "knn": "kNN on each stage",
}


def gain(run: OpenedRun, *, compare: Sequence[str | Path] | None = None) -> dict[str, bytes | str]:
    """What training the whole network adds to training its last layers alone (A26), trained and untrained.

    From the scores of the VOC protocols evaluated once with `--train fc` and once with `--train all`; `compare`: other runs.
    Better features gain less: they are there already (thesis 5.1).
    """
    networks = {"trained": (run, "score"), "untrained": (run, "untrained")}
    for path in compare or ():
        other = run.another(path)
        networks[other.path.resolve().name] = (other, "score")
    panels: list[Panel] = []
    table: list[tuple[Any, ...]] = []
    for protocol, heading in FINE_TUNED.items():
        drawn: list[Series] = []
        words: list[str] = []
        facts = _facts(run, protocol)
        for name, (one, key) in networks.items():
            rows = one.scores.get(protocol, {}).get("layers", {})
            frozen, tuned = (value(rows.get(layers, {}), key) for layers in ("fc", "all"))
            # Of other pictures, or another number of them, a difference means nothing.
            if frozen is None or tuned is None or _facts(one, protocol) != facts:
                continue
            drawn.append(Series(name, [frozen, tuned]))
            words.append(f"{name} {100 * (tuned - frozen):+.1f}")
            table.append((protocol, name, f"{frozen:.6g}", f"{tuned:.6g}", f"{tuned - frozen:.6g}"))
        if drawn:
            chart = plots.by_category(("last layers", "whole network"), drawn, x_label="what is trained")
            panels.append(Panel(heading, chart, f"Gain in points: {', '.join(words)}."))
    if not panels:
        raise RunError(
            f"{run.path} has no VOC scores of both kinds; make them with `unlabeled evaluate voc-classification "
            f"{typed(run.path)} VOC --train fc`, then the same with `--train all`."
        )
    note = (
        "The score with the convolutions frozen and new last layers trained, and with the whole network trained. The better "
        "the features are, the less is gained."
    )
    return {
        "gain.svg": figure(f"What fine-tuning gains, {run.path.resolve().name}", note, panels),
        "gain.csv": csv_text(("protocol", "network", "last_layers", "whole_network", "gain"), table),
    }


def gap(run: OpenedRun, *, compare: Sequence[str | Path] | None = None) -> dict[str, bytes | str]:
    """How many points each stage of this run is behind that of other runs, for example a supervised one (A25).

    From the scores by stage of `linear`, `svm` and `knn`, which both runs must have.
    """
    if not compare:
        raise ConfigError(
            "the picture gap compares stages with those of another run: give it with --compare OTHER_RUN."
        )
    others = [run.another(path) for path in compare]
    panels: list[Panel] = []
    table: list[tuple[Any, ...]] = []
    for protocol, heading in STAGES.items():
        own = _by_stage(run, protocol)
        drawn: list[Series] = []
        for other in others:
            theirs, name = _by_stage(other, protocol), other.path.resolve().name
            gaps = [theirs[stage] - own[stage] if stage in theirs else None for stage in own]
            if any(found is not None for found in gaps):
                drawn.append(Series(f"behind {name}", gaps))
            table += [
                (
                    protocol,
                    stage,
                    name,
                    f"{own[stage]:.6g}",
                    f"{theirs[stage]:.6g}",
                    f"{theirs[stage] - own[stage]:.6g}",
                )
                for stage in own
                if stage in theirs
            ]
        if drawn:
            panels.append(Panel(heading, plots.by_category(list(own), drawn, x_label="stage", bounded=False)))
    if not panels:
        raise RunError(
            f"{run.path} and the runs it is compared with share no scores by stage; make some with `unlabeled evaluate linear "
            f"{typed(run.path)} DATA --labels folder`, and the same for the others."
        )
    note = (
        "Accuracy of the other run minus that of this one, stage by stage, in points: above 0 the other run is better. In the "
        "papers the gap to a supervised network is small in the middle stages and large in the last one."
    )
    return {
        "gap.svg": figure(f"Gap of {run.path.resolve().name}, stage by stage", note, panels),
        "gap.csv": csv_text(("protocol", "stage", "other", "this_run", "other_run", "gap"), table),
    }


def _facts(run: OpenedRun, protocol: str) -> set[tuple[Any, ...]]:
    rows = run.scores.get(protocol, {}).get("layers", {})
    return {(row.get("split"), row.get("train_images"), row.get("test_images")) for row in rows.values()}


def _by_stage(run: OpenedRun, protocol: str) -> dict[str, float]:
    rows = run.scores.get(protocol, {}).get("stages", {})
    if not isinstance(rows, Mapping) or not rows:
        return {}
    names = list(rows)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    values = series(rows, names)[0].values  # pyright: ignore[reportUnknownArgumentType]
    return {name: found for name, found in zip(names, values, strict=True) if found is not None}
