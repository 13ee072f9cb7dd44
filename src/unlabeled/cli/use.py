"""The verbs that use a trained run: embed, cluster, search, report."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from unlabeled.cli.console import app, is_first, opened_run, output, printable
from unlabeled.config import Device, Precision
from unlabeled.progress import counted

if TYPE_CHECKING:
    from unlabeled.runs.outputs import Clustered

LUMP = 0.6
"""A cluster that holds a larger share of the images is no kind of image but what is left."""
CLUSTERED_SHOWN = 20
"""Images `cluster` lists on the screen: the rest is a table's business."""


Strict = Annotated[bool, Parameter(negative=(), help="End with exit status 3 if images could not be read.")]
Batch = Annotated[
    str | None,
    Parameter(
        help="The word `folder`, a column, or FILE.csv:column with the batch (plate, date, camera) of each image: features are "
        "standardized batch by batch."
    ),
]


@app.command(usage="Usage: unlabeled embed RUN DATA --out FILE [OPTIONS]")
def embed(
    run: Path,
    data: Path,
    *,
    out: Path,
    precision: Precision | None = None,
    batch: Batch = None,
    strict: Strict = False,
    device: Device = "auto",
) -> None:
    """Compute the features of images and write them to a file.

    Images that cannot be read are left out, named on the screen and in FILE.skipped.csv.

    Parameters
    ----------
    run
        Folder of the run.
    data
        Images, in any form `train` takes.
    out
        File to write: .parquet (path, feature), .npy (names beside X.npy in X.names.txt) or .npz.
    precision
        In which the network computes: bfloat16 where the hardware has it (auto), or float32 [default: the run's].
    device
        Where to compute.
    """
    with opened_run(run, device) as opened:
        result = opened.embed(data, out, precision=precision, batch=batch, strict=strict)
    output.print(
        f"{counted(len(result.names), 'feature')} of {counted(result.features.shape[1], 'number')} in {out}",
        markup=False,
    )


@app.command(usage="Usage: unlabeled cluster RUN [DATA] [OPTIONS]")
def cluster(
    run: Path,
    data: Path | None = None,
    *,
    out: Path | None = None,
    to_folders: Path | None = None,
    num_clusters: int | None = None,
    batch: Batch = None,
    false_alarm_rate: float = 0.01,
    strict: Strict = False,
    device: Device = "auto",
) -> None:
    """Say which image is in which cluster: the training images, or new ones.

    Images that cannot be read are left out, named on the screen and in the JSON, or else in OUT.skipped.csv.

    Parameters
    ----------
    run
        Folder of the run.
    data
        New images; the training images where not given.
    out
        Table to write, .csv, .tsv, .json or .parquet: path, cluster, distance, unlike (1 = unlike anything seen in training),
        novelty (how unlike: 0 is typical, 1 the 95th percentile of training images).
    to_folders
        Folder in which to make one subfolder a cluster, with links to the images; made anew if an earlier call made it.
    num_clusters
        Merge the most alike clusters until so many are left.
    false_alarm_rate
        Share of images of the kind seen in training that are called unlike it.
    device
        Where to compute.
    """
    with opened_run(run, device) as opened:
        rows = opened.cluster(
            data,
            out,
            to_folders,
            num_clusters=num_clusters,
            batch=batch,
            false_alarm_rate=false_alarm_rate,
            strict=strict,
        )
        evidence = opened.stability_found
    unlike = sum(row.unlike for row in rows)
    kind = "unlike the rest" if data is None else "unlike anything seen in training"
    sizes = Counter(row.cluster for row in rows)
    output.print(
        f"{counted(len(rows), 'image')} in {counted(len(sizes), 'cluster')}, {unlike:,} {kind}"
        f"{f'; written to {out}' if out else ''}{f'; one folder a cluster in {to_folders}' if to_folders else ''}",
        markup=False,
    )
    _say_sizes(sizes, evidence if data is None else {})
    if not out and not to_folders and is_first:
        _list_rows(
            rows, "clusters.csv in the run's folder has them all" if data is None and num_clusters is None else ""
        )


def _say_sizes(sizes: Counter[int], evidence: Mapping[str, Any]) -> None:
    """The largest clusters, a warning where one holds most images, and the number of clusters the images support."""
    total = sizes.total()
    if not total:
        return
    largest = sizes.most_common(8)
    shares = ", ".join(f"{number}: {count:,}" for number, count in largest) + (", …" if len(sizes) > 8 else "")
    output.print(f"Sizes ({shares}); the largest holds {100 * largest[0][1] / total:.0f} %.", markup=False)
    if len(sizes) > 1 and largest[0][1] > LUMP * total:
        output.print(
            "One cluster holds most of the images: the others are what differs from it, not kinds.", markup=False
        )
    if suggested := evidence.get("suggested"):
        found = next(one for one in evidence["by_count"] if one["num_clusters"] == suggested)
        output.print(
            f"The images support {suggested} clusters best: clustering parts of them again agrees with an adjusted Rand index of "
            f"{found['adjusted_rand']:.2f}, the largest holds {100 * found['largest_share']:.0f} % "
            f"(--num-clusters {suggested}).",
            markup=False,
        )


