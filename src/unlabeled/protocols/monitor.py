"""What the journal says about the training images while training goes on, where labels were given."""

from __future__ import annotations

import torch

from unlabeled import diagnostics, metrics, progress
from unlabeled.config import Config
from unlabeled.data.labels import read_labels
from unlabeled.data.sources import Source
from unlabeled.data.store import ImageStore
from unlabeled.distributed import all_gather_rows
from unlabeled.evaluation.edge_ratio import EdgeRatioProtocol
from unlabeled.evaluation.knn import KnnProtocol, split
from unlabeled.methods.base import Embed, Method
from unlabeled.methods.clustering import fit_space
from unlabeled.methods.deepcluster import DeepCluster

EDGE_ROWS = 20_000
"""Images up to which the exact neighbour graph is made after an epoch: a few seconds; more take too long to be a habit."""
SPREAD_ROWS = 4096
"""Rows whose spread is measured."""
SPREAD = ("mean_cosine", "uniformity", "effective_rank", "dead_dims")
"""What of `diagnostics.feature_statistics` is kept."""


def training_labels(source: Source, store: ImageStore, spec: str, *, say: bool = False) -> torch.Tensor:
    """The label of every image of a store, int64 [N], -1 = none; `say` prints the classes and what has no label."""
    found = read_labels(source, spec)
    if say:
        for sentence in found.sentences():
            progress.say(sentence)
    return torch.from_numpy(found.ids[store.index_in_source])


class Monitor:
    """Looks at a method with the true labels [N] beside it (-1 = none), which the training never sees.

    After every epoch, of a method that clusters: `nmi_labels`, clusters against labels (spec A01). When a look at features
    is due: `knn` on a held-out fifth, on the backbone's features, `knn_bank` and `knn_output` in the method's other spaces,
    and `nearest`, `nearest_bank`, `nearest_output`, the same of a single neighbour (N16); `edge_ratio` (A04) of what is
    clustered; the spread of each space (A28, A30), `backbone_uniformity` and so on. Features and outputs are made anew from
    central views. In the bank the voters are rows as training left them, and what is classified are outputs made anew, as
    in the released code (N14); but the held-out fifth is trained on too.
    """

    def __init__(self, method: Method, labels: torch.Tensor, config: Config) -> None:
        """Raises DataError if the labels leave nothing to hold out."""
        self.method, self.labels, self.config = method, labels, config
        split(labels.numpy(), seed=config.seed)  # complains now rather than after the first epochs

    def __call__(self, features: Embed, due: bool) -> dict[str, float]:
        """The numbers of this epoch, the same on every rank."""
        numbers = self.nmi()
        if not due:
            return numbers
        rows = all_gather_rows(features())
        spaces = {"backbone": rows} | self.method.spaces(rows)
        for name, space in spaces.items():
            found = self.knn(space, spaces["output"] if name == "bank" else space)
            suffix = "" if name == "backbone" else f"_{name}"
            numbers |= {f"knn{suffix}": found["knn_top1"], f"nearest{suffix}": found["nearest_top1"]}
        for name, space in spaces.items():
            spread = diagnostics.feature_statistics(space[:SPREAD_ROWS])
            numbers |= {f"{name}_{key}": spread[key] for key in SPREAD}
        if len(rows) <= EDGE_ROWS:
            numbers["edge_ratio"] = self.edge_ratio(rows)
        return numbers

    def nmi(self) -> dict[str, float]:
        """`nmi_labels` by its geometric mean, if there are clusters of labelled images."""
        if not isinstance(self.method, DeepCluster):
            return {}
        clusters = self.method.labels.cpu()
        both = (clusters >= 0) & (self.labels >= 0)
        return {"nmi_labels": metrics.nmi(clusters, self.labels)} if bool(both.any()) else {}

    def knn(self, rows: torch.Tensor, asked: torch.Tensor) -> dict[str, float]:
        """Weighted vote of 20 neighbours among `rows` [N, D] for the held-out fifth of `asked` [N, D]."""
        train, test = map(torch.from_numpy, split(self.labels.numpy(), seed=self.config.seed))
        voters, wanted = (rows[train], self.labels[train]), (asked[test], self.labels[test])
        return dict(KnnProtocol(*voters, *wanted, k=20, temperature=self.config.temperature).run())

    def edge_ratio(self, rows: torch.Tensor) -> float:
        """Edges inside a class, of rows prepared as for clustering."""
        config = self.config
        described = fit_space(rows, config, config.seed).apply(rows, normalize_rows=config.normalize_rows)
        return dict(EdgeRatioProtocol(described, self.labels).run())["edge_ratio"]
