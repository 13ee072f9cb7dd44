"""Labelled images for a protocol: opened as the run's own, with the label of each row; and raw pixels as features."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from unlabeled.data.labels import read_labels
from unlabeled.data.source import Subset
from unlabeled.data.store import ImageStore
from unlabeled.distributed import all_gather_rows
from unlabeled.errors import DataError
from unlabeled.evaluation.knn import split
from unlabeled.evaluation.splits import evenly
from unlabeled.features import embed
from unlabeled.models import Backbone
from unlabeled.protocols.driver import Request
from unlabeled.runs.images import make_loader
from unlabeled.runs.opened import OpenedRun

QUICK_TRAIN, QUICK_TEST = 2000, 1000
"""Images to learn from and to be scored on that a quick call opens at most; one that looks at a single set, the first."""
HELD_OUT = 0.2
"""Share of every class that is scored on where there is no `--test`."""


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

    def features(self, run: OpenedRun, backbone: Backbone, title: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Features of the rows to learn from and of those to be scored on, the same on every rank."""
        return self.parts([run.features_of(store, backbone, title) for store in self.stores])

    def parts(self, rows: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows of the stores, one matrix each, as those to learn from and those to be scored on.

        The matrices are used up: rows move within them, since a second copy may be more than there is memory.
        """
        first = len(self.stores[0])
        if len(rows) > 1:
            return take(rows[0], self.train), take(rows[1], self.test - first)
        test = rows[0][self.test]
        return take(rows[0], self.train), test


def labelled_split(run: OpenedRun, asked: Request, most: int | None = None) -> LabelledSplit:
    """Open what a classification protocol needs: DATA with `--test`, or DATA with a fifth of every class held out.

    `most`: open so many to learn from at most, as a quick call does, and `QUICK_TEST` to be scored on, evenly from every
    class (a part held out of one set is rounded class by class).

    Raises:
        DataError: labels do not fit the images, there is only one class, or the two sets have other classes.
    """
    if asked.test is None:
        store, ids, names = labelled(run, asked.data, asked.labels, most=most and most + QUICK_TEST)
        share = max(HELD_OUT, 1 - most / int((ids >= 0).sum())) if most else HELD_OUT
        train, test = split(ids, share, run.config.seed)
        stores = (store,)
    else:
        store, ids, names = labelled(run, asked.data, asked.labels, most=most)
        other, other_ids, _ = labelled(
            run, asked.test, asked.labels, like=asked.data, most=QUICK_TEST if most else None
        )
        train, test = np.flatnonzero(ids >= 0), len(ids) + np.flatnonzero(other_ids >= 0)
        stores, ids = (store, other), np.concatenate([ids, other_ids])
    rows = torch.from_numpy(train), torch.from_numpy(test)
    return LabelledSplit(stores, torch.from_numpy(ids), *rows, names)


def take(rows: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """`rows[index]` for a rising index, made within `rows` itself."""
    for begin in range(0, len(index), ROWS_AT_ONCE):
        part = index[begin : begin + ROWS_AT_ONCE]
        # No row moves to a higher place, so none is written over before it was read.
        rows[begin : begin + len(part)] = rows[part]
    return rows[: len(index)]


ROWS_AT_ONCE = 4096
RAW_IMAGES = 50_000
"""Raw pixels vote from so many training images at most, evenly spaced: as many numbers as features, for a baseline."""
RAW_SIDE = 32
"""Raw pixels are compared at this size at most: more pixels make the vote slower, not better."""


def labelled(
    run: OpenedRun, data: str | Path, spec: str, like: str | Path | None = None, most: int | None = None
) -> tuple[ImageStore, np.ndarray, list[str]]:
    """Open labelled images: the store, the label of each of its rows (int64 [N], -1 = none), and the class names.

    `like` names the set whose classes these must be: a test set's labels are numbered as the training set's. `most`: open
    so many at most, all of them labelled, evenly from every class; equal labels give the same images.

    Raises:
        DataError: no image that can be read has a label, there is only one class, or one that `like` does not have.
    """
    source = run.record.source_of(data)
    found = read_labels(source, spec)
    if like is not None:
        found = found.aligned_to(read_labels(run.record.source_of(like), spec).class_names, data)
    if most is not None:
        rows = evenly_by_class(found.ids, most)
        source, found = Subset(source, rows), found[rows]
    store = run.record.open(source, title=f"reading {Path(data).name}")
    ids = found.ids[store.index_in_source]
    if not (ids >= 0).any():
        raise DataError(f"none of the {len(ids):,} images of {data} has a label; check `--labels {spec}`.")
    if like is None:
        require_classes(ids, data, spec)
    return store, ids, found.class_names


def require_classes(ids: np.ndarray, data: str | Path, spec: str) -> None:
    """Raise DataError unless these labels (int64 [N], -1 = none) are of two classes: one alone is always right."""
    if (count := len(np.unique(ids[ids >= 0]))) < 2:
        raise DataError(
            f"images of at least 2 classes are needed, those of {data} have {count}; check `--labels {spec}`, or give images "
            "of more classes."
        )


def evenly_by_class(ids: np.ndarray, most: int) -> np.ndarray:
    """At most `most` of the labelled rows of ids [N], evenly spaced through them in the order of their classes; sorted."""
    rows = np.flatnonzero(ids >= 0)
    by_class = torch.from_numpy(rows[ids[rows].argsort(kind="stable")])
    return np.sort(evenly(by_class, most).numpy())


def raw_pixels(run: OpenedRun, store: ImageStore, index: torch.Tensor) -> torch.Tensor:
    """The central view of the images `index` [M] itself as a feature [M, C·h·w], at most 32 pixels a side, around the mean of
    the training images."""
    loader = make_loader(store, run.config, torch.device("cpu"))
    mean = torch.tensor(run.config.mean).view(1, -1, 1, 1) if run.config.mean else 0.5
    side = min(RAW_SIDE, run.config.image_size)

    class Pixels(torch.nn.Module):
        def forward(self, view: torch.Tensor) -> torch.Tensor:
            scaled = view.float() / 255 if view.dtype == torch.uint8 else view.float()
            return (torch.nn.functional.adaptive_avg_pool2d(scaled, side) - mean).flatten(1)

    return all_gather_rows(embed(Pixels(), loader, index, title="raw pixels"))