def _list_rows(rows: Sequence[Clustered], elsewhere: str) -> None:
    shown = [(printable(row.path), row) for row in rows[:CLUSTERED_SHOWN]]
    width = max(len("path"), *(len(name) for name, _ in shown))
    sys.stdout.write(f"{'path':{width}}  cluster  distance  novelty  unlike\n")
    for name, row in shown:
        line = f"{name:{width}}  {row.cluster:7d}  {row.distance:8.4f}  {row.novelty:7.2f}  {'unlike' if row.unlike else ''}"
        sys.stdout.write(f"{line.rstrip()}\n")
    if len(rows) > CLUSTERED_SHOWN:
        where = elsewhere or "write them all with --out FILE.csv"
        output.print(f"… and {len(rows) - CLUSTERED_SHOWN:,} more: {where}", markup=False)


@app.command(usage="Usage: unlabeled search RUN QUERY... [OPTIONS]")
def search(
    run: Path,
    *queries: Path,
    k: Annotated[int, Parameter(name=("--neighbors", "-k"))] = 10,
    json: Path | None = None,
    strict: Strict = False,
    device: Device = "auto",
) -> None:
    """Find the training images most similar to query images.

    Queries that cannot be read are named on the screen and in FILE.skipped.csv.

    Parameters
    ----------
    run
        Folder of the run.
    queries
        Image files, or folders of them.
    k
        How many to find for each.
    json
        File to write the result to.
    device
        Where to compute.
    """
    from unlabeled.errors import ConfigError

    if not queries:
        raise ConfigError("search needs at least one query image: `unlabeled search RUN photo.jpg`.")
    with opened_run(run, device) as opened:
        found = opened.search([str(query) for query in queries], k, json=json, strict=strict)
    output.print("similarity  training image")
    for query, hits in found.items():
        output.print(printable(query), style="bold", markup=False)
        digits = _digits([hit.similarity for hit in hits])
        for hit in hits:
            output.print(f"{hit.similarity:10.{digits}f}  {printable(opened.file_of(hit.path))}", markup=False)


def _digits(similarities: Sequence[float]) -> int:
    """Decimals that tell the similarities of one query apart: three, up to six where they are nearly equal."""
    distinct = len(set(similarities))
    return next((d for d in range(3, 6) if len({round(value, d) for value in similarities}) == distinct), 6)


@app.command(usage="Usage: unlabeled report RUN [OPTIONS]")
def report(
    run: Path,
    *,
    out: Path | None = None,
    labels: str | None = None,
    metadata: Path | None = None,
    show_channels: str | None = None,
) -> None:
    """Write the report: one HTML file that opens from disk with no network.

    Parameters
    ----------
    run
        Folder of the run.
    out
        File to write [default: RUN/report.html].
    labels
        Labels of the training images to colour the map by: the word `folder`, or a CSV file with path and label columns. The
        run remembers them, for the explorer too.
    metadata
        Table with a path column and others (plate, date, camera): the report says what of the clusters each explains and
        colours the map by it. The run remembers it.
    show_channels
        One channel, or three as red, green and blue, counted from 1, that pictures show, for example 4,3,2. The run remembers
        them.
    """
    with opened_run(run, "cpu") as opened:
        output.print(
            f"Report: {opened.report(out, labels=labels, metadata=metadata, show_channels=show_channels)}", markup=False
        )


@app.command(usage="Usage: unlabeled explore RUN [OPTIONS]")
def explore(
    run: Path,
    *,
    port: int = 8765,
    browser: Annotated[bool, Parameter(negative="--no-browser")] = True,
    token: Annotated[bool, Parameter(negative="--no-token")] = True,
    device: Device = "auto",
) -> None:
    """Look at a run in the browser: clusters, images, neighbours. Ctrl-C ends it.

    The pages come from this machine and are for this machine only; nothing is written and nothing is sent anywhere.

    Parameters
    ----------
    run
        Folder of the run.
    port
        Where to listen on 127.0.0.1; 0 takes any that is free.
    browser
        Open the browser, or only say the address.
    token
        Let in only who knows the token in the printed address; with --no-token every user of this machine can look.
    device
        Where to compute.
    """
    from unlabeled import api, session

    if is_first:
        api.load(run, device=session.prepare_device(device)).explore(port, browser=browser, token=token)
        # It only ends when it is stopped, and a stop has the same status for every verb. At once: nothing is open that
        # was written to, and a thread that still loads the network or makes the map would abort the interpreter as it ends.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(130)
