"""The verb that scores a run: evaluate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from unlabeled.cli.console import app, opened_run, output, print_baselines
from unlabeled.cli.options import ProtocolFlags, given
from unlabeled.config import Device
from unlabeled.progress import counted

Protocol = Literal[
    "all",
    "cliques",
    "edge-ratio",
    "knn",
    "knn-bank",
    "linear",
    "low-shot",
    "mlp",
    "nmi",
    "retrieval",
    "semi-supervised",
    "svm",
    "voc-classification",
    "voc-detection",
    "voc-segmentation",
]


NO_TEST = (
    *("cliques", "edge-ratio", "nmi", "retrieval"),
    *("voc-classification", "voc-detection", "voc-segmentation"),
)
"""Protocols that look at one set, or whose data say what is scored."""
NO_LABELS = ("cliques", "retrieval", "voc-classification", "voc-detection", "voc-segmentation")
"""Protocols that need none, or whose data bring their own."""


@app.command(usage="Usage: unlabeled evaluate PROTOCOL RUN [DATA] [OPTIONS]")
def evaluate(
    protocol: Protocol,
    run: Path,
    data: Path | None = None,
    *,
    labels: str = "folder",
    test: Path | None = None,
    quick: Annotated[bool, Parameter(negative=())] = False,
    json: Path | None = None,
    published: Annotated[bool, Parameter(negative=())] = False,
    device: Device = "auto",
    options: ProtocolFlags = None,
) -> None:
    """Score a run against labels, beside the untrained network and raw pixels.

    Nothing is trained for

    * `knn`: share of images whose nearest neighbours vote for the right label
    * `knn-bank`: the same for --test images among the rows of instance's memory bank, whose images are DATA
    * `nmi`: how much clusters and labels say about each other
    * `edge-ratio`: share of nearest-neighbour edges that stay inside a class
    * `cliques`: share of images in groups that are all neighbours of each other; needs no labels
    * `retrieval`: mean average precision of finding the same thing, by lists in the layout of Oxford Buildings

    a classifier on the frozen network for

    * `linear`: accuracy of a linear classifier on every stage
    * `svm`: the same of a linear support vector machine, and on the feature
    * `mlp`: accuracy of a perceptron on the last map

    and more of the network, against the same from scratch, for

    * `low-shot`: accuracy with a few labelled images a class
    * `semi-supervised`: accuracy with a labelled share of the images
    * `voc-classification`: which classes are in a picture; DATA is a VOC devkit
    * `voc-detection`: where the objects are, with Fast or Faster R-CNN, likewise
    * `voc-segmentation`: the class of every pixel, likewise

    and

    * `all`: every one that the data allow, in one table: RUN/comparison.md, .json and .html

    `unlabeled evaluate knn --help` shows what `knn` takes, and so for the others.

    Parameters
    ----------
    protocol
        One of the names above.
    run
        Folder of the run.
    data
        Labelled images; the training images where not given.
    labels
        `folder` (the class is the folder's name) or a CSV with path and label columns.
    test
        Labelled images to score on; without it, a fifth of DATA is held out.
    quick
        Take a minute or two: less data, fewer epochs.
    json
        File to write the numbers to.
    published
        Also print what the papers report: numbers of their images, networks and training.
    device
        Where to compute.
    """
    with opened_run(run, device) as opened:
        scores = opened.evaluate(protocol, data, labels=labels, test=test, json=json, quick=quick, **given(options))
    if protocol == "all":
        output.print(scores["markdown"], markup=False)
    elif protocol == "knn":
        print_knn(scores, opened.baseline, opened.config.epochs)
    else:
        print_scores(scores)
    if published:
        print_published(protocol)


def print_published(protocol: str) -> None:
    """What the papers report for it."""
    from unlabeled.protocols.table import published

    if told := published(protocol):
        output.print(f"\nPublished: {told}", markup=False)


def print_knn(scores: Mapping[str, Any], baseline: str, epochs: int) -> None:
    """What training did to the score, then the other facts."""
    print_baselines("kNN accuracy", {**scores, "trained": scores["knn"]}, baseline)
    if epochs:
        output.print(
            what_training_did(scores["knn"], scores["untrained"], scores["test_images"], baseline), markup=False
        )
    else:
        output.print("Nothing was trained: the network is as it came.", markup=False)
    output.print()
    print_scores({name: value for name, value in scores.items() if name not in ("knn", "untrained", "raw_pixels")})


def what_training_did(trained: float, untrained: float, images: int, baseline: str = "untrained network") -> str:
    """Whether two shares of so many test images differ by more than chance, in a sentence.

    The standard error is that of two independent shares; both networks see the same images, so it is rather too large.
    """
    before = "untrained" if baseline == "untrained network" else f"the {baseline}"
    change = trained - untrained
    noise = 2 * math.sqrt((trained * (1 - trained) + untrained * (1 - untrained)) / images)
    errors = f"two standard errors of {counted(images, 'test image')} ({100 * noise:.1f} points)"
    if abs(change) <= noise:
        return f"Trained and {before} differ by {100 * abs(change):.1f} points, within {errors}: it may be chance."
    side = "above" if change > 0 else "below"
    return f"Trained is {side} {before} by {100 * abs(change):.1f} points, more than {errors}."


def print_scores(scores: Mapping[str, Any]) -> None:
    """Numbers one a line, then tables whose rows are numbers by name; longer lists by class are for --json."""
    for name, value in scores.items():
        if not isinstance(value, Mapping):
            output.print(f"{name:18s} {_text(name, value)}", markup=False)
    for name, rows in scores.items():
        if isinstance(rows, Mapping) and rows and all(isinstance(row, Mapping) for row in rows.values()):
            _print_table(name, rows)


def _print_table(title: str, rows: Mapping[str, Mapping[str, Any]]) -> None:
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    lines = [[title, *columns]]
    for name, row in rows.items():
        lines.append([name, *(_text(column, row.get(column)) for column in columns)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    output.print()
    for line in lines:
        first, *others = (cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        output.print("  ".join([first.strip().ljust(widths[0]), *others]), markup=False, soft_wrap=True)


RATES = ("nmi", "lr", "weight_decay", "temperature", "C")
"""Numbers that are no shares."""


def _text(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float) and name not in RATES:
        return f"{100 * value:.1f} %"
    if isinstance(value, int):
        return f"{value:,}"
    return value if isinstance(value, str) else f"{value:.4g}"
