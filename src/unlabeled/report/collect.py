"""Gathers what the report says about a run; `report.page` turns it into a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize

from unlabeled import progress
from unlabeled.cluster.neighbors import nearest_others
from unlabeled.config import Config
from unlabeled.data.display import from_record
from unlabeled.data.notes import Notes
from unlabeled.data.store import ImageStore
from unlabeled.distributed import alone
from unlabeled.errors import RunError, typed
from unlabeled.methods import method_class
from unlabeled.randomness import numpy_generator
from unlabeled.report.network_section import inside
from unlabeled.report.overview import overview
from unlabeled.report.page import Cluster, Neighbours, ReportFacts, write_report
from unlabeled.runs import cluster_history, journal
from unlabeled.runs.index import Catalogue
from unlabeled.runs.opened import OpenedRun
from unlabeled.training import health
from unlabeled.version import __version__

CLUSTERS_SHOWN = 60
PER_CLUSTER = 12
OUTLIERS = 4
"""Images of a cluster shown apart, those farthest from its centre, where it has this many and as many typical ones."""
LIKE_IT = 3
"""Clusters named as most like another."""
QUERIES_SHOWN = 8
PER_QUERY = 8
THUMBNAIL = 96
"""Pixels: what a thumbnail's long side is reduced to before it goes into a sprite."""


def write(run: OpenedRun, store: ImageStore, path: Path) -> Path:
    """Write the report of a finished run to `path`; `store` holds its training images."""
    progress.say("Writing the report: the map, the clusters, what the features hold.")
    # Only one rank gets here: what it calls must not wait for the others.
    with alone():
        write_report(path, facts(run, store))
    return path


def facts(run: OpenedRun, store: ImageStore) -> ReportFacts:
    """Everything the report says, from the files of the run and the pixels of some images."""
    history, catalogue = journal.epochs(run.folder.journal), run.catalogue
    epochs = [record for record in history if record["epoch"] > 0]
    verdict = health.diagnose(epochs)
    sizes = torch.bincount(catalogue.clusters, minlength=len(catalogue.centroids))
    scores = run.scores.get("knn", {})
    seen = overview(run, store)
    return ReportFacts(
        title=run.path.resolve().name,
        place=typed(place_of(run.path)[0]),
        subtitle=f"{_what(run)} on {progress.counted(len(store), 'image')} from {Path(run.record.data).name}",
        verdict=verdict,
        run=run_facts(run, store, epochs),
        history=history,
        cluster_sizes=sizes.tolist(),
        clusters=clusters(catalogue, store, sizes, seen.place, stability(run, len(sizes))),
        neighbours=neighbours(catalogue, store, run.config.seed),
        atlas=seen.atlas,
        explanation=seen.explanation,
        inside=inside(run, store, seen.place),
        num_images=len(store),
        skipped=store.skipped,
        scores={
            name: scores[key]
            for key, name in (("raw_pixels", "raw pixels"), ("untrained", run.baseline), ("knn", "this run"))
            # A network that nothing trained is its own start.
            if key in scores and (key != "untrained" or run.config.epochs or not run.beginning)
        },
        method=run.config.method,
        rewritten=cluster_history.rewritten(
            run.config, run.folder.assignments, len(store), [record["epoch"] for record in epochs]
        ),
        baseline=run.baseline,
        start=run.beginning.get("kind", ""),
        num_tested=scores.get("test_images", 0),
        score_name=f"kNN accuracy on {progress.counted(scores['test_images'], 'held-out image')}" if scores else "",
        labels=scores.get("labels", "given"),
        consistency=_consistency(run),
        notes=_notes(run),
        next_steps=next_steps(verdict, catalogue, run.config, bool(scores)),
        commands=commands(run),
        generator=f"unlabeled {__version__}",
    )


def _what(run: OpenedRun) -> str:
    """What was done, in a word: the method, or the weights that were used as they are."""
    return str(run.beginning["init"]) if run.beginning and not run.config.epochs else run.config.method


def _notes(run: OpenedRun) -> list[str]:
    """What was left out, replaced or clipped while the images were read; runs of 0.1.0 have no such file."""
    if not run.folder.notes.is_file():
        return []
    try:
        records = run.folder.read_json(run.folder.notes)
        return [Notes.from_json([record]).sentences()[0] for record in records]
    except (RunError, KeyError, TypeError, ValueError):
        return []


