"""The charts of a training: one for each number that was recorded, with the question it answers; and the same as a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from unlabeled.methods.deepcluster import STATISTICS
from unlabeled.progress import counted
from unlabeled.visualize import curves
from unlabeled.visualize.facts import ReportFacts

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


def one_point(facts: ReportFacts) -> str:
    """What a point of the charts stands for."""
    text = "One point per epoch, a round through the images"
    is_sparse = facts.rewritten is not None and len(facts.rewritten) < len(facts.history)
    if facts.method == "deepcluster" and is_sparse:
        return f"{text}; of clusters and features, one per clustering."
    return f"{text}."


def training_charts(facts: ReportFacts) -> list[tuple[str, str, str]]:
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
        levels: list[curves.Level] = []
        if key == "loss":
            chance = [value for record in records if (value := number(record, "chance_loss")) is not None]
            if chance:
                levels = [curves.Level("guessing", chance[-1])]
                note += " Below the dashed line it does better than guessing."
        elif key in _OF_UNTRAINED and facts.method == "deepcluster" and (facts.rewritten or ())[:1] == [1]:
            note += _OF_UNTRAINED[key][len(known) > 1]
        elif key in _SETTLING and facts.method in ("", "deepcluster"):
            # The first clustering has none before it.
            note += _SETTLING[key] if len(known) + 1 >= _LEAST_CLUSTERINGS else ""
        elif key == "knn":
            levels = [
                curves.Level(name.removesuffix(" network"), value) for name, value in list(facts.scores.items())[:-1]
            ]
            if len(known) > 1:
                note += _last_and_best(records)
        summary = f" From {known[0]:.3g} to {known[-1]:.3g} over {counted(len(known), 'recorded point')}."
        picture = curves.svg(
            [curves.Line(label, [float(record.get("epoch", i)) for i, record in enumerate(records)], values)],
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


def epoch_table(facts: ReportFacts) -> tuple[list[str], list[list[str]]]:
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
