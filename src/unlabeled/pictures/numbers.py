"""Pictures of numbers: what a training recorded, what `evaluate` found, and how many directions the features use."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unlabeled import health
from unlabeled.cluster import whitening
from unlabeled.errors import RunError
from unlabeled.pictures.opened import json_text, opened
from unlabeled.runfolder import csv_text
from unlabeled.visualize import plots
from unlabeled.visualize.curves import Level, Line, svg
from unlabeled.visualize.plots import Panel, Series, figure

if TYPE_CHECKING:
    from unlabeled.run import Run

DIMS = 256
"""Directions of the spectrum, those that the papers keep."""
SPREAD_ROWS = 4096
_PERCENT = {
    *("knn", "knn_bank", "knn_output", "knn_test", "moved_share", "labelled_share", "largest_share", "size_entropy"),
    *("edge_ratio", "zeros_after_relu", "pca_first_share", "pca_share_kept"),
}
# Key in the journal: words above its chart, and how to read it.
_WORDS = {
    "loss": ("Loss", "How badly the network predicts the targets; below the dashed line it does better than guessing."),
    "knn": ("kNN accuracy", "Share of held-out images whose nearest neighbours carry their label."),
    "knn_bank": ("kNN accuracy in the memory bank", "The same, of the rows of the bank."),
    "knn_output": ("kNN accuracy of the outputs", "The same, of the head's output."),
    "nmi_previous": ("NMI with the clustering before", "0: unrelated, 1: the same partition."),
    "nmi_labels": ("NMI with the labels", "0: clusters say nothing about the classes, 1: they are the classes."),
    "moved_share": ("Reassigned images", "Share of images whose target changed."),
    "edge_ratio": ("Edge ratio", "Share of nearest-neighbour edges that stay inside a class."),
    "size_entropy": ("Evenness of the clusters", "100 %: all of one size; near 0: one cluster holds all."),
    "largest_share": ("Largest cluster", "Share of the images in it."),
    "num_clusters": ("Clusters", "How many there are."),
    "empty_clusters": ("Empty clusters", "How many had no image and were filled anew."),
    "singletons": ("Clusters of one image", "How many."),
    "labelled_share": ("Images with a target", "Share of all images."),
    "effective_rank": ("Effective rank of the features", "About how many independent directions they use."),
    "mean_cosine": ("Mean cosine of two images", "1: all features are the same, a collapse."),
    "feature_std": ("Spread of the features", "Mean standard deviation of a unit feature, in units of 1 / √dims."),
    "pca_first_share": ("First principal direction", "Share of the variance it holds."),
    "pca_share_kept": ("Directions kept by PCA", "Share of the variance they hold."),
    "zeros_after_relu": ("Zeros after the ReLU", "Share of the feature that is zero."),
    "inertia": ("Inertia of k-means", "Mean squared distance of an image to its centre."),
    "lr": ("Learning rate", ""),
    "images_per_second": ("Speed", "Images a second."),
    "seconds": ("Time of an epoch", "Seconds."),
}
_LEVELS = {"chance_loss"}
_CONSTANT = {"lr", "num_clusters", "labelled_share", "empty_clusters", "singletons"}
"""Of these a chart that never moves says nothing."""


def curves(run: Run) -> dict[str, bytes | str]:
    """Every number of the journal, epoch by epoch (V05), and the kNN accuracy against the loss (A20)."""
    records = [record for record in run.history if "step" not in record]
    epochs = [record for record in records if record.get("epoch", 0) > 0]
    if not epochs:
        raise RunError(f"{run.path} has no finished epoch to draw; run `unlabeled resume {run.path}`.")
    keys = [key for key in dict.fromkeys(key for record in records for key in record) if _is_series(records, key)]
    order = [key for key in _WORDS if key in keys] + [key for key in keys if key not in _WORDS]
    panels = [_panel(key, epochs) for key in order if key not in _LEVELS and not _is_flat(key, epochs)]
    both = [(value(record, "loss"), value(record, "knn")) for record in epochs]
    points = [(loss, knn) for loss, knn in both if loss is not None and knn is not None]
    if len(points) > 1:
        note = "Every epoch at which both were measured, joined in the order of the training."
        panels.insert(1, Panel("kNN accuracy against the loss", plots.trace(points, x_label="loss"), note))
    title = f"Training of {run.path.resolve().name}: {run.config.method}, {run.config.backbone}, {len(epochs)} epochs"
    note = "Every number that was recorded, by epoch. The numbers themselves are in curves.csv beside this picture."
    rows = [[record.get("epoch", ""), *(_cell(record.get(key)) for key in order)] for record in records]
    return {"curves.svg": figure(title, note, panels), "curves.csv": csv_text(("epoch", *order), rows)}


def _panel(key: str, epochs: Sequence[Mapping[str, Any]]) -> Panel:
    heading, note = _WORDS.get(key, (key.replace("_", " "), ""))
    measured = [record for record in epochs if record.get(key) is not None]
    levels: list[Level] = []
    if key == "loss":
        chance = [found for record in epochs if (found := value(record, "chance_loss")) is not None]
        levels = [Level("guessing", chance[-1])] if chance else []
    line = Line("", [float(record["epoch"]) for record in measured], [value(record, key) for record in measured])
    percent = key in _PERCENT
    chart = svg(
        [line], title=heading, description=note, x_label="epoch", levels=levels, percent=percent, height=plots.HEIGHT
    )
    return Panel(heading, chart, note)


def _is_series(records: Sequence[Mapping[str, Any]], key: str) -> bool:
    return key != "epoch" and any(value(record, key) is not None for record in records)


def _is_flat(key: str, epochs: Sequence[Mapping[str, Any]]) -> bool:
    found = {value(record, key) for record in epochs} - {None}
    return not found or (key in _CONSTANT and len(found) == 1)


def value(record: Mapping[str, Any], key: str) -> float | None:
    """A finite number of a record, or None."""
    found = record.get(key)
    if not isinstance(found, (int, float)) or isinstance(found, bool) or not math.isfinite(found):
        return None
    return float(found)


def _cell(found: Any) -> Any:
    return f"{found:.8g}" if isinstance(found, float) else "" if found is None else found


def spectrum(run: Run, data: str | Path | None = None) -> dict[str, bytes | str]:
    """Share of the variance in the first k principal directions, trained and untrained (A08), and the spread (A28)."""
    store = opened(run, data)
    found: dict[str, list[float]] = {}
    spread: dict[str, dict[str, float]] = {}
    for name, backbone in (("trained", run.backbone), ("untrained", run.untrained_backbone())):
        features = run.features_of(store, backbone, name)
        # What is clustered is what the spectrum is of.
        rows = features.clamp(min=0) if run.config.feature == "after_relu" else features
        fitted = whitening.fit(rows, min(DIMS, rows.shape[1]), whiten=False, seed=run.config.seed)
        found[name] = (fitted.eigenvalues.double().cumsum(0) / fitted.total_variance).tolist()
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


_TABLES = {
    "low-shot": ("shots", "Low-shot classification", "labelled images a class"),
    "semi-supervised": ("fractions", "Semi-supervised classification", "labelled share of the images"),
    "linear": ("stages", "Linear classifier on each stage", "stage"),
    "svm": ("stages", "Support vector machine on each stage", "stage"),
    "knn": ("stages", "kNN on each stage", "stage"),
}
_BEFORE = ("untrained", "scratch")
_CHANCE = "chance"


def scores(run: Run, *, compare: Sequence[str | Path] | None = None) -> dict[str, bytes | str]:
    """What `evaluate` found so far (V07, A25): accuracy by number of labels and by stage, trained and untrained.

    `compare`: other runs, for example a supervised one, whose scores of the same protocols are drawn too.
    """
    if not run.scores:
        raise RunError(
            f"{run.path} has no scores yet; make some with `unlabeled evaluate all {run.path} DATA --labels folder`."
        )
    others = [(other.path.resolve().name, other.scores) for other in (run.another(path) for path in compare or ())]
    panels: list[Panel] = []
    table: list[tuple[Any, ...]] = []
    for protocol, (key, heading, x_label) in _TABLES.items():
        found = run.scores.get(protocol, {}).get(key)
        if not isinstance(found, Mapping) or not found:
            continue
        names = list(found)
        drawn = series(found, names)
        for name, theirs in others:
            other = theirs.get(protocol, {}).get(key)
            if isinstance(other, Mapping):
                drawn.append(replaced(series(other, names)[0], name))
        panels.append(Panel(heading, plots.by_category(names, drawn, x_label=x_label), _note(drawn, len(others))))
        table += [
            (protocol, place, one.label, f"{number:.6g}", "" if half is None else f"{half:.6g}")
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


def series(rows: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> list[Series]:
    """Trained and untrained of a table of scores, with the intervals where there are any."""
    first = next(iter(rows.values()))
    own = "top1" if "top1" in first else "knn"
    before = next((name for name in _BEFORE if name in first), None)
    columns = [("trained", own, "ci95")]
    if before:
        columns.append(("from scratch" if before == "scratch" else before, before, f"{before}_ci95"))
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
