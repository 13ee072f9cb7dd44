"""Low-shot classification: n labelled images of each class, the whole network fine-tuned, against training from scratch.

The thesis, section 5.2 and figure 5.1 (spec E14, D12, O15): fine-tuned on n images a class of ImageNet, from four on, ten
random draws each, ten crops, hyper-parameters by k-fold cross-validation; the pre-trained network is far above the one
that begins at random, most of all with few images, and the standard deviation over draws is about 0.1. The figure's
values are not printed. Silent: optimiser, values, length; ours are below.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from unlabeled.errors import DataError
from unlabeled.evaluation.few_labels import CONFIDENCE, Contest, compared, draw, summary
from unlabeled.evaluation.fine_tuning import FineTuning, batches_of

SHOTS = (1, 4, 10, 50)
"""Images a class."""
DRAWS = 10
"""Random draws, as in the thesis."""
GRID = (0.01, 0.003, 0.03)
"""Learning rates tried, that of the semi-supervised experiment first; chosen by cross-validation on the drawn images."""
FOLDS = 3
"""Parts of the cross-validation."""
PLAIN = FineTuning()
"""What is the same in every training, unless told otherwise."""
STEPS = 200
"""Steps of a training, whatever n is, so that few images are not also few steps."""


@dataclass(frozen=True)
class LowShotProtocol:
    """Accuracy from n labelled images a class: `run()` yields (metric, value), `table()` all that was measured."""

    contest: Contest
    """The networks and the images."""
    shots: Sequence[int] = SHOTS
    """Numbers of images a class, rising."""
    draws: int = DRAWS
    """Random draws of each number; the draws of a smaller number are part of those of a larger one."""
    grid: Sequence[float] = GRID
    """Learning rates to choose from, on the first draw of each number, for each network; the first where n = 1."""
    steps: int = STEPS
    """Steps of a training."""
    seed: int = 0
    """Of the draws."""
    how: FineTuning = PLAIN
    """What is the same in every training."""

    def run(self) -> Iterator[tuple[str, Any]]:
        """`shots`, a row of means and intervals for every n, and `spread`, the values of all draws behind it."""
        tables = {str(shots): self.table(shots) for shots in self.shots}
        yield "shots", {name: summary(table["images"], table) for name, table in tables.items()}
        yield "spread", {"confidence": CONFIDENCE, **tables}

    def table(self, shots: int) -> dict[str, Any]:
        """Everything for one n: `images`, `lr` of each network, and the spread over draws of networks and gain."""
        images, labels = self.contest.train, self.contest.train.labels
        present = torch.bincount(labels[images.rows], minlength=self.contest.num_classes)
        if (present > 0).sum() < 2:
            raise DataError(f"low-shot needs at least 2 classes with labelled images, got {int((present > 0).sum())}.")
        counts = dict.fromkeys(range(self.contest.num_classes), shots)
        drawn = [draw(labels, images.rows, counts, self.seed, number) for number in range(self.draws)]
        _, steps = batches_of(len(drawn[0]), self.how.batch_size)
        how = replace(self.how, epochs=-(-self.steps // steps), seed=self.seed)
        ways = [replace(how, lr=lr) for lr in self.grid]
        chosen = {
            network: self.contest.choose(network, drawn[0], ways, FOLDS, f"shots{shots}")
            for network in self.contest.networks
        }
        trials = {
            network: [
                self.contest.trial(network, rows, replace(way, seed=self.seed + number), f"shots{shots}-draw{number}")
                for number, rows in enumerate(drawn)
            ]
            for network, way in chosen.items()
        }
        rates = {network: way.lr for network, way in chosen.items()}
        return {"images": len(drawn[0]), "epochs": how.epochs, "lr": rates, **compared(trials)}


def largest_shots(labels: torch.Tensor, shots: Sequence[int]) -> tuple[list[int], int]:
    """Those of `shots` that every class of `labels` has images for, and the size of the smallest class."""
    sizes = torch.bincount(labels[labels >= 0])
    smallest = int(sizes[sizes > 0].min())
    return [n for n in shots if n <= smallest], smallest