def _consistency(run: OpenedRun) -> dict[str, float] | None:
    if not run.folder.consistency.is_file():
        return None
    found = run.folder.read_object(run.folder.consistency, "trained", "untrained", "chance", "images")
    return {name: float(found[name]) for name in ("trained", "untrained", "chance", "images")}


def run_facts(run: OpenedRun, store: ImageStore, epochs: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The facts of a run in sections."""
    config, environment = (
        run.config,
        run.folder.read_object(run.folder.environment, "processes", "device", "python", "packages"),
    )
    seconds = sum(record["seconds"] for record in epochs)
    height, width = store.original_sizes.median(0).values.tolist()
    low, high = store.value_range.low, store.value_range.high
    data: dict[str, Any] = {
        "images": f"{len(store):,}",
        "skipped files": f"{len(store.skipped):,}",
        "typical size": f"{height} × {width} pixels",
        "channels": store.channels,
    }
    if run.record.display and (shown := from_record(run.record.display).sentence(store.channels)):
        data["channels shown"] = shown
    if set(low) != {0.0} or set(high) != {255.0}:
        shown = ", ".join(f"{a:g} to {b:g}" for a, b in zip(low, high, strict=True))
        data["value range"] = f"{shown} ({100 * store.value_range.share_clipped:.2g} % of the values lie beyond)"
    return {
        "data": data,
        "method": {
            "method": config.method,
            "recipe": config.recipe,
            **method_class(config).facts(config),
            "epochs": config.epochs,
            "seed": config.seed,
        },
        "network": {
            "backbone": config.backbone,
            **(
                {"begins from": f"{run.beginning['kind']} (licence: {run.beginning['license']})"}
                if run.beginning
                else {}
            ),
            "input": config.stem,
            "view": f"{config.image_size} pixels",
            "batch": f"{config.batch_size} on each of {progress.counted(environment['processes'], 'process', 'processes')}",
            "learning rate": f"{config.lr:g}, {config.schedule}",
        },
        "time": {
            "training": progress.duration(seconds),
            "speed": f"{np.median([record['images_per_second'] for record in epochs] or [0]):,.0f} images/s",
            "device": environment["device"],
        },
        "versions": {"python": environment["python"], **environment["packages"]},
    }


def clusters(
    catalogue: Catalogue,
    store: ImageStore,
    sizes: torch.Tensor,
    place: np.ndarray,
    stable: Sequence[float | None] = (),
) -> list[Cluster]:
    """The largest clusters, each with its most typical images and those farthest from its centre.

    `place` [N] is where each image is in the atlas, -1 for none; `stable` the stability of each cluster, where known.
    """
    shown: list[Cluster] = []
    alike = most_alike(catalogue.features, catalogue.clusters, sizes)
    for number in range(min(CLUSTERS_SHOWN, len(sizes))):
        members = (catalogue.clusters == number).nonzero()[:, 0]
        if not len(members):
            continue
        distances = catalogue.distances[members]
        order = members[distances.argsort(stable=True)]
        typical = order[:PER_CLUSTER].tolist()
        far = order.flip(0)[:OUTLIERS].tolist() if len(order) >= PER_CLUSTER + OUTLIERS else []
        shown.append(
            Cluster(
                id=number,
                size=len(members),
                thumbnails=[thumbnail(store, i) for i in typical],
                names=[store.names[i] for i in typical],
                tightness=float(distances.mean()),
                rows=place[typical].tolist(),
                outliers=[thumbnail(store, i) for i in far],
                outlier_names=[store.names[i] for i in far],
                outlier_rows=place[far].tolist() if far else [],
                nearest=alike[number],
                stability=stable[number] if stable else None,
            )
        )
    return shown


def most_alike(features: torch.Tensor, labels: torch.Tensor, sizes: torch.Tensor) -> list[list[int]]:
    """For each of the clusters shown the numbers of those most like it, most alike first.

    Alike is the cosine of mean features [N, D] around the mean of all: by distance a cluster of all sorts, which lies in
    the middle, would be near to every other.
    """
    means = torch.zeros(len(sizes), features.shape[1]).index_add_(0, labels, features.float())
    means = normalize(means / sizes.clamp(min=1)[:, None] - features.float().mean(0), dim=1)
    cosine = means[:CLUSTERS_SHOWN] @ means.T
    cosine[:, sizes == 0] = -math.inf
    cosine.fill_diagonal_(-math.inf)
    ordered = cosine.argsort(dim=1, descending=True, stable=True)[:, :LIKE_IT]
    return [[j for j in row.tolist() if math.isfinite(cosine[i, j])] for i, row in enumerate(ordered)]


def stability(run: OpenedRun, num_clusters: int) -> list[float | None]:
    """Stability of each cluster, where the run was small enough for it to be looked at; else nothing."""
    path = run.folder.stability
    if not path.is_file():
        return []
    try:
        found = run.folder.read_json(path)["per_cluster"]
    except (RunError, KeyError, TypeError):
        return []
    is_ours = isinstance(found, list) and len(found) == num_clusters  # pyright: ignore[reportUnknownArgumentType]
    return found if is_ours else []


def neighbours(catalogue: Catalogue, store: ImageStore, seed: int) -> list[Neighbours]:
    """A few images drawn at random, each with what the network finds most similar to it."""
    count = min(QUERIES_SHOWN, len(store))
    chosen = numpy_generator(seed, "report queries").choice(len(store), count, replace=False)
    queries = torch.from_numpy(chosen)
    nearest = nearest_others(catalogue.features, catalogue.features[queries], queries, PER_QUERY)
    found: list[Neighbours] = []
    columns = zip(chosen.tolist(), nearest.similarity.tolist(), nearest.index.tolist(), strict=True)
    for query, similarities, others in columns:
        found.append(
            Neighbours(
                query=thumbnail(store, query),
                query_name=store.names[query],
                thumbnails=[thumbnail(store, row) for row in others],
                similarities=similarities,
                names=[store.names[row] for row in others],
            )
        )
    return found


def thumbnail(store: ImageStore, i: int) -> np.ndarray:
    """Image `i` small enough for a page, uint8 [h, w, 1 or 3], as `store` shows it."""
    pixels = store.shown(i)
    step = max(1, max(pixels.shape[:2]) // THUMBNAIL)
    return np.ascontiguousarray(pixels[::step, ::step])


def next_steps(verdict: health.Verdict, catalogue: Catalogue, config: Config, has_scores: bool) -> list[str]:
    """What to try next, most useful first."""
    steps: list[str] = []
    if verdict.advice:
        steps.append(f"{verdict.advice[:1].upper()}{verdict.advice[1:]}.")
    unlike = int(catalogue.unlike().sum())
    if unlike:
        marked = progress.counted(unlike, "image")
        steps.append(f"Look at the {marked} marked `unlike` in clusters.csv: nothing else here looks like that.")
    if config.flip == "horizontal":
        steps.append(
            "If the images have no up, as satellite tiles and most microscopy, train again with `--flip both`."
        )
    if not has_scores:
        steps.append(
            "If some images have labels, score the features: `unlabeled evaluate knn RUN DATA --labels folder`."
        )
    steps.append("If clusters split one kind of thing, or join two, train again with fewer or more `--num-clusters`.")
    return steps


def place_of(path: Path) -> tuple[str, str]:
    """How a command names a run, and a note where it must be typed elsewhere.

    Relative to where the report is written from; where that would be an absolute path, which belongs in no file that is
    passed on, the name of the folder.
    """
    here = Path.cwd()
    place = path.relative_to(here) if path.is_absolute() and path.is_relative_to(here) else path
    if place.is_absolute() or not place.name or place.name == "..":
        return path.resolve().name, " (these commands are for the folder that holds the run)"
    return str(place), ""


def commands(run: OpenedRun) -> list[tuple[str, str]]:
    """Command lines to go on with."""
    place, note = place_of(run.path)
    name = typed(place)
    return [
        (f"unlabeled embed {name} NEW_IMAGES --out features.npy", f"features of new images{note}"),
        (f"unlabeled cluster {name} --to-folders sorted", "one folder of images for each cluster"),
        (f"unlabeled cluster {name} --num-clusters 10 --out ten.csv", "fewer clusters, without training again"),
        (f"unlabeled search {name} photo.jpg", "the training images most like a photo"),
        (f"unlabeled evaluate knn {name} DATA --labels folder", "score the features where labels exist"),
    ]
