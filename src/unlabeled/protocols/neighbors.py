"""Protocols that need no training: the kNN vote, clusters against labels, edges inside classes, cliques."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize

from unlabeled import metrics, progress
from unlabeled.cluster import whitening
from unlabeled.cluster.graph import Cliques, knn_graph
from unlabeled.cluster.graph import cliques as find_cliques
from unlabeled.cluster.kmeans import kmeans
from unlabeled.data.labels import read_labels
from unlabeled.data.source import Subset
from unlabeled.data.store import ImageStore
from unlabeled.distributed import alone
from unlabeled.errors import ConfigError, DataError, RunError, unknown_name
from unlabeled.evaluation.edge_ratio import NEIGHBORS as EDGES
from unlabeled.evaluation.edge_ratio import EdgeRatioProtocol
from unlabeled.evaluation.knn import KnnProtocol
from unlabeled.evaluation.splits import evenly
from unlabeled.evaluation.stability import adjusted_rand
from unlabeled.evaluation.stages import parse_stages
from unlabeled.methods.base import Method, fixed_subset
from unlabeled.methods.clustering import fit_space
from unlabeled.models import Backbone
from unlabeled.models.heads import l2_head
from unlabeled.protocols.driver import Request
from unlabeled.protocols.inputs import (
    QUICK_TEST,
    QUICK_TRAIN,
    RAW_IMAGES,
    labelled,
    labelled_split,
    raw_pixels,
    require_classes,
)
from unlabeled.protocols.probes import stage_votes
from unlabeled.runs import checkpoint
from unlabeled.runs.opened import OpenedRun

SPACES = ("backbone", "output", "bank", "pca")
"""What kNN can compare."""
HEADED = ("output", "bank")
"""Those that need the method's head."""
OUTPUT_DIMS = 128
"""Dims of the papers' output, and of `pca`."""
CLIQUE_NEIGHBORS = 5
"""Neighbours of each image in the graph whose cliques are counted, as in the graph of PIC."""
SPACE_IMAGES = 20_000
"""Training images, evenly spaced, that decide the whitening of images asked about."""
CLIQUE_IMAGES = 20_000
"""Images among which cliques are looked for: about a minute."""


def knn(
    run: OpenedRun, asked: Request, *, neighbors: int = 20, space: str = "backbone", stages: str | None = None
) -> dict[str, Any]:
    """Weighted kNN (Wu et al. 2018, section 3.4) on the trained and untrained network and on raw pixels.

    `space`: what is compared. The papers' kNN tables are of `output`, the head's output of 128 dims (spec E04); of other
    methods, `pca` takes the backbone's features to that many. `bank` lets the rows of the memory bank vote, as training
    left them, on outputs made anew (N14, the released code's score while training); DATA must be the training images.

    A vote weighs exp(cosine / temperature), with the temperature of the run's recipe, as the released code does (N13: 0.1
    on CIFAR, else 0.07); the untrained network and raw pixels are scored with the same.

    Keys: `knn`, `knn_top5` (of more than five classes), `nearest` (a single neighbor), `untrained` (with `bank`: its output
    space), `raw_pixels`, `chance`, `neighbors`, `temperature`, `space`, `train_images`, `test_images`; and, for `stages`
    such as "conv1,conv3" or "all", the scores of each stage's pooled maps under `stages`.
    """
    check_neighbors(neighbors)
    if stages is not None:
        parse_stages(stages, run.backbone)
    if space not in SPACES:
        raise ConfigError(unknown_name("space", space, SPACES))
    trained = Space(run, space, run.method) if space in HEADED else Space(run, space)
    untrained = Space(run, "output" if space == "bank" else space, run.untrained_method() if space in HEADED else None)
    images = labelled_split(run, asked, QUICK_TRAIN if asked.quick else None)
    bank = bank_rows(run, asked, images.stores[0])[images.train] if space == "bank" else None

    def score(rows: tuple[torch.Tensor, torch.Tensor], train: torch.Tensor = images.train) -> dict[str, float]:
        own, asked_of = rows
        labels = images.labels[train], images.labels[images.test]
        return dict(KnnProtocol(own, labels[0], asked_of, labels[1], k=voters, temperature=temperature).run())

    voters, temperature = min(neighbors, len(images.train)), run.config.temperature
    first = score(trained.rows(*images.features(run, run.backbone, "trained"), bank))
    second = score(untrained.rows(*images.features(run, run.untrained_backbone(), "untrained")))
    few = evenly(images.train, RAW_IMAGES)
    first_store, last_store = images.stores[0], images.stores[-1]
    before_last = 0 if last_store is first_store else len(first_store)
    pixels = raw_pixels(run, first_store, few), raw_pixels(run, last_store, images.test - before_last)
    scores: dict[str, Any] = {
        "knn": first["knn_top1"],
        **{key: first[key] for key in ("knn_top5",) if key in first},
        "nearest": first["nearest_top1"],
        "untrained": second["knn_top1"],
        "raw_pixels": score(pixels, few)["knn_top1"],
        "chance": first["knn_chance"],
        "neighbors": voters,
        "temperature": temperature,
        "space": space,
        "train_images": len(images.train),
        "test_images": len(images.test),
    }
    return scores | {"stages": stage_votes(run, images, stages, voters)} if stages is not None else scores


