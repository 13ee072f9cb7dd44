"""Semi-supervised learning: a share of the training images is labelled, the whole network is fine-tuned on them.

Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination" (CVPR 2018), section 4.3 and figure 6
(spec E15, D11, O14): 1, 2, 4, 10 and 20 % of ImageNet labelled, the network trained on all images without labels, then
fine-tuned for 70 epochs with a learning rate of 0.01, a tenth of it after every 30; momentum 0.9 and weight decay 1e-4, on
which the paper is silent. Published: top-5 ten points above the next best at 1 %; the other values are only in the figure.
The baseline is the same network trained on the same labelled images from scratch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from unlabeled.evaluation.few_labels import CONFIDENCE, Contest, compared, draw, summary
from unlabeled.evaluation.fine_tuning import FineTuning

FRACTIONS = (0.01, 0.02, 0.04, 0.1, 0.2)
"""Shares of the training images that are labelled."""
PAPER = FineTuning(epochs=70)
"""As in the paper: 70 epochs from a rate of 0.01, falling after the 30th and 60th."""
STEPS_OF_AN_EPOCH = 8
"""Batches are made smaller where an epoch would have fewer steps: 1 % of a small set is a batch or two."""
FEWEST = 8
"""Images of a batch at least: batch statistics of fewer say little."""


@dataclass(frozen=True)
class SemiSupervisedProtocol:
    """Accuracy from a labelled share: `run()` yields (metric, value)."""

    contest: Contest
    """The networks and the images."""
    fractions: Sequence[float] = FRACTIONS
    """Labelled shares of the training images, each class in proportion and with one image at least."""
    draws: int = 3
    """Random draws of each share; the paper does not say how many."""
    seed: int = 0
    """Of the draws."""
    most_views: int | None = None
    """Views of one training at most, by fewer epochs; None trains all epochs."""
    how: FineTuning = PAPER
    """How to train; its batch is the largest."""

    def run(self) -> Iterator[tuple[str, Any]]:
        """`fractions`, a row of means and intervals for every share ("1%"), and `spread`, the values of all draws."""
        names = {f"{100 * fraction:g}%": fraction for fraction in self.fractions}
        tables = {name: self.table(fraction, name) for name, fraction in names.items()}
        yield "fractions", {name: summary(table["images"], table) for name, table in tables.items()}
        yield "spread", {"confidence": CONFIDENCE, **tables}

    def table(self, fraction: float, name: str) -> dict[str, Any]:
        """Everything for one share: `images`, `epochs`, `batch`, and the spread over draws of networks and gain."""
        images = self.contest.train
        counts = class_counts(images.labels[images.rows], fraction)
        drawn = [draw(images.labels, images.rows, counts, self.seed, number) for number in range(self.draws)]
        labelled = len(drawn[0])
        epochs = self.how.epochs if self.most_views is None else min(self.how.epochs, self.most_views // labelled)
        how = replace(self.how, epochs=max(epochs, 1), batch_size=batch_for(labelled, self.how.batch_size))
        trials = {
            network: [
                self.contest.trial(network, rows, replace(how, seed=self.seed + i), f"share{name[:-1]}-draw{i}", True)
                for i, rows in enumerate(drawn)
            ]
            for network in self.contest.networks
        }
        return {"images": labelled, "epochs": how.epochs, "batch": how.batch_size, **compared(trials)}


def class_counts(labels: torch.Tensor, fraction: float) -> dict[int, int]:
    """How many images of each class are labelled: the share of its images, rounded, one at least."""
    sizes = torch.bincount(labels[labels >= 0]).tolist()
    return {label: max(round(fraction * size), 1) for label, size in enumerate(sizes) if size}


def batch_for(labelled: int, most: int) -> int:
    """Images of a batch: `most`, or fewer for about eight steps an epoch, but eight images at least."""
    return min(most, max(labelled // STEPS_OF_AN_EPOCH, FEWEST))
