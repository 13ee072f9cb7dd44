"""A linear support vector machine on frozen features of every stage.

Instance discrimination, tables 1 to 3 (spec E03). Published for its 128 numbers on CIFAR-10: 75.4 % (non-parametric
softmax), 60.3 % (parametric); for conv1 to conv5 of AlexNet on ImageNet 16.8, 26.5, 31.8, 34.1, 35.6 %. The paper is
silent on the solver, C and the pooling, and its code is not public. Here: scikit-learn's LinearSVC (squared hinge, L2,
one against the rest), maps pooled to under 10,000 numbers as for the linear probes, all rows of a stage divided by one
number, the root of their mean squared length, so that C means the same for each, and C chosen on training images.

Shapes: N training rows, M test rows, D numbers of a stage, K classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from unlabeled import progress
from unlabeled.distributed import broadcast_object, is_main
from unlabeled.errors import DataError
from unlabeled.evaluation.result_cache import Partial
from unlabeled.evaluation.splits import Fold
from unlabeled.metrics import topk_accuracy
from unlabeled.progress import counted
from unlabeled.randomness import seed_from

PENALTIES = (0.01, 0.1, 1.0, 10.0)
"""Values of C that are tried."""
ITERATIONS = 300
"""Passes of the solver at most."""


@dataclass(frozen=True)
class SvmScore:
    """One stage: fractions on the test set, and the C that was chosen."""

    top1: float
    top5: float | None
    validation: float
    C: float


@dataclass(frozen=True)
class SvmProbe:
    """A linear SVM on every stage: `run()` yields (stage/metric, value), fractions."""

    train: Mapping[str, torch.Tensor]
    """Rows [N, D] of each stage."""
    train_labels: torch.Tensor
    """int64 [N]."""
    test: Mapping[str, torch.Tensor]
    """Rows [M, D] of each stage."""
    test_labels: torch.Tensor
    """int64 [M]."""
    classes: int
    """K."""
    folds: Sequence[Fold]
    """Positions in the training rows to learn from and to choose on; one that has a single class to learn from is left out."""
    penalties: tuple[float, ...] = PENALTIES
    seed: int = 0
    partial: Partial = field(default_factory=Partial)
    name: str = "svm"

    def run(self) -> Iterator[tuple[str, float]]:
        """`conv1/top1`, `conv1/top5` (if K > 5) and so on."""
        for stage, score in self.scores().items():
            yield f"{stage}/top1", score.top1
            if score.top5 is not None:
                yield f"{stage}/top5", score.top5

    def scores(self) -> dict[str, SvmScore]:
        """Score of every stage, in order. The first rank computes; every rank gets the scores.

        Raises:
            DataError: there are no two classes to tell apart, in the training rows or in any fold.
            RunError: the work so far cannot be kept.
        """
        folds = self._folds()  # on every rank: where the first alone complained, the others would wait for it
        found: dict[str, SvmScore] = {}
        with progress.bar(f"{self.name}, stages", len(self.train)) as update:
            for number, stage in enumerate(self.train):
                kept = self.partial.read(f"{self.name}-{stage}")
                if kept is None:
                    kept = broadcast_object(dict(vars(self._score(stage, folds))) if is_main() else None)
                    self.partial.write(f"{self.name}-{stage}", kept)
                assert kept is not None
                found[stage] = SvmScore(**kept)
                update(number + 1, stage)
        return found

    def _folds(self) -> list[Fold]:
        usable = [fold for fold in self.folds if len(fold[1]) and len(self.train_labels[fold[0]].unique()) > 1]
        if not usable:
            raise DataError(
                "choosing C needs images of at least 2 classes to learn from beside those it is chosen on, and the "
                f"{counted(len(self.train_labels), 'training image')} are of "
                f"{counted(len(self.train_labels.unique()), 'class', 'classes')}; label more images of each class."
            )
        return usable

    def _score(self, stage: str, folds: Sequence[Fold]) -> SvmScore:
        rows = self.train[stage].double()
        scale = rows.square().sum(1).mean().sqrt().clamp(min=1e-12)
        own, asked = compact(rows / scale, self.test[stage].double() / scale)
        train, test, labels = own.numpy(), asked.numpy(), self.train_labels.numpy()

        def tried(own: NDArray[np.int64], chosen: NDArray[np.int64]) -> torch.Tensor:
            scores = [self._decided(train[own], labels[own], train[chosen], c) for c in self.penalties]
            return torch.tensor([topk_accuracy(score, labels[chosen]) for score in scores])

        # As arrays: NumPy takes a tensor of one row for a number, and gives that row without its dimension.
        accuracy = torch.stack([tried(own.numpy(), chosen.numpy()) for own, chosen in folds]).mean(0)
        best = int(accuracy.argmax())
        decided = self._decided(train, labels, test, self.penalties[best])
        return SvmScore(
            top1=topk_accuracy(decided, self.test_labels),
            top5=topk_accuracy(decided, self.test_labels, 5) if self.classes > 5 else None,
            validation=float(accuracy[best]),
            C=self.penalties[best],
        )

    def _decided(
        self, train: NDArray[np.float64], labels: NDArray[np.int64], test: NDArray[np.float64], penalty: float
    ) -> NDArray[np.float64]:
        """Distances [M, K] to the planes; minus infinity for a class without a training row."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.svm import LinearSVC

        machine = LinearSVC(
            C=penalty, dual="auto", max_iter=ITERATIONS, random_state=seed_from(self.seed, "svm") % 2**31
        )
        with warnings.catch_warnings():
            # A plane that is nearly settled is as good: it is judged by its score.
            warnings.simplefilter("ignore", ConvergenceWarning)
            machine.fit(train, labels)
        found = machine.decision_function(test)
        scores = np.full((len(test), self.classes), -np.inf)
        scores[:, machine.classes_] = np.stack([-found, found], 1) if found.ndim == 1 else found
        return scores


def compact(train: torch.Tensor, test: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows [N, D] and [M, D] in an orthonormal basis of what the training rows span, [N, N] and [M, N], if N < D.

    A plane of least norm lies in that span, so nothing is lost and the solver has fewer numbers to run through.
    """
    if len(train) >= train.shape[1]:
        return train, test
    basis = torch.linalg.qr(train.T).Q
    return train @ basis, test @ basis
