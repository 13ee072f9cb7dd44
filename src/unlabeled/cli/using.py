"""The verbs that use a trained run: embed, cluster, search, report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from unlabeled.cli.console import app, is_first, opened_run, output, printable
from unlabeled.config import Device, Precision
from unlabeled.progress import counted

CLUSTERED_SHOWN = 20
"""Images `cluster` lists on the screen: the rest is a table's business."""


@app.command(usage="Usage: unlabeled embed RUN DATA --out FILE [OPTIONS]")
def embed(run: Path, data: Path, *, out: Path, precision: Precision | None = None, device: Device = "auto") -> None:
    """Compute the features of images and write them to a file.

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
        result = opened.embed(data, out, precision=precision)
    skipped = f", {counted(len(result.skipped), 'file')} skipped" if result.skipped else ""
    output.print(
        f"{counted(len(result.names), 'feature')} of {counted(result.features.shape[1], 'number')} in {out}{skipped}",
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
    device: Device = "auto",
) -> None:
    """Say which image is in which cluster: the training images, or new ones.

    Parameters
    ----------
    run
        Folder of the run.
    data
        New images; the training images where not given.
    out
        CSV to write: path, cluster, distance, unlike (1 = unlike anything seen in training).
    to_folders
        Folder in which to make one subfolder a cluster, with links to the images.
    num_clusters
        Merge the most alike clusters until so many are left.
    device
        Where to compute.
    """
    with opened_run(run, device) as opened:
        rows = opened.cluster(data, out, to_folders, num_clusters=num_clusters)
    unlike = sum(row.unlike for row in rows)
    kind = "unlike the rest" if data is None else "unlike anything seen in training"
    output.print(
        f"{counted(len(rows), 'image')} in {counted(len({row.cluster for row in rows}), 'cluster')}, {unlike:,} {kind}"
        f"{f'; written to {out}' if out else ''}{f'; one folder a cluster in {to_folders}' if to_folders else ''}",
        markup=False,
    )
    if not out and not to_folders and is_first:
        shown = [(printable(row.path), row) for row in rows[:CLUSTERED_SHOWN]]
        width = max(len("path"), *(len(name) for name, _ in shown))
        sys.stdout.write(f"{'path':{width}}  cluster  distance  unlike\n")
        for name, row in shown:
            line = f"{name:{width}}  {row.cluster:7d}  {row.distance:8.4f}  {'unlike' if row.unlike else ''}"
            sys.stdout.write(f"{line.rstrip()}\n")
        if len(rows) > CLUSTERED_SHOWN:
            elsewhere = (
                "clusters.csv in the run's folder has them all"
                if data is None and num_clusters is None
                else "write them all with --out FILE.csv"
            )
            output.print(f"… and {len(rows) - CLUSTERED_SHOWN:,} more: {elsewhere}", markup=False)


@app.command(usage="Usage: unlabeled search RUN QUERY... [OPTIONS]")
def search(
    run: Path,
    *queries: Path,
    k: Annotated[int, Parameter(name=("--neighbors", "-k"))] = 10,
    json: Path | None = None,
    device: Device = "auto",
) -> None:
    """Find the training images most similar to query images.

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
        found = opened.search([str(query) for query in queries], k, json=json)
        folder = Path(opened.record.data)
    output.print("similarity  training image")
    for query, hits in found.items():
        output.print(printable(query), style="bold", markup=False)
        for hit in hits:
            # As it opens from here; in an array or an archive there is nothing to open.
            path = folder / hit.path if (folder / hit.path).is_file() else hit.path
            output.print(f"{hit.similarity:10.3f}  {printable(str(path))}", markup=False)


@app.command(usage="Usage: unlabeled report RUN [--out FILE]")
def report(run: Path, *, out: Path | None = None) -> None:
    """Write the report: one HTML file that opens from disk with no network.

    Parameters
    ----------
    run
        Folder of the run.
    out
        File to write [default: RUN/report.html].
    """
    with opened_run(run, "cpu") as opened:
        output.print(f"Report: {opened.report(out)}", markup=False)
