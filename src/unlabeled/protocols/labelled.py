"""Labelled images for a protocol: opened as the run's own, with the label of each row; and raw pixels as features."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from unlabeled.data.labels import read_labels
from unlabeled.data.sources import open_source
from unlabeled.data.store import ImageStore
from unlabeled.distributed import all_gather_rows
from unlabeled.errors import DataError
from unlabeled.evaluation.knn import split
from unlabeled.features import embed
from unlabeled.images import make_loader
from unlabeled.models import Backbone
from unlabeled.protocols.request import Request

if TYPE_CHECKING:
    from unlabeled.run import Run


@dataclass(frozen=True)
class LabelledSplit:
    """Labelled images to learn from and to be scored on. Rows count through the stores, one after the other."""

    stores: tuple[ImageStore, ...]
    """The opened images: one set, or a training and a test set."""
    labels: torch.Tensor
    """Class of every row, int64 [N], -1 = none."""
    train: torch.Tensor
    """Rows to learn from, int64."""
    test: torch.Tensor
    """Rows to be scored on, int64; disjoint from `train`."""
    class_names: list[str]
    """Name of each class."""

    def features(self, run: Run, backbone: Backbone, title: str) -> torch.Tensor:
        """Features [N, D] of all rows, the same on every rank."""
        return torch.cat([run.features_of(store, backbone, title) for store in self.stores])


def labelled_split(run: Run, asked: Request) -> LabelledSplit:
    """Open what a classification protocol needs: DATA with `--test`, or DATA with a fifth of every class held out.

    Raises:
        DataError: labels do not fit the images, or the two sets have other classes.
    """
    store, ids, names = labelled(run, asked.data, asked.labels)
    if asked.test is None:
        train, test = split(ids, seed=run.config.seed)
        stores = (store,)
    else:
        other, other_ids, _ = labelled(run, asked.test, asked.labels, like=asked.data)
        train, test = np.flatnonzero(ids >= 0), len(ids) + np.flatnonzero(other_ids >= 0)
        stores, ids = (store, other), np.concatenate([ids, other_ids])
    rows = torch.from_numpy(train), torch.from_numpy(test)
    return LabelledSplit(stores, torch.from_numpy(ids), *rows, names)


RAW_SIDE = 32
"""Raw pixels are compared at this size at most: more pixels make the vote slower, not better."""


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
