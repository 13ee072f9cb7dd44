"""Few labels: which images are labelled in a draw, what a network makes of them, and how sure a mean over draws is.

Low-shot and semi-supervised evaluation differ in how many labels there are and how long is trained; the rest is here.

Shapes: N images of a store, M labelled rows, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch

from unlabeled.data.loading import Loader
from unlabeled.errors import DataError
from unlabeled.evaluation.fine_tuning import FineTuning, Views, accuracy, classifier, fine_tune, outputs
from unlabeled.evaluation.result_cache import Partial
from unlabeled.evaluation.splits import folds_of
from unlabeled.models import Backbone
from unlabeled.randomness import numpy_generator

CONFIDENCE = 0.95
"""Of the intervals that are stated."""


@dataclass(frozen=True)
class FewShotImages:
    """Labelled images of one store."""

    loader: Loader
    """Makes their views."""
    labels: torch.Tensor
    """Class of every image of the store, int64 [N], -1 = none."""
    rows: torch.Tensor
    """Rows of the store that take part, int64."""
    views: Views | None = None
    """Views they are scored in, for example ten crops; the central view where None."""


@dataclass(frozen=True)
class Contest:
    """Networks that learn from the same labelled images and are scored on the same others."""

    networks: Mapping[str, Backbone]
    """Backbones by name, `trained` and `scratch`; each training begins from a copy."""
    train: FewShotImages
    """Images to draw from."""
    test: FewShotImages
    """Images of the score, none of them among those of `train`."""
    num_classes: int
    """K."""
    partial: Partial
    """Trials of an earlier call that was stopped."""
    frozen: bool = False
    """Whether only a linear head is trained."""

    def trial(
        self, network: str, rows: torch.Tensor, how: FineTuning, name: str, kept: bool = False
    ) -> dict[str, float]:
        """`top1` and `top5` of one network trained on the labelled `rows`; a trial that was done is not done again.

        `name` is of the draw: all networks of a draw see the same images in the same order and views and begin with the
        same head. `kept`: also keep the training between epochs.
        """
        part = f"{name}-{network}"
        known = self.partial.read(part)
        if known is None:
            trained = self._trained(network, rows, how, part, self.partial if kept else None)
            known = self.score(trained, self.test.rows, how.dtype, self.test)
            self.partial.write(part, known)
            self.partial.forget(f"{part}-training")
        return known

    def _trained(
        self, network: str, rows: torch.Tensor, how: FineTuning, part: str, partial: Partial | None
    ) -> torch.nn.Module:
        module = classifier(self.networks[network], self.num_classes, seed=how.seed, frozen=self.frozen)
        title, name = f"{part}: {len(rows):,} labels", f"{part}-training"
        return fine_tune(
            module, self.train.loader, rows, self.train.labels, how, title=title, partial=partial, name=name
        )

    def score(
        self, network: torch.nn.Module, rows: torch.Tensor, dtype: torch.dtype, images: FewShotImages
    ) -> dict[str, float]:
        """`top1` and `top5` of a trained network on `rows` of `images`."""
        found = outputs(network, images.loader, rows, dtype=dtype, views=images.views)
        return accuracy(found, images.labels[rows])

    def choose(self, network: str, rows: torch.Tensor, hows: Sequence[FineTuning], folds: int, name: str) -> FineTuning:
        """The way to train with the best top-1 in a cross-validation on the labelled `rows` alone (spec E18, D15).

        Every way is trained on all but one of the folds and scored on the last, in turn. The earlier way wins a tie.
        Where a class has one image nothing can be held out, and the first way is taken.
        """
        labels = self.train.labels[rows]
        folds = min(folds, int(torch.bincount(labels)[labels.unique()].min()))
        if folds < 2 or len(hows) < 2:
            return hows[0]
        parts = folds_of(self.train.labels, rows, folds, hows[0].seed)
        part = f"{name}-{network}-choice"
        scores = self.partial.read(part) or []
        for how in hows[len(scores) :]:
            hits = 0.0
            for number, (learned, held) in enumerate(parts, 1):
                trained = self._trained(network, learned, how, f"{part}{len(scores) + 1}-fold{number}", None)
                hits += len(held) * self.score(trained, held, how.dtype, self.train)["top1"]
            scores.append(hits / len(rows))
            self.partial.write(part, scores)
        return hows[scores.index(max(scores))]


def draw(labels: torch.Tensor, rows: torch.Tensor, counts: Mapping[int, int], seed: int, number: int) -> torch.Tensor:
    """Some of `rows` [M] at random, `counts[class]` of each class, sorted; a larger count of the same draw only adds rows.

    Raises DataError if a class has fewer rows than asked for.
    """
    random = numpy_generator(seed, "few labels", number)
    classes, found = labels[rows].numpy(), rows.numpy()
    chosen: list[np.ndarray] = []
    for label in np.unique(classes[classes >= 0]).tolist():
        members = random.permutation(found[classes == label])
        if counts[label] > len(members):
            raise DataError(f"class {label} has {len(members)} labelled images, {counts[label]} were asked for.")
        chosen.append(members[: counts[label]])
    return torch.from_numpy(np.sort(np.concatenate(chosen)))


def spread(values: Sequence[float]) -> dict[str, Any]:
    """`mean`, `std` (of the draws, n - 1) and `ci95`, half the width of Student's 95 % interval of the mean; `values`.

    One draw has neither std nor interval.
    """
    found: dict[str, Any] = {"mean": fmean(values)}
    if len(values) > 1:
        from scipy.stats import t

        found["std"] = stdev(values)
        found["ci95"] = float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * found["std"] / math.sqrt(len(values))
    return found | {"values": list(values)}


def compared(trials: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, Any]:
    """Spread of each metric of each network over the same draws, and of `gain`, `trained` minus `scratch` in each draw."""
    table: dict[str, Any] = {
        network: {metric: spread([trial[metric] for trial in draws]) for metric in draws[0]}
        for network, draws in trials.items()
    }
    pairs = list(zip(trials["trained"], trials["scratch"], strict=True))
    table["gain"] = {metric: spread([ours[metric] - other[metric] for ours, other in pairs]) for metric in pairs[0][0]}
    return table


def summary(images: int, table: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, float | int]:
    """A table of `compared` in one row: `images` labelled, then means and half-widths of their 95 % intervals.

    `top1`, `scratch` and `gain`, each with `..._ci95` (that of top1 is `ci95`) where there were two draws; the same of top-5
    as `top5`, `scratch_top5` and `gain_top5` where it was measured.
    """
    row: dict[str, float | int] = {"images": images}
    for metric in table["trained"]:
        suffix = "" if metric == "top1" else f"_{metric}"
        names = {"trained": metric, "scratch": f"scratch{suffix}", "gain": f"gain{suffix}"}
        for who, name in names.items():
            found = table[who][metric]
            row[name] = found["mean"]
            if "ci95" in found:
                row["ci95" if name == "top1" else f"{name}_ci95"] = found["ci95"]
    return row
