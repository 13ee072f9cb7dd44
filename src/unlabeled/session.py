"""From data and settings to a finished run: what `train`, `resume` and `demo` have in common.

Runs on every rank; only the first writes files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from unlabeled import progress
from unlabeled.config import Config, DataFacts
from unlabeled.data.display import display_of, parse_channels
from unlabeled.data.doctor import FEW, few
from unlabeled.data.in_memory import Images
from unlabeled.data.loading import Loader
from unlabeled.data.notes import Notes
from unlabeled.data.reading import ReadOptions
from unlabeled.data.sources import open_source
from unlabeled.data.store import ImageStore, open_store
from unlabeled.device import DeviceKind, resolve_device, resolve_precision, torch_device, use_big_pages_allocator
from unlabeled.distributed import alone, barrier, is_main, shard, world_size
from unlabeled.errors import DivergedError, Interrupted, MissingExtraError, RunError, typed
from unlabeled.evaluation.consistency import NEIGHBORS, Consistency, consistency
from unlabeled.evaluation.stability import stability, suggested_counts
from unlabeled.features import embed, embed_views
from unlabeled.methods import build_method, build_network
from unlabeled.models import Backbone
from unlabeled.models.data_init import start_from_data
from unlabeled.protocols.monitor import Monitor, training_labels
from unlabeled.recipes import configure, without_effect
from unlabeled.recipes.sizing import clusters_for
from unlabeled.report.collect import write as write_report
from unlabeled.runs import index
from unlabeled.runs.folder import RunFolder, environment
from unlabeled.runs.images import (
    DataRecord,
    default_cache,
    make_loader,
    place_of,
    probe,
    resolved,
    same_contents,
    same_images,
    same_on_every_rank,
    told_metadata,
)
from unlabeled.runs.journal import epochs
from unlabeled.runs.opened import OpenedRun
from unlabeled.runs.outputs import clustered, write_clusters
from unlabeled.training.loop import Evaluator, train
from unlabeled.training.plan import plan
from unlabeled.training.signals import stop_on_signals
from unlabeled.weights.importing import read_weights, record_without_images
from unlabeled.weights.importing import write as write_imported
from unlabeled.weights.starting import NONE, Start, read_start, require_number_of_channels
from unlabeled.writing import replacing, write_csv, write_json, write_text

STABILITY_IMAGES = 20_000
"""Images up to which every run ends with a look at how stable its clusters are; beyond, it would take minutes."""
CONSISTENCY_IMAGES = 1000
"""Images, evenly spaced, whose neighbors are compared under new views: a few seconds."""
STABILITY_ROUNDS = 5
"""Parts of the images that are clustered anew for it."""
MUCH_SMALLER = 4
"""Times that images are reduced from which what is lost is said."""
DATA_INIT_VIEWS = 256
"""Views that decide the scale of the first weights where `data_init` is on."""


def prepare_device(name: str) -> DeviceKind:
    """Resolve the device and make the process ready for it.

    Raises:
        ConfigError: a GPU was asked for and there is none.
    """
    device = resolve_device(name)
    if device == "cpu":
        use_big_pages_allocator()
    else:
        # TF32 products change a float32 loss in the fourth digit and run several times faster.
        torch.set_float32_matmul_precision("high")
    return device


def begin(
    run: RunFolder,
    data: Images,
    recipe: str,
    labels: str | None,
    device: DeviceKind,
    cache: str | Path | None,
    settings: dict[str, Any],
    tensorboard: bool = False,
    options: ReadOptions | None = None,
    batch: str | None = None,
    metadata: str | Path | None = None,
    show_channels: str | Sequence[int] | None = None,
) -> tuple[ImageStore, Config, torch.Tensor | None]:
    """Read the images and labels, resolve every setting, say the plan, and write the files a run begins with.

    Raises:
        DataError: no readable image.
        ConfigError: settings that do not fit, or a run that cannot fit in memory.
        MissingExtraError: TensorBoard was asked for and is not installed.
        RunError: the folder cannot be written. An earlier run in it goes only when nothing else can be wrong.
    """
    if tensorboard and find_spec("tensorboard") is None:
        raise MissingExtraError("Writing TensorBoard events", "tensorboard")
    source = open_source(data, options)
    same_on_every_rank(source.path, source.names)
    facts, start = probe(source, device), None
    if settings.get("init", NONE) != NONE:
        start = read_start(str(settings["init"]))
        settings = start.settings(facts, settings)
    config = configure(recipe, facts, settings)
    folder = Path(cache).expanduser() if cache else default_cache()
    with progress.bar("reading images", len(source)) as update:
        store = open_store(source, short_side=config.store_size, cache=folder, progress=update)
    same_on_every_rank(source.path, store.names, store.contents)
    if store.num_decoded_again:
        progress.say(
            f"Note: {store.location} has no room for {store.num_decoded_again:,} of {len(store):,} images; they are decoded "
            "anew in every epoch, which is slower: --cache names a folder with more room."
        )
    # Again, now that it is known how many can be read.
    config = configure(recipe, replace(facts, count=len(store)), settings | {"store_size": config.store_size})
    if config.mean is None:
        mean, std = store.channel_statistics()
        config = config.replace(mean=mean, std=std)
    store.display = display_of(store, parse_channels(show_channels))
    ids = training_labels(source, store, labels, say=True) if labels else None
    table = told_metadata(source, metadata) if metadata else None
    if batch:
        names = sorted(set(index.batch_of(source, store, batch)))
        progress.say(
            f"Batches: {progress.counted(len(names), 'batch')} ({', '.join(names[:8])}{' …' if len(names) > 8 else ''})."
        )
    idle = without_effect(config, settings)
    if idle:
        progress.say(f"Note: nothing here reads the setting{'s' if len(idle) > 1 else ''} {', '.join(idle)}.")
    weights = None if start is None else begun_from(start, config, store.channels)
    announce(store, config, store.facts(device), ids, len(source.skipped) + len(store.skipped))
    notes = Notes().extend([source.notes, store.notes])
    for sentence in notes.sentences():
        progress.say(f"Note: {sentence}")
    if is_main():
        run.make()
        run.hold()
        run.clear()
        if tensorboard:
            run.tensorboard.mkdir()
        write_csv(run.skipped, ("file", "reason"), sorted([*source.skipped, *store.skipped]))
        write_json(run.notes, notes.to_json())
        with replacing(run.contents) as partial:
            partial.write_bytes(store.contents)
        write_json(run.environment, environment(device, world_size()))
        if start is not None and weights is not None:
            write_json(run.beginning, start.about())
            with replacing(run.start) as partial:
                save_file(weights, partial)
        record = DataRecord.of(store, place_of(data), labels, config.store_size, folder, batch, table)
        write_json(run.data, asdict(record))
        write_text(run.config, config.model_dump_json(indent=2) + "\n")
    # No rank may look for a checkpoint while those of an earlier run are still being removed.
    barrier()
    return store, config, ids


def begun_from(start: Start, config: Config, channels: int) -> dict[str, torch.Tensor]:
    """The state dict of the backbone that the run begins with; says whose weights these are.

    Raises:
        DataError: they do not fit images of so many channels.
    """
    require_number_of_channels(start, channels)
    what = (
        "it is adapted to these images" if config.epochs else "nothing is trained; --epochs N adapts it to these images"
    )
    progress.say(f"Begins from {start.name}: {start.found.kind} (licence: {start.license}); {what}.")
    return start.weights(config, channels)


def same_request(run: RunFolder, data: Images, recipe: str, labels: str | None, settings: dict[str, Any]) -> None:
    """Refuse to go on with a run that was begun otherwise than is asked for now; what is not given is not compared.

    Raises:
        RunError: other images, another recipe, other labels, or a setting with another value.
        ConfigError: settings that do not fit the run.
    """
    config, record = Config.load(run.config), DataRecord.read(run)
    if settings.get("init", NONE) != NONE:
        settings = settings | {"init": read_start(str(settings["init"])).label}
    asked = config.replace(**settings)
    pairs = [("data", resolved(record.data), resolved(place_of(data))), ("labels", record.labels, labels)]
    pairs += [("recipe", config.recipe, recipe if recipe != "default" else None)]
    pairs += [(name, getattr(config, name), getattr(asked, name)) for name in settings]
    for name, begun, wanted in pairs:
        if wanted is not None and wanted != begun:
            raise RunError(
                f"{run.path} was begun with {name} = {begun} and {name} = {wanted} is asked for now, where a resumed run keeps "
                "what it began with: leave it out, or begin anew with `--if-exists replace`."
            )


def reopen(run: RunFolder) -> tuple[ImageStore, Config, torch.Tensor | None]:
    """What `begin` gave, from the files of the run.

    Raises:
        DataError: the images are no longer those the run began with.
    """
    config, record = Config.load(run.config), DataRecord.read(run)
    if run.imported.is_file():
        raise RunError(
            f"{run.path} was imported, so there is no training to resume; use it as it is (embed, evaluate, search, export)."
        )
    if run.journal.is_file():
        epochs(run.journal)  # complains of damage before anything is read or trained
    source = record.source()
    same_on_every_rank(source.path, source.names)
    store = record.open(source)
    same_images(store, record, run.path)
    if run.contents.is_file():
        same_contents(store, run.contents.read_bytes(), run.path)
    return store, config, training_labels(source, store, record.labels) if record.labels else None


def announce(
    store: ImageStore, config: Config, facts: DataFacts, labels: torch.Tensor | None, skipped_files: int
) -> None:
    """Say what was found and what will be done, and refuse what cannot fit."""
    method = build_method(config, len(store), store.channels, labels)
    parts = plan(method, config, facts, world_size())
    parts.check()
    skipped = f", {progress.counted(skipped_files, 'file')} skipped (see skipped.csv)" if skipped_files else ""
    progress.say(
        f"{progress.counted(len(store), 'image')}, typically {facts.height} x {facts.width} pixels, "
        f"{progress.counted(facts.channels, 'channel')}{skipped}"
    )
    progress.say(
        f"{method.describe()}, {config.backbone} at {config.image_size} pixels, {progress.counted(config.epochs, 'epoch')} of "
        f"{progress.counted(parts.steps_per_epoch, 'step')} of {progress.counted(config.batch_size, 'image')}, "
        f"{str(resolve_precision(config.precision, facts.device)).removeprefix('torch.')} on {facts.device} "
        f"(recipe {config.recipe})"
    )
    progress.say(parts.sentence())
    for note in _small(store, config, facts):
        progress.say(f"Note: {note}")
    made = sum(config.clusters_before(epoch) for epoch in range(config.epochs))
    if config.method == "deepcluster" and made == 1 and config.epochs > 1:
        progress.say(
            f"Note: clusters are made once, of the untrained network, because new ones come every {config.reassign_every:g} of "
            f"{config.epochs} epochs; more --epochs, or a lower --reassign-every, lets what was learned make better ones."
        )


def _small(store: ImageStore, config: Config, facts: DataFacts) -> list[str]:
    """What is lost where images are kept much smaller than they are, and what so few of them mean."""
    told: list[str] = []
    factor = min(facts.height, facts.width) / config.store_size
    if factor >= MUCH_SMALLER:
        told.append(
            f"images of {facts.height:,} x {facts.width:,} pixels are kept with {config.store_size} on the shorter side, one of "
            f"{factor:.0f}: what is smaller than {factor:.0f} pixels is not seen. --image-size and --store-size keep more; large "
            "pictures such as slides and scenes are better cut into tiles."
        )
    if len(store) < FEW:
        told.append(few(len(store)))
    return told


def execute(
    run: RunFolder,
    store: ImageStore,
    config: Config,
    labels: torch.Tensor | None,
    *,
    device: DeviceKind,
    report: bool = True,
) -> None:
    """Train from wherever the run stands, then embed, cluster and, if asked, report. `labels` [N] only score, unless supervised.

    Raises:
        Interrupted: a signal came; what is kept and how to go on stands in it.
        RunError: the disk is full, a checkpoint is damaged, or the loss is no longer a number.
    """
    kept = "everything up to the last checkpoint is kept"
    method = build_method(config, len(store), store.channels, labels)
    evaluators: list[Evaluator] = []
    # What was trained on cannot be held out.
    if labels is not None and config.method != "supervised":
        evaluators.append(Monitor(method, labels, config))
    loader = make_loader(store, config, torch_device(device))
    if config.data_init or config.init != NONE:
        # A checkpoint, if there is one, overwrites this.
        first_weights(run, method.backbone, loader, config.seed)
    try:
        with stop_on_signals() as stop:
            train(method, loader, config, run, evaluators, stop=stop)
            if is_main():
                run.failure.unlink(missing_ok=True)
            kept, stop.at_once = "the whole training is kept, its features, clusters and report are not made yet", True
            if stop.asked():
                raise KeyboardInterrupt  # the signal came as the last epoch was being saved
            if run.features.is_file() and not run.clusters.is_file() and is_main():
                progress.say(f"{run.clusters} is missing and is made again from {run.features.name}.")
                made = index.Catalogue.load(run.features)
                _write_table(run, store.names, made)
            if not run.features.is_file():
                take_stock(run, method.backbone, loader, config, DataRecord.read(run).batch)
            kept = "training, features and clusters are kept, the report is not written yet"
            if report and is_main():
                write_report(OpenedRun(run.path, device), store, run.report)
    except DivergedError as error:
        if is_main():
            write_json(run.failure, {"reason": diverged(error, config, run)})
        raise RunError(diverged(error, config, run)) from None
    except Interrupted:
        raise Interrupted(f"Stopped and saved; continue with `unlabeled resume {typed(run.path)}`.") from None
    except KeyboardInterrupt:
        raise Interrupted(f"Stopped; {kept}. Continue with `unlabeled resume {typed(run.path)}`.") from None


def first_weights(run: RunFolder, backbone: Backbone, loader: Loader, seed: int) -> None:
    """Start `backbone` from the data, and keep what it starts with: every score is held against it later."""
    is_kept = run.start.is_file()
    barrier()  # every rank has looked before one of them writes
    if is_kept:
        backbone.load_state_dict(load_file(run.start))
        return
    # Evenly spaced: neighbours in a folder are often alike.
    count = len(loader.store)
    index = torch.linspace(0, count - 1, min(count, DATA_INIT_VIEWS)).long()
    _, view = next(iter(loader.center_batches(index, DATA_INIT_VIEWS)))
    start_from_data(backbone.to(loader.device), view, seed)
    if is_main():
        with replacing(run.start) as partial:
            save_file({name: tensor.cpu().contiguous() for name, tensor in backbone.state_dict().items()}, partial)


def take_stock(run: RunFolder, backbone: Backbone, loader: Loader, config: Config, batches: str | None = None) -> None:
    """Embed all images of the run, cluster them, see how stable the clusters are, and write it all."""
    dtype = resolve_precision(config.precision, loader.device)
    progress.say(f"Embedding {progress.counted(len(loader.store), 'image')}.")
    rows = embed(backbone, loader, dtype=dtype, batch_size=2 * config.batch_size)
    progress.say("Clustering the features.")
    batch = index.batch_of(loader.store.source, loader.store, batches) if batches else None
    own = None if batch is None else batch[shard(len(batch))]
    if not bool(rows.isfinite().all()):
        raise DivergedError("the features of the finished network are not numbers")
    made = index.build(rows, config, own, sorted(set(batch or ())))
    if len(made.features) <= STABILITY_IMAGES:
        progress.say("How stable are the clusters? Clustering parts of the images again.")
        counts = suggested_counts(int(made.clusters.max()) + 1)
        found = stability(made.features, made.clusters, counts=counts, seed=config.seed, rounds=STABILITY_ROUNDS)
        if is_main():
            write_json(run.stability, found.to_json())
    found = look_at_views(run, backbone, loader, config)
    if is_main() and found is not None:
        write_json(run.consistency, found.to_json())
    if found is not None and config.init != NONE and config.epochs:
        progress.say(
            f"Seen through another view, an image keeps {100 * found.trained:.1f} % of its nearest neighbours; with the weights it "
            f"began from it was {100 * found.untrained:.1f} %. Labels say whether the kinds are told apart better "
            "(`unlabeled evaluate knn`)."
        )
    if is_main():
        names = loader.store.names
        _write_table(run, names, made)
        # Last: a run that has its features has all of this, and `resume` does not make it again.
        made.save(run.features)


def look_at_views(run: RunFolder, backbone: Backbone, loader: Loader, config: Config) -> Consistency | None:
    """How consistent the neighbors of some images are under new views, trained and untrained; None for too few images."""
    count = min(len(loader.store), CONSISTENCY_IMAGES)
    if count < 3:
        return None
    index = torch.arange(count) * len(loader.store) // count
    dtype = resolve_precision(config.precision, loader.device)
    before = build_network(config, loader.store.channels)
    if run.start.is_file():
        before.load_state_dict(load_file(run.start))
    shares: list[float] = []
    for network in (backbone, before.to(loader.device)):
        with alone():  # few images: every rank looks at all of them
            central = embed(network, loader, index, dtype=dtype, title="views")
            view = embed_views(network, loader, index, config.seed, dtype=dtype)
            shares.append(consistency(central, view))
    neighbors = min(NEIGHBORS, count - 2)
    return Consistency(shares[0], shares[1], neighbors / (count - 1), count, neighbors)


def _write_table(run: RunFolder, names: Sequence[str], made: index.Catalogue) -> None:
    write_clusters(run.clusters, clustered(names, made.clusters, made.distances, made.unlike(), made.scores))


def diverged(error: DivergedError, config: Config, run: RunFolder) -> str:
    """Why training cannot go on, with the settings it had and what is left of it."""
    rates = f"lr = {config.lr:g}" + (f", head_lr = {config.head_lr:g}" if config.head_lr else "")
    kept = (
        "nothing was saved before that"
        if not any(run.checkpoints.glob("epoch-*"))
        else ("the checkpoints before that are kept, and resuming would go the same way")
    )
    lower = f"--lr {config.lr / 10:g}" if config.lr <= 1 else "--lr 0.05"
    return (
        f"training broke down: {error} ({rates}); {kept}. Train again with a lower learning rate, for example "
        f"`{lower} --if-exists replace`, or with `--precision float32`."
    )


def take_in(
    run: RunFolder,
    file: Path,
    backbone: str | None,
    data: Images | None,
    device: DeviceKind,
    cache: str | Path | None,
    settings: dict[str, Any],
) -> None:
    """Make `run` of a published file of weights and, where `data` is given, of these images' features and clusters.

    Raises:
        DataError: the file holds no weights that are known, is damaged, or would run code; or no readable image.
        ConfigError: another network than `backbone`, or settings that do not fit.
        RunError: the folder cannot be written.
        Interrupted: a signal came when the weights were written; what is kept stands in it.
    """
    made = read_weights(file, backbone, settings)
    folder = Path(cache).expanduser() if cache else default_cache()
    record, store = record_without_images(made, folder), None
    skipped: list[tuple[str, str]] = []
    if data is not None:
        source = open_source(data)
        store = record.open(source)
        skipped = sorted([*source.skipped, *store.skipped])
        found = DataRecord.of(store, place_of(data), None, record.store_size, folder)
        # The weights decide how pixels become numbers, not the images they now look at.
        record = replace(found, is_colour=record.is_colour)
        if "num_clusters" not in settings:
            made = replace(made, config=made.config.replace(num_clusters=clusters_for(len(store))))
    if is_main():
        # An earlier run goes only now that nothing else can be wrong.
        run.make()
        run.hold()
        run.clear()
        write_csv(run.skipped, ("file", "reason"), skipped)
        write_json(run.environment, environment(device, world_size()))
        write_json(run.data, asdict(record))
        write_imported(run, made)
    barrier()
    if store is None:
        return
    opened = OpenedRun(run.path, device)
    loader = make_loader(store, made.config, torch_device(device))
    again = "the weights are kept, the features of the images are not made yet; import again with `--if-exists replace`"
    try:
        with stop_on_signals() as stop:
            stop.at_once = True
            take_stock(run, opened.backbone, loader, made.config)
            again = f"weights, features and clusters are kept; `unlabeled report {typed(run.path)}` writes the report"
            if is_main():
                write_report(opened, store, run.report)
    except KeyboardInterrupt:
        raise Interrupted(f"Stopped; {again}.") from None
