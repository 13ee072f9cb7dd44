"""Pictures of a training: what its journal recorded, by epoch, of one run or of several."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from unlabeled.errors import RunError, typed
from unlabeled.methods.deepcluster import STATISTICS
from unlabeled.progress import counted
from unlabeled.runs import cluster_history
from unlabeled.runs.opened import OpenedRun, named_runs
from unlabeled.visualize import charts as drawing
from unlabeled.visualize import plots
from unlabeled.visualize.charts import Level, Line, svg
from unlabeled.visualize.plots import Panel, figure
from unlabeled.visualize.scores import value
from unlabeled.writing import csv_text


class Recorded(Protocol):
    """What the charts of a training are drawn from."""

    @property
    def history(self) -> Sequence[Mapping[str, Any]]:
        """Records of `metrics.jsonl`."""
        ...

    @property
    def method(self) -> str:
        """Name of the method, empty if not known."""
        ...

    @property
    def rewritten(self) -> Sequence[int] | None:
        """Epochs, from 1, that began with a clustering or a matching; None if not known."""
        ...

    @property
    def scores(self) -> Mapping[str, float]:
        """Fractions by network, the run's own last."""
        ...


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


def curves(run: OpenedRun, *, compare: Sequence[str | Path] | None = None) -> dict[str, bytes | str]:
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
    run: OpenedRun, panels: Sequence[Panel], journals: Mapping[str, Sequence[Mapping[str, Any]]], order: Sequence[str]
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


def _journal(run: OpenedRun) -> list[Mapping[str, Any]]:
    """What the run recorded of its epochs; a number of a clustering in the epoch that began with it, as in the report."""
    numbers = [record["epoch"] for record in run.history]
    made = cluster_history.rewritten(run.config, run.folder.assignments, run.record.count, numbers)
    return once(run.history, run.config.method, made)


def _rows(journal: Sequence[Mapping[str, Any]], order: Sequence[str]) -> list[list[Any]]:
    return [[record["epoch"], *(_csv_cell(record.get(key)) for key in order)] for record in journal]


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


def _csv_cell(found: Any) -> Any:
    return f"{found:.8g}" if isinstance(found, float) else "" if found is None else found


# Key in the journal, name in the chart, the question it answers, how to read it.
_PANELS = (
    (
        "loss",
        "loss",
        "Is the puzzle being solved?",
        "The loss says how badly the network predicts its targets.",
    ),
    (
        "nmi_previous",
        "NMI",
        "Are the clusters settling?",
        "Agreement (NMI) of each clustering with the one before it: 0 is unrelated, 1 the same.",
    ),
    (
        "moved_share",
        "moved",
        "How many images change sides?",
        "Share of images whose cluster is not the one most of their old companions went to.",
    ),
    (
        "size_entropy",
        "evenness",
        "Are the clusters of similar size?",
        "Evenness of the cluster sizes in the training: 100 % if all are equal, near 0 if one cluster swallows all.",
    ),
    (
        "knn",
        "trained",
        "Do similar images lie together?",
        "Share of images whose nearest neighbours carry the same label as they do. Labels serve this score "
        "only, never the training.",
    ),
    (
        "effective_rank",
        "rank",
        "How much can the features tell apart?",
        "Effective rank: about how many independent directions the features use. A fall to 1 means that all "
        "images look alike.",
    ),
)


# What a method calls these numbers, where it is not the above: heading and how to read it.
_OWN = {
    ("deepcluster", "loss"): (
        "Is the puzzle being solved?",
        "The loss says how badly the network predicts which cluster an image is in.",
    ),
    ("nat", "loss"): (
        "Do the images reach their codes?",
        "The loss says how far the outputs of the images are from the fixed codes they were given.",
    ),
    ("instance", "loss"): (
        "Is the puzzle being solved?",
        "The loss says how badly the network tells each image from all the others.",
    ),
    ("supervised", "loss"): (
        "Are the labels being learned?",
        "The loss says how badly the network predicts the label of an image.",
    ),
    ("nat", "moved_share"): (
        "How many images change codes?",
        "Share of images that got another code; a point for each epoch in which images and codes were matched.",
    ),
}
# Said where the row is long enough to show it: of two clusterings nothing climbs or falls.
_SETTLING = {
    "nmi_previous": " A healthy run climbs and then flattens.",
    "moved_share": " Where clusters settle it falls.",
}
_LEAST_CLUSTERINGS = 3
# Said of a single point, and of the first of several: clusters are made before the epoch that is trained on them.
_OF_UNTRAINED = {
    "size_entropy": (
        " Clusters were made once, before the first epoch, from the features of the untrained network.",
        "",
    ),
    "effective_rank": (
        " The one point was measured before the first epoch and is of the untrained network.",
        " Measured before the epoch: the first point is of the untrained network.",
    ),
}
# Numbers that the journal repeats in every epoch until they are made anew; what guessing gives is a level and no curve.
_REPEATED = {"deepcluster": {*STATISTICS, "nmi_labels"} - {"chance_loss"}, "nat": {"moved_share"}}
_LOSS_WORDS = {
    "deepcluster": "How wrong the network is at telling which cluster an image belongs to. Lower is better, but clusters "
    "are redrawn now and then and each time the puzzle is a new one, so the curve need not fall all the way.",
    "nat": "The squared distance between what the network makes of an image and the fixed code that the image was given. "
    "Lower is better.",
    "instance": "How wrong the network is at telling an image, changed at random, from all other images. Lower is better.",
    "supervised": "How wrong the network is at telling the label of an image. Lower is better.",
}


