"""Choosing hyper-parameters on the training set: folds, and the mean score of every candidate over them.

The thesis (sections 5.2 and 5.2.2) and DeepCluster (section 3.4) choose by k-fold cross validation on the training set
(spec E18). Nothing here ever sees a row of the test set.

Shapes: N rows, k folds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from unlabeled.errors import ConfigError, DataError
from unlabeled.evaluation.knn import split
from unlabeled.evaluation.result_cache import Partial
from unlabeled.randomness import generator

Fold = tuple[torch.Tensor, torch.Tensor]
"""Rows to learn from and rows to be scored on, int64."""

HELD_OUT = 0.2
"""Share held out where there is one fold."""


def folds_of(labels: torch.Tensor, rows: torch.Tensor, folds: int, seed: int) -> list[Fold]:
    """Cut `rows` (int64 [N] into `labels`) into folds with the same share of every class in each.

    `folds` 1 holds a fifth out once; k of two or more score every row exactly once. Rows labelled -1 are in no fold.

    Raises:
        ConfigError: fewer than one fold.
        DataError: no class has a row to learn from and one to score.
    """
    if folds < 1:
        raise ConfigError(f"folds must be at least 1 (one held-out fifth), got {folds}.")
    own = labels[rows]
    if folds == 1:
        train, test = (torch.from_numpy(part) for part in split(own, HELD_OUT, seed))
        return [(rows[train], rows[test])]
    largest = int(torch.bincount(own[own >= 0]).max()) if bool((own >= 0).any()) else 0
    if largest < 2:
        raise DataError(
            f"{folds} folds need a class with at least 2 labelled images, the largest has {largest}; label more images."
        )
    # Shuffled within each class and dealt out like cards: sizes differ by one at most, in all and in every class.
    order = torch.randperm(len(own), generator=generator(seed, "folds"))
    order = order[own[order] >= 0]
    order = order[own[order].argsort(stable=True)]
    number = torch.arange(len(order)) % folds
    cuts = [(order[number != fold].sort().values, order[number == fold].sort().values) for fold in range(folds)]
    return [(rows[train], rows[test]) for train, test in cuts if len(test)]


def cross_validate(
    folds: Sequence[Fold],
    score: Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor],
    *,
    partial: Partial | None = None,
    name: str = "fold",
) -> torch.Tensor:
    """Mean over folds of `score(fold, rows to learn from, rows to score)`, a tensor with a number for each candidate.

    `partial` keeps the scores of finished folds under `name`.
    """
    kept, found = partial or Partial(), list[torch.Tensor]()
    for number, (train, test) in enumerate(folds):
        known = kept.read(f"{name}-{number}")
        if known is None:
            known = score(number, train, test).tolist()
            kept.write(f"{name}-{number}", known)
        found.append(torch.tensor(known))
    return torch.stack(found).mean(0)


def evenly(rows: torch.Tensor, most: int) -> torch.Tensor:
    """At most `most` of the rows, evenly spaced, so that sorted classes keep their shares."""
    if len(rows) <= most:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, max(most, 1)).round().long()]