def bank_rows(run: OpenedRun, asked: Request, store: ImageStore) -> torch.Tensor:
    """The row of the memory bank of each opened image of DATA, int64 [M].

    Raises:
        DataError: DATA are not the training images.
    """
    number = {name: row for row, name in enumerate(run.names)}
    # A quick call opens some of them; that the others are there too is seen by their names.
    if not set(store.names) <= number.keys() <= set(run.record.source_of(asked.data).names):
        raise DataError(
            f"the memory bank holds the {len(run.names):,} training images, and {asked.data} is another set: leave DATA out, or "
            "take `--space output`."
        )
    return torch.tensor([number[name] for name in store.names])


class Space:
    """From a backbone's features to the rows that are compared."""

    def __init__(self, run: OpenedRun, name: str, method: Method | None = None) -> None:
        """Raises ConfigError where `method`, asked for its own space, has none of this name."""
        self.run, self.name, self.method = run, name, method
        if method and name not in (found := method.spaces(torch.zeros(2, method.backbone.feature_dim))):
            raise ConfigError(
                f"{run.config.method} has no space '{name}', it has {', '.join(['backbone', 'pca', *found])}: the outputs of its "
                "head stand for classes."
            )

    def rows(
        self, train: torch.Tensor, test: torch.Tensor, bank: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Features [N, D] that vote and [M, D] that are scored, of the backbone, as rows [N, d] and [M, d].

        `bank`: the rows of the memory bank, one for each that votes, which vote in its own space.
        """
        if self.name == "pca":
            fitted = whitening.fit(train, OUTPUT_DIMS, whiten=False, seed=self.run.config.seed)
            return fitted.apply(train), fitted.apply(test)
        if self.method is None:
            return train, test
        if bank is not None:
            return self.method.spaces(train[:2])["bank"][bank], self.method.outputs(test)
        return self.method.outputs(train), self.method.outputs(test)


def nmi(run: OpenedRun, asked: Request) -> dict[str, Any]:
    """Normalised mutual information of clusters and labels (DeepCluster section 4.1, geometric mean), with its baselines.

    NMI grows with the number of clusters whatever they are, so random clusters of the same sizes stand beside it. Keys:
    `nmi`, `nmi_chance` (mean of random clusters of the same sizes), `nmi_adjusted` (for chance; Vinh et al. 2010),
    `adjusted_rand` (Hubert and Arabie 1985), `accuracy` (clusters matched one to one with classes; Hungarian), `untrained`
    (NMI of as many clusters of the untrained network's features), `clusters`, `images`, those with a label.
    """
    if asked.test is not None:
        raise DataError("nmi compares the clusters of one set with its labels: give DATA and no --test.")
    store, ids, _ = labelled(run, asked.data, asked.labels, most=QUICK_TRAIN if asked.quick else None)
    found = run.catalogue.assign(run.features_of(store))
    known = torch.from_numpy(ids) >= 0
    clusters = found.cluster[known]
    labels = torch.from_numpy(ids)[known]
    rows = normalize(run.features_of(store, run.untrained_backbone(), "untrained")[known].float(), dim=1)
    count = len(clusters.unique())
    with alone():  # every rank has all rows
        before = kmeans(rows, min(count, len(rows)), seed=run.config.seed).labels
    return {
        "nmi": metrics.nmi(clusters, labels),
        "nmi_chance": metrics.nmi_by_chance(clusters, labels, seed=run.config.seed),
        "nmi_adjusted": metrics.adjusted_nmi(clusters, labels),
        "adjusted_rand": adjusted_rand(clusters.numpy(), labels.numpy()),
        "accuracy": metrics.cluster_accuracy(clusters, labels),
        "untrained": metrics.nmi(before, labels),
        "clusters": count,
        "images": len(clusters),
    }


def edge_ratio(run: OpenedRun, asked: Request, *, neighbors: int = EDGES) -> dict[str, Any]:
    """Share of nearest-neighbour edges inside a class (thesis section 4.1), trained and untrained, of clustered descriptors.

    Keys: `edge_ratio`, `edge_ratio_median`, `edge_ratio_chance`, `untrained`, `neighbors`, `images`, and `per_class`, the
    ratio by class name. Among fewer images more edges leave a class; the chance says by how much at random. Both networks'
    features are prepared as the run's are for its clustering: whitened by the statistics of the training images.
    """
    check_neighbors(neighbors)
    if asked.test is not None:
        raise DataError("edge-ratio looks at the neighbours inside one set: give DATA and no --test.")
    store, ids, names = labelled(run, asked.data, asked.labels, most=QUICK_TRAIN if asked.quick else None)
    target = torch.from_numpy(ids)

    def protocol(backbone: Backbone, title: str) -> EdgeRatioProtocol:
        return EdgeRatioProtocol(described(run, asked.data, store, backbone, title), target, neighbors)

    trained = protocol(run.backbone, "trained")
    ratios = trained.per_class()
    return {
        **dict(trained.run()),
        "untrained": dict(protocol(run.untrained_backbone(), "untrained").run())["edge_ratio"],
        "neighbors": min(trained.neighbors, len(store) - 1),
        "images": len(store),
        "per_class": {name: float(ratio) for name, ratio in zip(names, ratios, strict=False) if not np.isnan(ratio)},
    }


def cliques(run: OpenedRun, asked: Request, *, neighbors: int = CLIQUE_NEIGHBORS) -> dict[str, Any]:
    """Share of images in a maximal clique of the neighbour graph of at least so many (thesis section 4.1; spec A27).

    Labels are not needed. Keys: `in_clique_of_3` to `in_clique_of_6`, trained; `untrained_in_clique_of_3`; `largest`, images
    of the largest clique; `neighbors`; `images`; and `coverage`, the shares by size up to the largest. Features are prepared
    as for clustering; at most `CLIQUE_IMAGES` images are taken, evenly from all, and the others are not even opened.
    """
    check_neighbors(neighbors)
    if asked.test is not None:
        raise DataError("cliques looks at the neighbours inside one set: give DATA and no --test.")
    source, most = run.record.source_of(asked.data), QUICK_TRAIN if asked.quick else CLIQUE_IMAGES
    if len(source) > most:
        source = Subset(source, torch.linspace(0, len(source) - 1, most).long().tolist())
    store = run.record.open(source)

    def find(backbone: Backbone, title: str) -> Cliques:
        rows = described(run, asked.data, store, backbone, title)
        # Every rank has all rows.
        with alone():
            graph, _ = knn_graph(rows, min(neighbors, len(rows) - 1))
        return find_cliques(graph)

    trained, untrained = find(run.backbone, "trained"), find(run.untrained_backbone(), "untrained")
    largest = int(trained.largest_of.max())
    return {
        **{f"in_clique_of_{size}": trained.coverage(size) for size in range(3, 7)},
        "untrained_in_clique_of_3": untrained.coverage(3),
        "largest": largest,
        "neighbors": min(neighbors, len(store) - 1),
        "images": len(store),
        "coverage": {str(size): trained.coverage(size) for size in range(2, largest + 1)},
    }


def whitened(run: OpenedRun, features: torch.Tensor) -> torch.Tensor:
    """Features [N, D] of images of the run as it prepares them for clustering."""
    config = run.config
    return fit_space(features, config, config.seed).apply(features, normalize_rows=config.normalize_rows)


def described(run: OpenedRun, data: str | Path, store: ImageStore, backbone: Backbone, title: str) -> torch.Tensor:
    """Rows of the images of `store` as the run prepares features for clustering, in the space of its training images.

    A whitening of the images asked about would be another space: of 500 images it gave an edge ratio of .24 where the run's own
    gave .35. It is taken, with a note, only where the training images are gone.
    """
    features, config = run.features_of(store, backbone, title), run.config
    space = fit_space(_of_training(run, data, store, backbone, title, features), config, config.seed)
    return space.apply(features, normalize_rows=config.normalize_rows)


def _of_training(
    run: OpenedRun, data: str | Path, store: ImageStore, backbone: Backbone, title: str, features: torch.Tensor
) -> torch.Tensor:
    is_training = str(data) == run.record.data
    if is_training and len(store) == min(run.record.count, SPACE_IMAGES):
        return features
    try:
        source = run.record.source()
        rows = torch.linspace(0, len(source) - 1, min(len(source), SPACE_IMAGES)).round().long()
        training = run.record.open(Subset(source, rows.tolist()))
    except DataError as error:
        progress.say(f"Note: the images asked about are whitened by their own statistics: {error}")
        return features
    return run.features_of(training, backbone, f"{title}, training images")


def check_neighbors(neighbors: int) -> None:
    """Raise ConfigError if nobody is to be asked."""
    if neighbors < 1:
        raise ConfigError(f"neighbors must be at least 1, got {neighbors}; 20 is a good number, the papers use 200.")


BANK = "method.memory.bank"
HEAD = "method.head."


def knn_bank(run: OpenedRun, asked: Request, *, neighbors: int = 200) -> dict[str, float]:
    """Weighted kNN (Wu et al. 2018, section 3.4) of `--test` images among the rows of the memory bank.

    DATA are the images the bank was trained on: only their names and labels are read, and row i belongs to image i in order of
    names. Paper numbers: ImageNet ResNet-18 41.0 %, ResNet-50 46.5 % (table 2), CIFAR-10 80.8 % (table 1).

    Keys: `knn_bank`, `knn_top5` (of more than five classes), `nearest`, `chance`, `neighbors`, `temperature`, `train_images`,
    `test_images`. An untrained network has no bank.

    Raises:
        RunError: the run has no memory bank.
        DataError: no test images, or another number of images than the bank has rows.
    """
    check_neighbors(neighbors)
    bank, head = _memory(run)
    if asked.test is None:
        raise DataError("knn-bank needs --test: labelled images that are not among those of the memory bank.")
    source = run.record.source_of(asked.data)
    ids = torch.from_numpy(read_labels(source, asked.labels).ids)
    # Images outside the subset have no row, where there is one.
    subset, images = run.config.subset, run.record.count if run.config.subset else len(bank)
    if len(ids) != images:
        # Files that cannot be read have none either.
        ids = ids[torch.as_tensor(run.record.open(source).index_in_source)]
    if subset and len(ids) == images:
        ids = ids[fixed_subset(images, subset, run.config.seed)]
    if len(ids) != len(bank):
        raise DataError(
            f"the memory bank has {len(bank):,} rows and {asked.data} {len(ids):,} images: give the images it was trained on."
        )
    require_classes(ids.numpy(), asked.data, asked.labels)
    most = QUICK_TEST if asked.quick else None
    store, wanted, _ = labelled(run, asked.test, asked.labels, like=asked.data, most=most)
    features = run.features_of(store, run.backbone, "test images")
    with torch.no_grad():
        outputs = torch.cat([head(rows) for rows in features.split(8192)])
    voters = min(neighbors, len(bank))
    protocol = KnnProtocol(bank, ids, outputs, torch.from_numpy(wanted), k=voters, temperature=run.config.temperature)
    found = dict(protocol.run())
    return {
        "knn_bank": found["knn_top1"],
        **{key: found[key] for key in ("knn_top5",) if key in found},
        "nearest": found["nearest_top1"],
        "chance": found["knn_chance"],
        "neighbors": voters,
        "temperature": run.config.temperature,
        "train_images": len(bank),
        "test_images": len(store),
    }


def _memory(run: OpenedRun) -> tuple[torch.Tensor, torch.nn.Module]:
    """The bank [N, D] and the head that makes outputs comparable with its rows."""
    found = checkpoint.load(run.folder.checkpoints)
    tensors = found.tensors if found else {}
    if BANK not in tensors:
        raise RunError(
            f"{run.path} has no memory bank (its method is {run.config.method}): knn-bank needs a run of `--method instance`."
        )
    head = l2_head(run.backbone, tensors[BANK].shape[1]).eval()
    head.load_state_dict({name.removeprefix(HEAD): value for name, value in tensors.items() if name.startswith(HEAD)})
    return tensors[BANK], head
