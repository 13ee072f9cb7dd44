"""The verb that scores a run: evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from unlabeled.cli.console import app, opened_run, output
from unlabeled.cli.flags import DeviceName, ProtocolFlags, given

Protocol = Literal["edge-ratio", "knn", "nmi"]


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
    device: DeviceName = "auto",
    options: ProtocolFlags = None,
) -> None:
    """Score a run against labels, beside the untrained network and raw pixels.

    Parameters
    ----------
    protocol
        knn: share of images whose nearest neighbours vote for the right label.
        nmi: how much clusters and labels say about each other.
        edge-ratio: share of nearest-neighbour edges that stay inside a class.
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
    device
        Where to compute.
    """
    with opened_run(run, device) as opened:
        scores = opened.evaluate(protocol, data, labels=labels, test=test, json=json, quick=quick, **given(options))
    for name, value in scores.items():
        if isinstance(value, dict):
            continue  # a table by class: for --json
        text = f"{100 * value:.1f} %" if isinstance(value, float) and name != "nmi" else f"{value:.4g}"
        output.print(f"{name:18s} {text}", markup=False)