def loss_word(method: str) -> str:
    """What the loss of a method is, for those who have never heard of one."""
    return _LOSS_WORDS.get(method, "How wrong the network is about its targets. Lower is better.")


def one_point(facts: Recorded) -> str:
    """What a point of the charts stands for."""
    text = "One point per epoch, a round through the images"
    is_sparse = facts.rewritten is not None and len(facts.rewritten) < len(facts.history)
    if facts.method == "deepcluster" and is_sparse:
        return f"{text}; of clusters and features, one per clustering."
    return f"{text}."


def training_charts(facts: Recorded) -> list[tuple[str, str, str]]:
    """(question, how to read it, picture) for every number that was recorded at least once."""
    charts: list[tuple[str, str, str]] = []
    history = once(facts.history, facts.method, facts.rewritten)
    ends = [float(record.get("epoch", i)) for i, record in enumerate(history)]
    for key, label, heading, note in _PANELS:
        # An epoch without the number was not measured and leaves no gap; one whose number is not finite does.
        records = [record for record in history if record.get(key) is not None]
        values = [number(record, key) for record in records]
        known = [value for value in values if value is not None]
        if not known:
            continue
        heading, note = _OWN.get((facts.method, key), (heading, note))
        levels: list[drawing.Level] = []
        if key == "loss":
            chance = [value for record in records if (value := number(record, "chance_loss")) is not None]
            if chance:
                levels = [drawing.Level("guessing", chance[-1])]
                note += " Below the dashed line it does better than guessing."
        elif key in _OF_UNTRAINED and facts.method == "deepcluster" and (facts.rewritten or ())[:1] == [1]:
            note += _OF_UNTRAINED[key][len(known) > 1]
        elif key in _SETTLING and facts.method in ("", "deepcluster"):
            # The first clustering has none before it.
            note += _SETTLING[key] if len(known) + 1 >= _LEAST_CLUSTERINGS else ""
        elif key == "knn":
            levels = [
                drawing.Level(name.removesuffix(" network"), value) for name, value in list(facts.scores.items())[:-1]
            ]
            if len(known) > 1:
                note += _last_and_best(records)
        summary = f" From {known[0]:.3g} to {known[-1]:.3g} over {counted(len(known), 'recorded point')}."
        picture = drawing.svg(
            [drawing.Line(label, [float(record.get("epoch", i)) for i, record in enumerate(records)], values)],
            title=heading,
            description=note + summary + "".join(f" {level.label}: {level.value:.3g}." for level in levels),
            x_label="epoch",
            # Charts beside each other have the same epochs above each other, whatever was measured when.
            x_range=(ends[0], ends[-1]),
            levels=levels,
            y_range={"loss": (None, None), "effective_rank": (0, None)}.get(key, (0, 1)),
            percent=key in ("moved_share", "size_entropy", "knn"),
        )
        charts.append((heading, note, picture))
    return charts


def _last_and_best(records: Sequence[Mapping[str, Any]]) -> str:
    # The released code of Instance Discrimination reports the best epoch, chosen on the labels that score it (spec N15).
    found = [(value, record["epoch"]) for record in records if (value := number(record, "knn")) is not None]
    best, epoch = max(found, key=lambda one: one[0])
    return (
        f" Last {100 * found[-1][0]:.1f} %; best {100 * best:.1f} %, after epoch {epoch}, which is chosen by the labels that "
        "score it and so a little too good."
    )


_COLUMNS = {
    "epoch": "epoch",
    "loss": "loss",
    "chance_loss": "guessing",
    "nmi_previous": "NMI",
    "moved_share": "moved",
    "size_entropy": "evenness",
    "empty_clusters": "empty",
    "largest_share": "largest",
    "effective_rank": "rank",
    "knn": "kNN",
}


def epoch_table(facts: Recorded) -> tuple[list[str], list[list[str]]]:
    """The curves as a table: column names and rows, only columns that hold a number; a repeated number is left out."""
    records = once(facts.history, facts.method, facts.rewritten)
    keys = [key for key in _COLUMNS if any(number(record, key) is not None for record in records)]
    rows = [[_cell(record, key) for key in keys] for record in records]
    return [_COLUMNS[key] for key in keys], rows


def _cell(record: Mapping[str, Any], key: str) -> str:
    value = number(record, key)
    return "" if value is None else f"{value:.4g}"


def once(records: Sequence[Mapping[str, Any]], method: str, rewritten: Sequence[int] | None) -> list[Mapping[str, Any]]:
    """The records of a journal without the numbers that an epoch only repeats from an earlier one.

    `rewritten`: epochs, from 1, in which the targets were made anew; None where that is not known, and all is kept.
    """
    repeated, anew = _REPEATED.get(method, set[str]()), set(rewritten or ())
    if rewritten is None or not repeated:
        return list(records)
    return [
        record if record.get("epoch") in anew else {key: value for key, value in record.items() if key not in repeated}
        for record in records
    ]


def number(record: Mapping[str, Any], key: str) -> float | None:
    """A finite number of a record, or None."""
    value = record.get(key)
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
