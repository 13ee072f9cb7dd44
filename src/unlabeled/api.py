"""The verbs in Python, with the names and defaults of the command line.

>>> import unlabeled
>>> run = unlabeled.train("photos/", out="run")
>>> run.embed("photos/").features.shape
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unlabeled import progress
from unlabeled.data.reading import Alpha, Frames, ReadOptions
from unlabeled.runs.folder import IfExists, RunFolder, find, reserve
from unlabeled.writing import require_writable, write_json

if TYPE_CHECKING:
    from unlabeled.data.cache import Cache
    from unlabeled.data.doctor import Doctor
    from unlabeled.data.in_memory import Images
    from unlabeled.run import Run


def train(
    data: Images,
    out: str | Path,
    *,
    recipe: str = "default",
    labels: str | None = None,
    device: str = "auto",
    cache: str | Path | None = None,
    if_exists: IfExists = "refuse",
    tensorboard: bool = False,
    frames: Frames = "first",
    alpha: Alpha = "white",
    batch: str | None = None,
    metadata: str | Path | None = None,
    show_channels: str | Sequence[int] | None = None,
    **settings: Any,
) -> Run:
    """Learn features from a folder of images, without labels.

    Args:
        data: a folder (flat or nested), a list of paths, a CSV or Parquet manifest, an array, or a zip or tar archive; or
            arrays, tensors, Pillow images or a list of these and of paths. A run of images in memory cannot be resumed.
        out: folder of the run, made here.
        recipe: which experiment; see `unlabeled.recipes`.
        labels: where labels are, if there are any: `folder` or a CSV. Used for scores only, never for training,
            except by the control `method = supervised`.
        device: `auto`, `cpu` or `cuda`.
        cache: folder for decoded images; the user's cache folder where not given.
        if_exists: what to do with a run that is already there: `refuse`, `resume` or `replace`.
        tensorboard: also write every number of the journal as TensorBoard events, under RUN/tensorboard.
        frames: of stacks and animations, the `first` or `middle` frame, the `max` or `mean` over all, every frame as one of
            the `channels`, or `all`: every frame is an image.
        alpha: `white` puts transparent pixels on white, `band` keeps alpha as a channel of its own.
        batch: `folder`, a column of the table or FILE.csv:column with the batch of each image (plate, date, camera): the
            features of the finished run are standardized batch by batch before they are clustered; see docs/batches.md.
        metadata: CSV, TSV or Parquet table with a path column and others (plate, date, camera): the report says what of the
            clusters each explains and colours the map by it. Never used for training.
        show_channels: one channel, or three as red, green and blue, counted from 1 (`"4,3,2"`), that pictures of the report
            and the explorer show of images with other channels; the first three where not given.
        settings: any field of `Config`.

    Raises:
        DataError, ConfigError, RunError: one sentence each.
        Interrupted: Ctrl-C or SIGTERM; the run is saved.
    """
    from unlabeled import session
    from unlabeled.distributed import barrier, process_group
    from unlabeled.run import Run

    device = session.prepare_device(device)
    out, options = Path(out).expanduser(), ReadOptions(frames, alpha)
    with process_group(device):
        if if_exists == "resume" and RunFolder(out).exists:
            session.same_request(RunFolder(out), data, recipe, labels, settings)
            return resume(out, device=device)
        with _place(out, if_exists) as run:
            begun = session.begin(
                run, data, recipe, labels, device, cache, settings, tensorboard, options, batch, metadata, show_channels
            )
            session.execute(run, *begun, device=device)
        barrier()
        return Run(run.path, device)


def resume(run: str | Path, *, device: str = "auto") -> Run:
    """Continue a run exactly where its newest checkpoint left it, and finish it.

    Raises:
        RunError: no run there, or all its checkpoints are damaged.
        DataError: its images are no longer what they were.
        Interrupted: Ctrl-C or SIGTERM; the run is saved.
    """
    from unlabeled import session
    from unlabeled.distributed import barrier, is_main, process_group
    from unlabeled.run import Run

    device = session.prepare_device(device)
    with process_group(device):
        folder = find(run)
        if is_main():
            folder.hold()
            folder.sweep()
        if not folder.checkpoints.is_dir():
            progress.say("There is no checkpoint yet: the training begins anew.")
        try:
            session.execute(folder, *session.reopen(folder), device=device)
        finally:
            folder.release()
        barrier()
        return Run(folder.path, device)


def load(run: str | Path, *, device: str = "auto") -> Run:
    """Open a run for use.

    Raises:
        RunError: there is none.
    """
    from unlabeled.run import Run

    return Run(run, device)


def import_weights(
    file: str | Path,
    out: str | Path,
    *,
    data: Images | None = None,
    backbone: str | None = None,
    device: str = "auto",
    cache: str | Path | None = None,
    if_exists: Literal["refuse", "replace"] = "refuse",
    **settings: Any,
) -> Run:
    """Make a run of published weights; nothing in the file is executed. The verb is called `import`.

    Args:
        file: a `.pth`, `.pt` or `.safetensors` file; docs/weights.md lists the kinds that are known.
        out: folder of the run, made here.
        data: images to embed and cluster at once, which `search`, `cluster` and `report` need.
        backbone: the network the file must hold; it is told from the file where not given.
        device: `auto`, `cpu` or `cuda`.
        cache: folder for decoded images; the user's cache folder where not given.
        if_exists: what to do with a run that is already there: `refuse` or `replace`.
        settings: fields of `Config` that win over those of the kind: `image_size`, `resize`, `mean`, `std`, `num_clusters`.

    Raises:
        DataError, ConfigError, RunError: one sentence each.
        Interrupted: Ctrl-C or SIGTERM while images were embedded.
    """
    from unlabeled import session
    from unlabeled.distributed import barrier, process_group
    from unlabeled.run import Run

    kind = session.prepare_device(device)
    with process_group(kind):
        with _place(Path(out).expanduser(), if_exists) as run:
            session.take_in(run, Path(file).expanduser(), backbone, data, kind, cache, settings)
        barrier()
        return Run(run.path, kind)


def check(data: Images, *, json: str | Path | None = None, frames: Frames = "first", alpha: Alpha = "white") -> Doctor:
    """Read every image once and say what is there: sizes, depths, channels, blank, duplicate and broken files.

    `unlabeled.data.doctor` puts it in plain words (`sentences`), a table and JSON.

    Args:
        data: images, in any form `train` takes.
        json: file to write the findings to.
        frames, alpha: what is made of stacks and of alpha, as in `train`.

    Raises:
        DataError: nothing that could be an image. Where files could be and none can be read, `Doctor.readable` is 0.
        RunError: `json` cannot be written.
    """
    from unlabeled.data import doctor
    from unlabeled.data.sources import open_source

    json = Path(json).expanduser() if json else None
    if json:
        require_writable(json)
    source = open_source(data, ReadOptions(frames, alpha))
    with progress.bar("checking", len(source)) as update:
        found = doctor.check(source, progress=update)
    if json:
        write_json(json, doctor.to_json(found))
    return found


def cache(
    cache: str | Path | None = None,
    *,
    clear: bool = False,
    older_than: float | None = None,
    down_to: str | None = None,
    json: str | Path | None = None,
) -> Cache:
    """What the folder of decoded images holds, after removing some of it where asked. The verb is `unlabeled cache`.

    `UNLABELED_CACHE_LIMIT` (such as 50GB) bounds its size: the sizes of images that were used longest ago go first.

    Args:
        cache: the folder; the user's cache folder where not given.
        clear: remove everything.
        older_than: remove what was not used for so many days.
        down_to: remove what was used longest ago until this size is left, such as 10GB.
        json: file to write the result to.

    Raises:
        ConfigError: a size that is none, or no cache folder because there is no home folder.
        DataError: the folder cannot be listed or a file cannot be removed.
        RunError: `json` cannot be written.
    """
    from unlabeled.data import cache as folders
    from unlabeled.errors import ConfigError
    from unlabeled.runs.images import default_cache

    place = Path(cache).expanduser() if cache else default_cache()
    if place is None:
        raise ConfigError("there is no cache folder, because there is no home folder: name one with --cache.")
    if clear or older_than is not None or down_to is not None:
        limit = None if down_to is None else folders.parse_size(down_to, "down_to")
        removed = folders.clear(place, older_than=older_than, down_to=limit)
        progress.say(f"Removed {progress.size(sum(one.bytes for one in removed))} from {place}.")
    found = folders.look(place)
    if json:
        write_json(require_writable(Path(json).expanduser()), found.to_json())
    return found


def demo(
    out: str | Path = "runs/demo", *, device: str = "auto", if_exists: IfExists = "refuse", **settings: Any
) -> dict[str, Any]:
    """Train on crops of the photographs that ship with scikit-image and scikit-learn, and score the result.

    Each photograph is one class, used for scoring only; test crops come from another part of it than training crops.
    Writes RUN/demo.json with `raw_pixels`, `untrained` and `trained`: kNN accuracies as fractions.

    Raises:
        MissingExtraError: scikit-image is not installed.
        RunError: `out` holds something and `if_exists` is `refuse`.
    """
    from unlabeled.demonstration import demonstrate

    return demonstrate(Path(out).expanduser(), device, if_exists, settings)


@contextmanager
def _place(out: str | Path, if_exists: IfExists) -> Generator[RunFolder]:
    # Where a new run goes, held from when it is made. What ends before anything was written there leaves no folder.
    from unlabeled.distributed import barrier, is_main

    run = reserve(Path(out), if_exists) if is_main() else RunFolder(Path(out))
    barrier()
    try:
        yield run
    finally:
        run.release()
        if is_main():
            run.abandon()
