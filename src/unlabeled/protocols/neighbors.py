"""Protocols that need no training: the kNN vote, clusters against labels, edges inside classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from unlabeled import metrics
from unlabeled.cluster import whitening
from unlabeled.errors import ConfigError, DataError
from unlabeled.evaluation.edge_ratio import NEIGHBORS as EDGES
from unlabeled.evaluation.edge_ratio import EdgeRatioProtocol
from unlabeled.evaluation.knn import KnnProtocol
from unlabeled.models import Backbone
from unlabeled.protocols.labelled import labelled, labelled_split, raw_pixels
from unlabeled.protocols.request import Request

if TYPE_CHECKING:
    from unlabeled.run import Run


def knn(run: Run, asked: Request, *, neighbors: int = 20) -> dict[str, float]:
    """Weighted kNN (Wu et al. 2018, section 3.4) on the trained and untrained network and on raw pixels.

    Keys: `knn`, `untrained`, `raw_pixels`, `chance`, `neighbors`, `train_images`, `test_images`.
    """
    check_neighbors(neighbors)
    images = labelled_split(run, asked)

    def score(features: torch.Tensor) -> dict[str, float]:
        rows, labels = (features[images.train], features[images.test]), images.labels
        return dict(KnnProtocol(rows[0], labels[images.train], rows[1], labels[images.test], k=voters).run())

    voters = min(neighbors, len(images.train))
    trained = score(images.features(run, run.backbone, "trained"))
    return {
        "knn": trained["knn_top1"],
        "untrained": score(images.features(run, run.untrained_backbone(), "untrained"))["knn_top1"],
        "raw_pixels": score(torch.cat([raw_pixels(run, store) for store in images.stores]))["knn_top1"],
        "chance": trained["knn_chance"],
        "neighbors": voters,
        "train_images": len(images.train),
        "test_images": len(images.test),
    }


def nmi(run: Run, asked: Request) -> dict[str, float]:
    """Normalised mutual information of clusters and labels (DeepCluster section 4.1, geometric mean). Keys: `nmi`, `clusters`."""
    if asked.test is not None:
        raise DataError("nmi compares the clusters of one set with its labels: give DATA and no --test.")
    store, ids, _ = labelled(run, asked.data, asked.labels)
    found = run.catalogue.assign(run.features_of(store))
    known = torch.from_numpy(ids) >= 0
    clusters = found.cluster[known]
    return {"nmi": metrics.nmi(clusters, torch.from_numpy(ids)[known]), "clusters": len(clusters.unique())}


def edge_ratio(run: Run, asked: Request, *, neighbors: int = EDGES) -> dict[str, Any]:
    """Share of nearest-neighbour edges inside a class (thesis section 4.1), trained and untrained, of clustered descriptors.

    Keys: `edge_ratio`, `edge_ratio_median`, `edge_ratio_chance`, `untrained`, `neighbors`, and `per_class`, the ratio by
    class name. Both networks' features are prepared for clustering as the run's are, each by a whitening of its own.
    """
    check_neighbors(neighbors)
    if asked.test is not None:
        raise DataError("edge-ratio looks at the neighbours inside one set: give DATA and no --test.")
    store, ids, names = labelled(run, asked.data, asked.labels)
    target, config = torch.from_numpy(ids), run.config

    def protocol(backbone: Backbone, title: str) -> EdgeRatioProtocol:
        features = run.features_of(store, backbone, title)
        if config.feature == "after_relu":
            features = features.clamp(min=0)
        fitted = whitening.fit(features, config.pca_dims, whiten=config.whiten, seed=config.seed)
        return EdgeRatioProtocol(fitted.apply(features, normalize_rows=config.normalize_rows), target, neighbors)

    trained = protocol(run.backbone, "trained")
    ratios = trained.per_class()
    return {
        **dict(trained.run()),
        "untrained": dict(protocol(run.untrained_backbone(), "untrained").run())["edge_ratio"],
        "neighbors": min(trained.neighbors, len(store) - 1),
        "per_class": {name: float(ratio) for name, ratio in zip(names, ratios, strict=False) if not np.isnan(ratio)},
    }


def check_neighbors(neighbors: int) -> None:
    """Raise ConfigError if nobody is to be asked."""
    if neighbors < 1:
        raise ConfigError(f"neighbors must be at least 1, got {neighbors}; 20 is a good number, the papers use 200.")
