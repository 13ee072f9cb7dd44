"""The command line: the verbs of `unlabeled.api` and of a `Run`, with the same names and defaults.

Everything heavy is imported inside a verb, so that `--help` answers at once.
"""

from __future__ import annotations

import json as json_format
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter
from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from unlabeled import __version__
from unlabeled.errors import Interrupted, UnlabeledError
from unlabeled.flags import DeviceName, IfExists, RecipeName, SettingsFlags, given
from unlabeled.mistakes import sentence

if TYPE_CHECKING:
    from unlabeled.run import Run

Protocol = Literal["edge-ratio", "knn", "nmi"]

# Under torchrun every process runs these verbs, and the first one speaks.
is_first = os.environ.get("RANK", "0") == "0"
output = Console(highlight=False, soft_wrap=True, quiet=not is_first)
errors = Console(stderr=True, highlight=False)

CLUSTERED_SHOWN = 20
"""Images `cluster` lists on the screen: the rest is a table's business."""

app = App(
    name="unlabeled",
    version=__version__,
    help="Features, clusters and a searchable index from images that nobody has labelled.\n\n"
    "Begin with `unlabeled demo`, or with your own folder: `unlabeled train FOLDER --out RUN`.",
    usage="Usage: unlabeled VERB ...      unlabeled VERB --help",
    default_parameter=Parameter(negative_iterable=()),
)
app["--help"].help = "Show this help, or with a verb the help of the verb."
app["--version"].help = "Show the version."


