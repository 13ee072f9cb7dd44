"""Scores of the training images that the journal keeps while training goes on, where labels were given."""

from __future__ import annotations

from collections.abc import Callable

import torch

from unlabeled.config import Config
from unlabeled.data.labels import read_labels
from unlabeled.data.sources import Source
from unlabeled.data.store import ImageStore
from unlabeled.distributed import all_gather_rows
from unlabeled.evaluation.knn import KnnProtocol, split
from unlabeled.methods.base import Embed, Method


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
