"""The verb that draws: visualize."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Optional

from cyclopts import Group, Parameter
from pydantic import BaseModel, ConfigDict, Field

from unlabeled.cli.console import app, opened_run, output
from unlabeled.cli.options import given
from unlabeled.config import Device

Picture = Literal[
    "activations",
    "ascent",
    "clusters",
    "confusions",
    "curves",
    "edge-ratio",
    "filters",
    "gain",
    "gap",
    "neighbors",
    "scores",
    "softmax",
    "spectrum",
    "sweep",
]

NOT_OF_IMAGES = ("ascent", "curves", "filters", "gain", "gap", "scores", "sweep")
"""Pictures that are drawn from the run alone."""


class PictureOptions(BaseModel):
    """Options of the pictures, all optional: each picture takes those its function names, see `unlabeled.visualize`."""

    model_config = ConfigDict(extra="forbid")

    stage: Optional[str] = Field(None, description="ascent, activations: which stage [the last]")  # noqa: UP045
    units: Optional[str] = Field(  # noqa: UP045
        None, description="ascent, activations: which filters, for example 0-24,40 or all [0-24]"
    )
    steps: Optional[int] = Field(None, description="ascent: steps [1000 at 224 pixels, in proportion, at least 500]")  # noqa: UP045
    lr: Optional[float] = Field(  # noqa: UP045
        None, description="ascent: length of a step in grey levels [30; the released code: 3]"
    )
    neighbors: Optional[int] = Field(  # noqa: UP045
        None, description="neighbors, edge-ratio, confusions: neighbours of an image [5; 10; 20]"
    )
    queries: Optional[int] = Field(None, description="neighbors, softmax: images asked about [8]")  # noqa: UP045
    images: Optional[str] = Field(  # noqa: UP045
        None,
        description="neighbors, softmax: which ones, names as in clusters.csv with commas between [drawn by the seed]",
    )
    metric: Optional[Literal["cosine", "l2"]] = Field(  # noqa: UP045
        None, description="neighbors: cosine of the features, or their Euclidean distance [cosine]"
    )
    labels: Optional[str] = Field(  # noqa: UP045
        None,
        description="neighbors, edge-ratio, confusions, softmax: `folder` or a CSV with path and label columns "
        "[none; folder; folder; those of the training]",
    )
    clusters: Optional[int] = Field(None, description="clusters: how many, largest first [20]")  # noqa: UP045
    per_cluster: Optional[int] = Field(None, description="clusters: images on the sheet of one [48]")  # noqa: UP045
    compare: Optional[list[Path]] = Field(  # noqa: UP045
        None,
        description="curves, filters, gain, gap, scores, sweep: another run to draw beside this one, may be given several times",
    )
    against: Optional[str] = Field(  # noqa: UP045
        None,
        description="sweep: a setting in which the runs differ, `images` they learned from, `epoch` they reached [num_clusters]",
    )
    score: Optional[str] = Field(  # noqa: UP045
        None, description="sweep: a protocol of scores.json, or a number of the journal, its last value [knn]"
    )
    seed: Optional[int] = Field(  # noqa: UP045
        None, description="ascent, neighbors, softmax: of the noise to begin with, of the draw of images [the run's]"
    )


PictureFlags = Annotated[PictureOptions | None, Parameter(name="*", group=Group("Options of single pictures"))]


@app.command(usage="Usage: unlabeled visualize WHAT RUN [DATA] [OPTIONS]")
def visualize(
    what: Picture,
    run: Path,
    data: Path | None = None,
    *,
    out: Path | None = None,
    device: Device = "auto",
    options: PictureFlags = None,
) -> None:
    """Draw a picture of a run, PNG or SVG, with the numbers behind it as CSV or JSON.

    `unlabeled visualize ascent --help` shows what `ascent` takes, and so for the others.

    Parameters
    ----------
    what
        filters: the first layer, trained and untrained; behind Sobel, composed with it; with --compare those of other runs.
        ascent: images that the filters of a stage answer to, by gradient ascent.
        activations: the nine images that excite each filter of a stage most.
        neighbors: images with their nearest neighbours, trained and untrained; with --labels the best and the worst.
        clusters: contact sheets of the largest clusters.
        spectrum: how much of the features' variance lies in few directions, trained and untrained.
        curves: everything the training recorded, by epoch; with --compare that of several runs.
        sweep: a score of several runs against the setting in which they differ.
        scores: what evaluate found: accuracy by number of labels and by stage.
        gain: what fine-tuning the whole network adds to new last layers, from the VOC scores of both.
        gap: how far each stage is behind that of another run, given with --compare.
        edge-ratio: box plot over classes of the neighbours inside the class; needs labels.
        confusions: the classes that look most alike; needs labels.
        softmax: the classes that a supervised run takes single images for.
    run
        Folder of the run.
    data
        Images; the training images where not given.
    out
        Folder to write to [default: RUN/pictures].
    device
        Where to compute.
    """
    with opened_run(run, device) as opened:
        for path in opened.visualize(what, data, out=out, **given(options)):
            output.print(str(path), markup=False)
