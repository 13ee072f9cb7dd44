"""Pictures of a training: what its journal recorded, by epoch, of one run or of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unlabeled import assignments
from unlabeled.errors import RunError, typed
from unlabeled.pictures.numbers import value
from unlabeled.protocols.comparison import named_runs
from unlabeled.runfolder import csv_text
from unlabeled.visualize import plots
from unlabeled.visualize.curves import Level, Line, svg
from unlabeled.visualize.plots import Panel, figure
from unlabeled.visualize.training_charts import once

if TYPE_CHECKING:
    from unlabeled.run import Run

WIDE = 520
"""Pixels of a chart with the names of runs beside it."""
NAME_WIDTH = 130
"""Pixels that such a name may take."""
_PERCENT = {
    *("knn", "knn_bank", "knn_output", "knn_test", "moved_share", "labelled_share", "largest_share", "size_entropy"),
    *("edge_ratio", "zeros_after_relu", "pca_first_share", "pca_share_10", "pca_share_kept"),
    *(
        "nearest",
        "nearest_bank",
        "nearest_output",
        "dead_dims",
        "backbone_dead_dims",
        "prediction_share",
        "prediction_entropy",
    ),
}
# Key in the journal: words above its chart, and how to read it.
_WORDS = {
    "loss": ("Loss", "How badly the network predicts the targets; below the dashed line it does better than guessing."),
    "knn": ("kNN accuracy", "Share of held-out images whose nearest neighbours carry their label."),
    "nearest": ("Accuracy of a single neighbour", "Share of held-out images whose nearest one carries their label."),
    "nearest_bank": ("Accuracy of a single neighbour, memory bank", "The same, of the rows of the bank."),
    "nearest_output": ("Accuracy of a single neighbour, outputs", "The same, of the head's output."),
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
    "pca_share_10": ("First ten principal directions", "Share of the variance they hold."),
    "uniformity": ("Uniformity of the features", "0: all the same; about -4: spread evenly over the sphere."),
    "dead_dims": ("Dead dimensions", "Share of the feature's dimensions that hardly vary."),
    "prediction_share": ("Commonest answer", "Share of the views that the network gave it to."),
    "prediction_entropy": ("Evenness of the answers", "100 %: all answers as often; near 0: always the same one."),
    "backbone_mean_cosine": ("Mean cosine, backbone", "Of what is before the head; 1: a collapse."),
    "backbone_uniformity": ("Uniformity, backbone", "Of what is before the head."),
    "backbone_effective_rank": ("Effective rank, backbone", "Of what is before the head."),
    "backbone_dead_dims": ("Dead dimensions, backbone", "Of what is before the head."),
    "zeros_after_relu": ("Zeros after the ReLU", "Share of the feature that is zero."),
    "inertia": ("Inertia of k-means", "Mean squared distance of an image to its centre."),
    "lr": ("Learning rate", ""),
    "images_per_second": ("Speed", "Images a second."),
    "seconds": ("Time of an epoch", "Seconds."),
}
_LEVELS = {"chance_loss"}
_CONSTANT = {"lr", "num_clusters", "labelled_share", "empty_clusters", "singletons"}
"""Of these a chart that never moves says nothing."""


def curves(run: Run, *, compare: Sequence[str | Path] | None = None) -> dict[str, bytes | str]:
    """Every number of the journal, epoch by epoch (V05), and the kNN accuracy against the loss (A20).

    `compare`: other runs, drawn into the same charts (A02, A09 to A11 and so on are such overlays).
    """
    runs = named_runs(run, compare)
    journals = {name: _journal(one) for name, one in runs.items()}
    for name, one in runs.items():
        if not journals[name]:
            raise RunError(f"{one.path} has no finished epoch to draw; run `unlabeled resume {typed(one.path)}`.")
    records = [record for journal in journals.values() for record in journal]
    keys = [key for key in dict.fromkeys(key for record in records for key in record) if _is_series(records, key)]
    order = [key for key in _WORDS if key in keys] + [key for key in keys if key not in _WORDS]
    panels = [_panel(key, journals) for key in order if key not in _LEVELS and not _is_flat(key, journals)]
    if compare:
        return _overlay(run, panels, journals, order)
    both = [(value(record, "loss"), value(record, "knn")) for record in records]
    points = [(loss, knn) for loss, knn in both if loss is not None and knn is not None]
    if len(points) > 1:
        note = "Every epoch at which both were measured, joined in the order of the training."
        panels.insert(1, Panel("kNN accuracy against the loss", plots.trace(points, x_label="loss"), note))
    title = f"Training of {run.path.resolve().name}: {run.config.method}, {run.config.backbone}, {len(records)} epochs"
    once_made = (
        "; of clusters and the features they were made of, once a clustering"
        if run.config.method == "deepcluster"
        else ""
    )
    note = f"Every number that was recorded, by epoch{once_made}. The numbers themselves are in curves.csv beside this picture."
    return {"curves.svg": figure(title, note, panels), "curves.csv": csv_text(("epoch", *order), _rows(records, order))}


def _overlay(
    run: Run, panels: Sequence[Panel], journals: Mapping[str, Sequence[Mapping[str, Any]]], order: Sequence[str]
) -> dict[str, bytes | str]:
    """The files of several runs, of their own names: a picture of the run alone stays."""
    title = f"Training of {run.path.resolve().name} and {len(journals) - 1} more"
    note = (
        f"The runs: {', '.join(journals)}. A number that only some of them recorded has only their curves. The numbers are in "
        "curves-compared.csv beside this picture."
    )
    rows = [[name, *row] for name, journal in journals.items() for row in _rows(journal, order)]
    return {
        "curves-compared.svg": figure(title, note, panels),
        "curves-compared.csv": csv_text(("run", "epoch", *order), rows),
    }


def _journal(run: Run) -> list[Mapping[str, Any]]:
    """What the run recorded of its epochs; a number of a clustering in the epoch that began with it, as in the report."""
    numbers = [record["epoch"] for record in run.history]
    made = assignments.rewritten(run.config, run.folder.assignments, run.record.count, numbers)
    return once(run.history, run.config.method, made)


def _rows(journal: Sequence[Mapping[str, Any]], order: Sequence[str]) -> list[list[Any]]:
    return [[record["epoch"], *(_cell(record.get(key)) for key in order)] for record in journal]


def _panel(key: str, runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Panel:
    """One number of all runs."""
    heading, note = _WORDS.get(key, (key.replace("_", " "), ""))
    lines: list[Line] = []
    numbers = [float(record["epoch"]) for epochs in runs.values() for record in epochs]
    levels: list[Level] = []
    for name, epochs in runs.items():
        # A run without the number keeps its place: colours are those of the other charts.
        measured = [record for record in epochs if record.get(key) is not None]
        label = plots.shortened(name, NAME_WIDTH) if len(runs) > 1 else ""
        lines.append(Line(label, [float(record["epoch"]) for record in measured], [value(r, key) for r in measured]))
        chance = [found for record in epochs if (found := value(record, "chance_loss")) is not None]
        # Of several runs each guesses among a number of its own, and there is no line to be below.
        if key == "loss" and chance and len(runs) == 1:
            levels = [Level("guessing", chance[-1])]
    if key == "loss" and not levels:
        note = note.partition(";")[0] + "."
    chart = svg(
        lines,
        title=heading,
        description=note,
        x_label="epoch",
        x_range=(min(numbers), max(numbers)),
        levels=levels,
        percent=key in _PERCENT,
        width=plots.WIDTH if len(runs) == 1 else WIDE,
        height=plots.HEIGHT,
    )
    return Panel(heading, chart, note)


def _is_series(records: Sequence[Mapping[str, Any]], key: str) -> bool:
    return key != "epoch" and any(value(record, key) is not None for record in records)


def _is_flat(key: str, runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> bool:
    found = {value(record, key) for epochs in runs.values() for record in epochs} - {None}
    return not found or (key in _CONSTANT and len(found) == 1)


def _cell(found: Any) -> Any:
    return f"{found:.8g}" if isinstance(found, float) else "" if found is None else found
