"""`unlabeled evaluate PROTOCOL`: which features and labels each protocol gets, and the baselines beside it.

The protocols themselves are in `evaluation/` and know nothing of runs. Scores are fractions.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from unlabeled import metrics
from unlabeled.cluster import whitening
from unlabeled.config import Config
from unlabeled.data.labels import read_labels
from unlabeled.data.sources import Source, open_source
from unlabeled.data.store import ImageStore
from unlabeled.distributed import all_gather_rows
from unlabeled.errors import DataError
from unlabeled.evaluation.edge_ratio import NEIGHBORS as EDGES
from unlabeled.evaluation.edge_ratio import EdgeRatioProtocol
from unlabeled.evaluation.knn import KnnProtocol, split
from unlabeled.features import embed
from unlabeled.images import make_loader
from unlabeled.methods.base import Embed, Method
from unlabeled.models import Backbone

if TYPE_CHECKING:
    from unlabeled.run import Run

VOTERS = 20
"""Neighbours that vote where nothing else is asked for; the papers use 200 on large sets."""

RAW_SIDE = 32
"""Raw pixels are compared at this size at most: more pixels make the vote slower, not better."""


def knn(run: Run, data: str | Path, *, labels: str, test: str | Path | None, neighbors: int | None) -> dict[str, float]:
    """Weighted kNN (Wu et al. 2018, section 3.4) on the trained and untrained network and on raw pixels.

    Keys: `knn`, `untrained`, `raw_pixels`, `chance`, `neighbors`, `train_images`, `test_images`.
    """
    store, ids, _ = labelled(run, data, labels)
    if test is None:
        train, held_out = split(ids, seed=run.config.seed)
        stores = (store,)
    else:
        other, other_ids, _ = labelled(run, test, labels, like=data)
        train, held_out = np.flatnonzero(ids >= 0), len(ids) + np.flatnonzero(other_ids >= 0)
        stores, ids = (store, other), np.concatenate([ids, other_ids])

    def score(features: torch.Tensor) -> dict[str, float]:
        target = torch.from_numpy(ids)
        k = min(neighbors or VOTERS, len(train))
        return dict(KnnProtocol(features[train], target[train], features[held_out], target[held_out], k=k).run())

    def of(backbone: Backbone, title: str) -> torch.Tensor:
        return torch.cat([run.features_of(part, backbone, title) for part in stores])

    trained = score(of(run.backbone, "trained"))
    return {
        "knn": trained["knn_top1"],
        "untrained": score(of(run.untrained_backbone(), "untrained"))["knn_top1"],
        "raw_pixels": score(torch.cat([raw_pixels(run, part) for part in stores]))["knn_top1"],
        "chance": trained["knn_chance"],
        "neighbors": min(neighbors or VOTERS, len(train)),
        "train_images": len(train),
        "test_images": len(held_out),
    }


def nmi(run: Run, data: str | Path, *, labels: str, test: str | Path | None, neighbors: int | None) -> dict[str, float]:
    """Normalised mutual information of clusters and labels (DeepCluster section 4.1, geometric mean). Keys: `nmi`, `clusters`."""
    if test is not None:
        raise DataError("nmi compares the clusters of one set with its labels: give DATA and no --test.")
    store, ids, _ = labelled(run, data, labels)
    found = run.catalogue.assign(run.features_of(store))
    known = torch.from_numpy(ids) >= 0
    clusters = found.cluster[known]
    return {"nmi": metrics.nmi(clusters, torch.from_numpy(ids)[known]), "clusters": len(clusters.unique())}


def edge_ratio(
    run: Run, data: str | Path, *, labels: str, test: str | Path | None, neighbors: int | None
) -> dict[str, Any]:
    """Share of nearest-neighbour edges inside a class (thesis section 4.1), trained and untrained, of clustered descriptors.

    Keys: `edge_ratio`, `edge_ratio_median`, `edge_ratio_chance`, `untrained`, `neighbors`, and `per_class`, the ratio by
    class name. Both networks' features are prepared for clustering as the run's are, each by a whitening of its own.
    """
    if test is not None:
        raise DataError("edge-ratio looks at the neighbours inside one set: give DATA and no --test.")
    store, ids, names = labelled(run, data, labels)
    target, config = torch.from_numpy(ids), run.config

    def protocol(backbone: Backbone, title: str) -> EdgeRatioProtocol:
        features = run.features_of(store, backbone, title)
        if config.feature == "after_relu":
            features = features.clamp(min=0)
        fitted = whitening.fit(features, config.pca_dims, whiten=config.whiten, seed=config.seed)
        return EdgeRatioProtocol(
            fitted.apply(features, normalize_rows=config.normalize_rows), target, neighbors or EDGES
        )

    trained = protocol(run.backbone, "trained")
    ratios = trained.per_class()
    return {
        **dict(trained.run()),
        "untrained": dict(protocol(run.untrained_backbone(), "untrained").run())["edge_ratio"],
        "neighbors": min(trained.neighbors, len(store) - 1),
        "per_class": {name: float(ratio) for name, ratio in zip(names, ratios, strict=False) if not np.isnan(ratio)},
    }


PROTOCOLS: dict[str, Callable[..., dict[str, Any]]] = {"edge-ratio": edge_ratio, "knn": knn, "nmi": nmi}


def labelled(
    run: Run, data: str | Path, spec: str, like: str | Path | None = None
) -> tuple[ImageStore, np.ndarray, list[str]]:
    """Open labelled images: the store, the label of each of its rows (-1 = none), and the class names.

    `like` names the set whose classes these must be: a test set's labels are numbered as the training set's.
    """
    source = open_source(data)
    found = read_labels(source, spec)
    store = run.record.open(source, title=f"reading {Path(data).name}")
    ids, names = found.ids[store.index_in_source], found.class_names
    if like is not None:
        ids, names = _renumbered(ids, names, read_labels(open_source(like), spec).class_names, data)
    if not (ids >= 0).any():
        raise DataError(f"none of the {len(ids):,} images of {data} has a label; check `--labels {spec}`.")
    return store, ids, names


def _renumbered(ids: np.ndarray, names: list[str], wanted: list[str], data: str | Path) -> tuple[np.ndarray, list[str]]:
    number = {name: i for i, name in enumerate(wanted)}
    unknown = [name for name in names if name not in number]
    if unknown:
        raise DataError(
            f"{data} has the class '{unknown[0]}', which the training images do not have (theirs: {', '.join(wanted[:10])}); "
            "give both sets the same classes."
        )
    table = np.array([number[name] for name in names] + [-1], dtype=np.int64)
    return table[ids], wanted


def raw_pixels(run: Run, store: ImageStore) -> torch.Tensor:
    """The central view itself as a feature [M, C·h·w], at most 32 pixels a side, around the mean of the training images."""
    loader = make_loader(store, run.config, torch.device("cpu"))
    mean = torch.tensor(run.config.mean).view(1, -1, 1, 1) if run.config.mean else 0.5
    side = min(RAW_SIDE, run.config.image_size)

    class Pixels(torch.nn.Module):
        def forward(self, view: torch.Tensor) -> torch.Tensor:
            scaled = view.float() / 255 if view.dtype == torch.uint8 else view.float()
            return (torch.nn.functional.adaptive_avg_pool2d(scaled, side) - mean).flatten(1)

    return all_gather_rows(embed(Pixels(), loader, title="raw pixels"))


def training_labels(source: Source, store: ImageStore, spec: str) -> torch.Tensor:
    """The label of every image of a store, int64 [N], -1 = none."""
    return torch.from_numpy(read_labels(source, spec).ids[store.index_in_source])


def held_out_knn(method: Method, labels: torch.Tensor, config: Config) -> Callable[[Embed], dict[str, float]]:
    """kNN on a held-out fifth of the training images, for the journal. These labels are never seen by the training.

    Keys: `knn` on the backbone's features, `knn_bank` on the memory bank and `knn_output` on the head's outputs, where
    the method has them; features and outputs are computed anew from central views, the bank is as training left it.
    """
    split(labels.numpy(), seed=config.seed)  # complains now rather than after the first epochs

    def evaluate(features: Embed) -> dict[str, float]:
        rows = all_gather_rows(features())
        spaces = {"knn": rows} | {f"knn_{name}": space for name, space in method.spaces(rows).items()}
        return {
            name: dict(
                KnnProtocol.held_out(space, labels, seed=config.seed, k=20, temperature=config.temperature).run()
            )["knn_top1"]
            for name, space in spaces.items()
        }

    return evaluate
