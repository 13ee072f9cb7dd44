"""The verbs that train: demo, check, train, resume."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from unlabeled.cli.console import app, output, print_baselines, printable
from unlabeled.cli.options import RecipeName, SettingsFlags, given
from unlabeled.config import Device
from unlabeled.data.reading import Alpha, Frames
from unlabeled.runs.folder import IfExists

if TYPE_CHECKING:
    from unlabeled.run import Run

BROKEN_SHOWN = 30
"""Broken files `check` names on the screen."""


@app.command(usage="Usage: unlabeled demo [OPTIONS]")
def demo(
    *,
    out: Path = Path("runs/demo"),
    device: Device = "auto",
    if_exists: IfExists = "refuse",
    settings: SettingsFlags = None,
) -> None:
    """Train on built-in photographs and say whether it learned anything. No data, no network; a few minutes.

    Parameters
    ----------
    out
        Folder of the run.
    device
        Where to train.
    if_exists
        What to do with a run that is already there.
    """
    from unlabeled import api

    result = api.demo(out, device=device, if_exists=if_exists, **given(settings))
    print_baselines("kNN accuracy: which photograph is a crop from?", result)
    output.print(f"Health: {result['status']}{': ' + result['verdict'] if result['verdict'] else ''}", markup=False)
    output.print(f"Report: {out / 'report.html'} (open it in a browser)", markup=False)


@app.command(usage="Usage: unlabeled check DATA [--json FILE]")
def check(data: Path, *, json: Path | None = None, frames: Frames = "first", alpha: Alpha = "white") -> None:
    """Read every image once and say what is there, before anyone trains.

    The exit status is 0 if there is anything to train on: files that cannot be read are listed and do no harm.

    Parameters
    ----------
    data
        Folder, list of paths, manifest, array or archive.
    json
        File to write the findings to.
    frames
        What is made of stacks and animations, as in `train`.
    alpha
        Whether transparent pixels are put on white or alpha is a channel, as in `train`.
    """
    from unlabeled import api
    from unlabeled.data import doctor
    from unlabeled.errors import DataError
    from unlabeled.progress import counted

    found = api.check(data, json=json, frames=frames, alpha=alpha)
    output.print(doctor.table(found))
    for finding in doctor.sentences(found):
        output.print(finding, markup=False)
    for name, reason in found.broken[:BROKEN_SHOWN]:
        output.print(f"  {printable(name)}: {reason}", markup=False)
    if len(found.broken) > BROKEN_SHOWN:
        output.print(f"  and {len(found.broken) - BROKEN_SHOWN:,} more: --json FILE lists all", markup=False)
    if not found.readable:
        raise DataError(
            f"{data} has {counted(found.total, 'image')} and none can be read, so there is nothing to train on; the reasons stand "
            "above: convert or replace the files."
        )


@app.command(usage="Usage: unlabeled train DATA --out RUN [OPTIONS]")
def train(
    data: Path,
    *,
    out: Path,
    recipe: RecipeName = "default",
    labels: str | None = None,
    device: Device = "auto",
    cache: Path | None = None,
    if_exists: IfExists = "refuse",
    tensorboard: Annotated[bool, Parameter(negative=())] = False,
    frames: Frames = "first",
    alpha: Alpha = "white",
    batch: str | None = None,
    metadata: Path | None = None,
    show_channels: str | None = None,
    settings: SettingsFlags = None,
) -> None:
    """Learn features from a folder of images. No labels, no configuration file, no network.

    All that stands under "Settings" is optional: what is not given is the recipe's.

    Parameters
    ----------
    data
        Folder (flat or nested), list of paths, CSV or Parquet manifest, .npy/.npz array, zip or tar archive.
    out
        Folder of the run; everything but the cache of decoded images is in it.
    labels
        The word `folder` (the class is the name of the image's folder) or a CSV file with path and label columns, if
        there are labels: used for scores, not for training
        (except `--method supervised`).
    device
        Where to train.
    cache
        Folder for decoded images, shared by all runs [default: the user's cache folder].
    if_exists
        What to do with a run that is already there.
    tensorboard
        Also write every number of the journal as TensorBoard events, under RUN/tensorboard.
    frames
        Of stacks and animations: the first or middle frame, the max or mean over all frames, every frame as one of the
        channels, or all: every frame is an image of its own.
    alpha
        Put transparent pixels on white, or keep alpha as a channel of its own (band), as infrared or depth.
    batch
        The word `folder`, a column, or FILE.csv:column with the batch of each image (plate, date, camera): the features of
        the finished run are standardized batch by batch before they are clustered.
    metadata
        Table with a path column and others (plate, date, camera): the report says what of the clusters each explains and
        colours the map by it.
    show_channels
        One channel, or three as red, green and blue, counted from 1, that pictures of the report and the explorer show, for
        example 4,3,2 [default: the first three].
    """
    from unlabeled import api

    run = api.train(
        data,
        out,
        recipe=recipe,
        labels=labels,
        device=device,
        cache=cache,
        if_exists=if_exists,
        tensorboard=tensorboard,
        frames=frames,
        alpha=alpha,
        batch=batch,
        metadata=metadata,
        show_channels=show_channels,
        **given(settings),
    )
    _say_done(run)


@app.command(usage="Usage: unlabeled cache [OPTIONS]")
def cache(
    *,
    cache: Path | None = None,
    clear: Annotated[bool, Parameter(negative=())] = False,
    older_than: float | None = None,
    down_to: str | None = None,
    json: Path | None = None,
) -> None:
    """Show the folder of decoded images, and remove some of it or all. Runs are not harmed: images are decoded again.

    The environment variable UNLABELED_CACHE_LIMIT (such as 50GB) bounds its size.

    Parameters
    ----------
    cache
        The folder [default: the user's cache folder].
    clear
        Remove everything.
    older_than
        Remove what was not used for so many days.
    down_to
        Remove what was used longest ago until this size is left, such as 10GB.
    json
        File to write the result to.
    """
    from datetime import datetime

    from unlabeled import api
    from unlabeled.progress import counted, size

    found = api.cache(cache, clear=clear, older_than=older_than, down_to=down_to, json=json)
    output.print(f"{found.folder}: {size(found.bytes)}", markup=False)
    for one in found.sizes:
        used = datetime.fromtimestamp(one.last_used).strftime("%Y-%m-%d")
        output.print(
            f"  {one.short_side:5d} px  {size(one.bytes):>10}  {counted(one.images, 'image')}, last used {used}",
            markup=False,
        )


@app.command(usage="Usage: unlabeled resume RUN [OPTIONS]")
def resume(run: Path, *, device: Device = "auto") -> None:
    """Continue a run exactly where it was stopped or killed, and finish it.

    Parameters
    ----------
    run
        Folder of the run.
    device
        Where to train.
    """
    from unlabeled import api

    _say_done(api.resume(run, device=device))


def _say_done(run: Run) -> None:
    last = run.history[-1] if run.history else {"status": "untrained", "verdict": "no epoch was asked for"}
    output.print(f"Health: {last['status']}{': ' + last['verdict'] if last['verdict'] else ''}", markup=False)
    output.print(f"Report: {run.folder.report}   Clusters: {run.folder.clusters}", markup=False)