@app.command(usage="Usage: unlabeled demo [OPTIONS]")
def demo(
    *,
    out: Path = Path("runs/demo"),
    device: DeviceName = "auto",
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
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("kNN accuracy: which photograph is a crop from?")
    table.add_column("%", justify="right")
    for key, name in (("raw_pixels", "raw pixels"), ("untrained", "untrained network"), ("trained", "trained network")):
        table.add_row(name, f"{100 * result[key]:.1f}")
    output.print(table)
    output.print(f"Health: {result['status']}{': ' + result['verdict'] if result['verdict'] else ''}", markup=False)
    output.print(f"Report: {out / 'report.html'} (open it in a browser)", markup=False)


@app.command(usage="Usage: unlabeled check DATA [--json FILE]")
def check(data: Path, *, json: Path | None = None) -> None:
    """Read every image once and say what is there, before anyone trains.

    Parameters
    ----------
    data
        Folder, list of paths, manifest, array or archive.
    json
        File to write the findings to.
    """
    from unlabeled import api
    from unlabeled.runfolder import require_writable

    if json:
        require_writable(json)
    found = api.check(data)
    output.print(found.table())
    for finding in found.sentences():
        output.print(finding, markup=False)
    if json:
        _write_json(json, found.to_json())


@app.command(usage="Usage: unlabeled train DATA --out RUN [OPTIONS]")
def train(
    data: Path,
    *,
    out: Path,
    recipe: RecipeName = "default",
    labels: str | None = None,
    device: DeviceName = "auto",
    cache: Path | None = None,
    if_exists: IfExists = "refuse",
    tensorboard: Annotated[bool, Parameter(negative=())] = False,
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
        **given(settings),
    )
    _say_done(run)


@app.command(usage="Usage: unlabeled resume RUN [OPTIONS]")
def resume(run: Path, *, device: DeviceName = "auto") -> None:
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


@app.command(usage="Usage: unlabeled embed RUN DATA --out FILE [OPTIONS]")
def embed(run: Path, data: Path, *, out: Path, device: DeviceName = "auto") -> None:
    """Compute the features of images and write them to a file.

    Parameters
    ----------
    run
        Folder of the run.
    data
        Images, in any form `train` takes.
    out
        File to write: .parquet (path, feature), .npy (names beside it in .txt) or .npz.
    device
        Where to compute.
    """
    with _opened(run, device) as opened:
        result = opened.embed(data, out)
    skipped = f", {len(result.skipped)} files skipped" if result.skipped else ""
    output.print(
        f"{len(result.names):,} features of {result.features.shape[1]} numbers in {out}{skipped}", markup=False
    )


@app.command(usage="Usage: unlabeled cluster RUN [DATA] [OPTIONS]")
def cluster(
    run: Path,
    data: Path | None = None,
    *,
    out: Path | None = None,
    to_folders: Path | None = None,
    device: DeviceName = "auto",
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
    device
        Where to compute.
    """
    with _opened(run, device) as opened:
        rows = opened.cluster(data, out, to_folders)
    unlike = sum(row.unlike for row in rows)
    kind = "marked as the most isolated" if data is None else "unlike anything seen in training"
    output.print(
        f"{len(rows):,} images in {len({row.cluster for row in rows}):,} clusters, {unlike:,} {kind}"
        f"{f'; written to {out}' if out else ''}",
        markup=False,
    )
    if not out and not to_folders and is_first:
        for row in rows[:CLUSTERED_SHOWN]:
            sys.stdout.write(
                f"{_printable(row.path)}\t{row.cluster}\t{row.distance:.4f}\t{'unlike' if row.unlike else ''}\n"
            )
        if len(rows) > CLUSTERED_SHOWN:
            elsewhere = (
                "clusters.csv in the run's folder has them all"
                if data is None
                else "write them all with --out FILE.csv"
            )
            output.print(f"… and {len(rows) - CLUSTERED_SHOWN:,} more: {elsewhere}", markup=False)


@app.command(usage="Usage: unlabeled search RUN QUERY... [OPTIONS]")
def search(
    run: Path,
    *queries: Path,
    k: Annotated[int, Parameter(name=("--neighbors", "-k"))] = 10,
    json: Path | None = None,
    device: DeviceName = "auto",
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
    from unlabeled.runfolder import require_writable

    if not queries:
        raise ConfigError("search needs at least one query image: unlabeled search RUN photo.jpg.")
    if json:
        require_writable(json)
    with _opened(run, device) as opened:
        found = opened.search([str(query) for query in queries], k)
    for query, hits in found.items():
        output.print(_printable(query), style="bold", markup=False)
        for hit in hits:
            output.print(f"  {hit.similarity:.3f}  {_printable(hit.path)}", markup=False)
    if json:
        _write_json(json, {query: [vars(hit) for hit in hits] for query, hits in found.items()})


@app.command(usage="Usage: unlabeled evaluate PROTOCOL RUN [DATA] [OPTIONS]")
def evaluate(
    protocol: Protocol,
    run: Path,
    data: Path | None = None,
    *,
    labels: str = "folder",
    test: Path | None = None,
    neighbors: int | None = None,
    json: Path | None = None,
    device: DeviceName = "auto",
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
    neighbors
        Voters of the kNN [default: 20; the papers use 200 on large sets], or edges of each image of edge-ratio [default: 10].
    json
        File to write the numbers to.
    device
        Where to compute.
    """
    with _opened(run, device) as opened:
        scores = opened.evaluate(protocol, data, labels=labels, test=test, json=json, neighbors=neighbors)
    for name, value in scores.items():
        if isinstance(value, dict):
            continue  # a table by class: for --json
        text = f"{100 * value:.1f} %" if isinstance(value, float) and name != "nmi" else f"{value:.4g}"
        output.print(f"{name:18s} {text}", markup=False)


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
    with _opened(run, "cpu") as opened:
        output.print(f"Report: {opened.report(out)}", markup=False)


def main(tokens: list[str] | None = None) -> None:
    """Entry point: run a verb, that of the command line or of `tokens`.

    Every mistake ends in one readable box and exit status 2, a stop in 130.
    """
    try:
        app(sys.argv[1:] if tokens is None else tokens, exit_on_error=False, print_error=False, help_on_error=False)
    except CycloptsError as error:
        _fail(sentence(error))
    except UnlabeledError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        _fail("Stopped.", 130)
    except BrokenPipeError:
        # The reader of our output went away, as `| head` does.
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        # What the system refuses is no mistake of this program: a disk that fills up, a folder that goes away.
        _fail(f"{error.filename or 'the system'}: {error.strerror or error}.")
    except Interrupted as stopped:
        errors.print(str(stopped), markup=False, soft_wrap=True)
        sys.exit(130)


@contextmanager
def _opened(path: Path, device: DeviceName) -> Generator[Run]:
    """The run, and with `torchrun` the group of processes that share the work."""
    from unlabeled import api, session
    from unlabeled.distributed import process_group

    kind = session.prepare_device(device)
    with process_group(kind):
        yield api.load(path, device=kind)


def _fail(message: str, status: int = 2) -> None:
    errors.print(Panel(Text(message), title="Error", title_align="left", border_style="red", box=box.ROUNDED))
    sys.exit(status)


def _say_done(run: Run) -> None:
    last = run.history[-1] if run.history else {"status": "untrained", "verdict": "no epoch was asked for"}
    output.print(f"Health: {last['status']}{': ' + last['verdict'] if last['verdict'] else ''}", markup=False)
    output.print(f"Report: {run.folder.report}   Clusters: {run.folder.clusters}", markup=False)


def _write_json(path: Path, value: Any) -> None:
    from unlabeled.runfolder import RunFolder

    RunFolder(path.parent).write_text(path, json_format.dumps(value, indent=2) + "\n")


def _printable(name: str) -> str:
    # A file name may hold line breaks, terminal codes or bytes that are no text.
    return name.encode(errors="surrogateescape").decode(errors="replace").translate(dict.fromkeys(range(32), "�"))


if __name__ == "__main__":
    main()
