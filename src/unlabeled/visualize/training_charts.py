"""The charts of a training: one for each number that was recorded, with the question it answers; and the same as a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from unlabeled.progress import counted
from unlabeled.visualize import curves
from unlabeled.visualize.facts import ReportFacts

# Key in the journal, name in the chart, the question it answers, how to read it.
_PANELS = (
    (
        "loss",
        "loss",
        "Is the puzzle being solved?",
        "The loss says how badly the network predicts which cluster an image is in. Below the dashed line it "
        "does better than guessing.",
    ),
    (
        "nmi_previous",
        "NMI",
        "Are the clusters settling?",
        "Agreement (NMI) of each clustering with the one before it: 0 is unrelated, 1 the same. A healthy run "
        "climbs and then flattens.",
    ),
    (
        "moved_share",
        "moved",
        "How many images change sides?",
        "Share of images whose cluster is not the one most of their old companions went to. It falls as the "
        "clusters settle.",
    ),
    (
        "size_entropy",
        "evenness",
        "Are the clusters of similar size?",
        "Evenness of the cluster sizes: 100 % if all are equal, near 0 if one cluster swallows all.",
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


def training_charts(facts: ReportFacts) -> list[tuple[str, str, str]]:
    """(question, how to read it, picture) for every number that was recorded at least once."""
    charts: list[tuple[str, str, str]] = []
    for key, label, heading, note in _PANELS:
        # An epoch without the number was not measured and leaves no gap; one whose number is not finite does.
        records = [record for record in facts.history if "step" not in record and record.get(key) is not None]
        values = [number(record, key) for record in records]
        known = [value for value in values if value is not None]
        if not known:
            continue
        levels: list[curves.Level] = []
        if key == "loss":
            chance = [value for record in records if (value := number(record, "chance_loss")) is not None]
            levels = [curves.Level("guessing", chance[-1])] if chance else []
        elif key == "knn":
            levels = [
                curves.Level(name.removesuffix(" network"), value) for name, value in list(facts.scores.items())[:-1]
            ]
            if len(known) > 1:
                note += _last_and_best(records)
        summary = f" From {known[0]:.3g} to {known[-1]:.3g} over {counted(len(known), 'recorded epoch')}."
        picture = curves.svg(
            [curves.Line(label, [float(record.get("epoch", i)) for i, record in enumerate(records)], values)],
            title=heading,
            description=note + summary + "".join(f" {level.label}: {level.value:.3g}." for level in levels),
            x_label="epoch",
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


def epoch_table(history: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """The curves as a table: column names and rows, only columns that hold a number."""
    records = [record for record in history if "step" not in record]
    keys = [key for key in _COLUMNS if any(number(record, key) is not None for record in records)]
    rows = [["" if (value := number(record, key)) is None else f"{value:.4g}" for key in keys] for record in records]
    return [_COLUMNS[key] for key in keys], rows


def number(record: Mapping[str, Any], key: str) -> float | None:
    """A finite number of a record, or None."""
    value = record.get(key)
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
