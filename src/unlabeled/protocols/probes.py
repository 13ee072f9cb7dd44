"""Classifiers on the frozen network: linear probes of every stage, a perceptron, a support vector machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from unlabeled.device import resolve_precision
from unlabeled.errors import ConfigError
from unlabeled.evaluation.crops import CropCount, RowViews
from unlabeled.evaluation.frozen import Central, FrozenRows, Part
from unlabeled.evaluation.knn import split
from unlabeled.evaluation.linear import DECAYS, RATES, LinearProbe
from unlabeled.evaluation.selection import evenly
from unlabeled.evaluation.stages import StageFeatures, parse_stages
from unlabeled.images import make_loader
from unlabeled.models import Backbone
from unlabeled.protocols.labelled import LabelledSplit, labelled_split
from unlabeled.protocols.request import Request

if TYPE_CHECKING:
    from unlabeled.run import Run

EPOCHS = 90
"""Of the published probes."""
QUICK_EPOCHS = 20
QUICK_TRAIN, QUICK_TEST = 2000, 1000
"""Images of a quick call at most."""
VALIDATION = 0.1
"""Share of the training images that the best epoch and the hyper-parameters are chosen on."""
VALIDATION_IMAGES = 10_000
"""And so many at most."""


@dataclass(frozen=True)
class ProbeImages:
    """Labelled images of a probe: what it learns from, chooses on and is scored on."""

    images: LabelledSplit
    part: Part
    test: torch.Tensor
    views: RowViews

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.images.class_names)

    def facts(self) -> dict[str, Any]:
        """How many images of each sort, and what always answering the commonest class would score."""
        labels = self.images.labels
        commonest = torch.bincount(labels[self.part.train]).argmax()
        return {
            "chance": float((labels[self.test] == commonest).double().mean()),
            "train_images": len(self.part.train),
            "validation_images": len(self.part.validation),
            "test_images": len(self.test),
        }

    def rows(self, run: Run, backbone: Backbone, network: torch.nn.Module, title: str, cached: bool) -> FrozenRows:
        """What a classifier on `network` sees, rows of the central view computed when first needed."""
        part = self.part
        kept = torch.cat([part.train, part.validation]) if cached else part.validation
        central = Central(network, self.views, kept, f"{title}, features")
        return FrozenRows(network, self.views, self.images.labels, part, central, cached, run.config.seed, title)


def probe_images(run: Run, asked: Request) -> ProbeImages:
    """Open the images of a probe; a tenth of the training images is for choosing."""
    images, seed = labelled_split(run, asked), run.config.seed
    train, test = images.train, images.test
    if asked.quick:
        train, test = (
            evenly_by_class(images.labels, train, QUICK_TRAIN),
            evenly_by_class(images.labels, test, QUICK_TEST),
        )
    share = min(VALIDATION, VALIDATION_IMAGES / len(train))
    kept, chosen = (torch.from_numpy(rows) for rows in split(images.labels[train], share, seed))
    device = next(run.backbone.parameters()).device
    views = RowViews(tuple(make_loader(store, run.config, device) for store in images.stores))
    return ProbeImages(images, Part(train[kept], train[chosen]), test, views)


def evenly_by_class(labels: torch.Tensor, rows: torch.Tensor, most: int) -> torch.Tensor:
    """At most `most` rows, evenly spaced through the rows in the order of their classes; sorted."""
    return evenly(rows[labels[rows].argsort(stable=True)], most).sort().values


def linear(
    run: Run,
    asked: Request,
    *,
    stages: str | None = None,
    epochs: int | None = None,
    lr: float | None = None,
    weight_decay: float | None = None,
    folds: int = 1,
    crops: CropCount | None = None,
) -> dict[str, Any]:
    """Linear probes on the stages (thesis tables 5.3 and 5.4, DeepCluster table 1), trained and untrained network.

    Keys: `top1`, `top5` and `stage`, the stage that was best on the validation part; `untrained`, the same of the
    untrained network; `chance`, counts of images, and `stages`: for each stage top-1 and top-5 of the last and of the
    best epoch, and the hyper-parameters chosen.
    """
    check_probe(epochs, lr, weight_decay, folds)
    names = parse_stages(stages, run.backbone, output=False)
    data = probe_images(run, asked)

    def scores(backbone: Backbone, title: str) -> dict[str, dict[str, Any]]:
        features = stage_features(run, backbone, names)
        probe = LinearProbe(
            data.rows(run, backbone, features, title, cached=asked.quick),
            features.dims,
            data.test,
            data.classes,
            epochs=epochs or (QUICK_EPOCHS if asked.quick else EPOCHS),
            rates=RATES if lr is None else (lr,),
            decays=(weight_decay,) if weight_decay is not None else DECAYS[-1:] if asked.quick else DECAYS,
            folds=folds,
            crops=crops or ("one" if asked.quick else "ten"),
            partial=asked.partial,
            name=title,
        )
        return {stage: dict(vars(score)) for stage, score in probe.scores().items()}

    trained, untrained = scores(run.backbone, "trained"), scores(run.untrained_backbone(), "untrained")
    best, before = best_stage(trained), best_stage(untrained)
    table = {stage: trained[stage] | {"untrained": untrained[stage]["top1"]} for stage in trained}
    top5 = {"top5": trained[best]["top5"]} if trained[best]["top5"] is not None else {}
    head = {"top1": trained[best]["top1"], **top5, "stage": best, "untrained": untrained[before]["top1"]}
    return {**head, **data.facts(), "stages": table}


def best_stage(scores: dict[str, dict[str, Any]]) -> str:
    """The stage with the highest accuracy on the validation part."""
    return max(scores, key=lambda stage: scores[stage]["validation"])


def stage_features(run: Run, backbone: Backbone, stages: Sequence[str]) -> StageFeatures:
    """Pooled maps of these stages in the run's precision."""
    device = next(backbone.parameters()).device
    dtype = resolve_precision(run.config.precision, device)
    return StageFeatures(backbone, stages, run.record.channels, dtype=dtype)


def check_probe(epochs: int | None, lr: float | None, weight_decay: float | None, folds: int) -> None:
    """Raise ConfigError for hyper-parameters nobody can train with."""
    if epochs is not None and epochs < 1:
        raise ConfigError(f"epochs must be at least 1, got {epochs}; the papers train {EPOCHS}.")
    if lr is not None and not lr > 0:
        raise ConfigError(f"lr must be above 0, got {lr}; the papers begin at 0.01.")
    if weight_decay is not None and not weight_decay >= 0:
        raise ConfigError(f"weight_decay must be at least 0, got {weight_decay}; the papers use 0.0001.")
    if folds < 1:
        raise ConfigError(f"folds must be at least 1 (one held-out part), got {folds}.")
