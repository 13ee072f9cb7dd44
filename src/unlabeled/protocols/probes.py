"""Classifiers on the frozen network: linear probes of every stage, a perceptron, a support vector machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from unlabeled.device import resolve_precision
from unlabeled.errors import ConfigError
from unlabeled.evaluation.crops import CropCount, RowViews
from unlabeled.evaluation.frozen_features import Central, FrozenRows, Part
from unlabeled.evaluation.knn import KnnProtocol, split
from unlabeled.evaluation.linear import DECAYS, RATES, LinearProbe
from unlabeled.evaluation.mlp import EPOCHS as MLP_EPOCHS
from unlabeled.evaluation.mlp import WIDTH, Form, LastMap, MlpProbe
from unlabeled.evaluation.splits import Fold, folds_of
from unlabeled.evaluation.stages import StageFeatures, parse_stages
from unlabeled.evaluation.svm import SvmProbe
from unlabeled.models import Backbone
from unlabeled.protocols.driver import Request
from unlabeled.protocols.inputs import QUICK_TRAIN, LabelledSplit, labelled_split
from unlabeled.runs.images import make_loader
from unlabeled.runs.opened import OpenedRun

ProbeSpace = Literal["backbone", "output"]
OUTPUT = "output"
"""The head's output, where it stands for no classes."""
EPOCHS = 90
"""Of the published linear probes."""
QUICK_EPOCHS = 20
QUICK_WIDTH = 512
QUICK_SVM = 800
"""Images that a quick SVM learns from: its solver takes long."""
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

    @property
    def training_rows(self) -> torch.Tensor:
        """All training rows, those for choosing included, sorted."""
        return torch.cat([self.part.train, self.part.validation]).sort().values

    def rows(self, run: OpenedRun, network: torch.nn.Module, title: str, cached: bool) -> FrozenRows:
        """What a classifier on `network` sees, rows of the central view computed when first needed."""
        part = self.part
        kept = self.training_rows if cached else part.validation
        central = Central(network, self.views, kept, f"{title}, features")
        return FrozenRows(network, self.views, self.images.labels, part, central, cached, run.config.seed, title)


def probe_images(run: OpenedRun, asked: Request, most: int | None) -> ProbeImages:
    """Open the images of a probe, at most `most` to learn from; a tenth of them is for choosing."""
    images, seed = labelled_split(run, asked, most), run.config.seed
    train = images.train
    share = min(VALIDATION, VALIDATION_IMAGES / len(train))
    kept, chosen = (torch.from_numpy(rows) for rows in split(images.labels[train], share, seed))
    return ProbeImages(images, Part(train[kept], train[chosen]), images.test, row_views(run, images))


def row_views(run: OpenedRun, images: LabelledSplit) -> RowViews:
    """Views of the rows of these images, on the run's device."""
    device = next(run.backbone.parameters()).device
    return RowViews(tuple(make_loader(store, run.config, device) for store in images.stores))


def stage_votes(run: OpenedRun, images: LabelledSplit, stages: str, voters: int) -> dict[str, dict[str, float]]:
    """kNN of every stage asked for, maps pooled as for the linear probes: `knn`, `nearest` (a single neighbor), `untrained`."""
    names, views = parse_stages(stages, run.backbone, output=True), row_views(run, images)
    labels = images.labels[images.train], images.labels[images.test]

    def votes(backbone: Backbone, title: str) -> dict[str, dict[str, float]]:
        features = stage_features(run, backbone, names)
        train, test = (
            features.parts(Central(features, views, rows, f"{title}, stages").at(rows))
            for rows in (images.train, images.test)
        )
        rows = {stage: (train[stage], labels[0], test[stage], labels[1]) for stage in names}
        temperature = run.config.temperature
        return {stage: dict(KnnProtocol(*rows[stage], k=voters, temperature=temperature).run()) for stage in names}

    trained, untrained = votes(run.backbone, "trained"), votes(run.untrained_backbone(), "untrained")
    return {
        stage: {"knn": found["knn_top1"], "nearest": found["nearest_top1"], "untrained": untrained[stage]["knn_top1"]}
        for stage, found in trained.items()
    }


def linear(
    run: OpenedRun,
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
    check_probe(epochs, lr, weight_decay, folds, crops)
    names = parse_stages(stages, run.backbone, output=False)
    data = probe_images(run, asked, QUICK_TRAIN if asked.quick else None)

    def scores(backbone: Backbone, title: str) -> dict[str, dict[str, Any]]:
        features = stage_features(run, backbone, names)
        probe = LinearProbe(
            data.rows(run, features, title, cached=asked.quick),
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

    return table_of(scores(run.backbone, "trained"), scores(run.untrained_backbone(), "untrained"), data)


def mlp(
    run: OpenedRun,
    asked: Request,
    *,
    form: Form = "nat",
    epochs: int | None = None,
    width: int | None = None,
    lr: float | None = None,
    crops: CropCount | None = None,
) -> dict[str, Any]:
    """A perceptron re-trained on the frozen convolutions (Noise As Targets table 3, thesis table 5.2).

    Keys: `top1`, `top5`, `train_top1`, `best_top1` (of the epoch `best_epoch`, the best on the validation part), `lr` (likewise
    chosen, for the form deepcluster, whose papers do not give it), the same of the untrained network under
    `untrained_network`, its `top1` as `untrained`, `chance` and counts of images.
    """
    check_probe(epochs, lr, None, 1, crops)
    if lr is not None and form == "nat":
        raise ConfigError("the form nat has the published rate, 0.1; --lr is for --form deepcluster.")
    if width is not None and width < 1:
        raise ConfigError(f"width must be at least 1, got {width}; the papers use {WIDTH}.")
    data = probe_images(run, asked, QUICK_TRAIN if asked.quick else None)

    def score(backbone: Backbone, title: str) -> dict[str, Any]:
        network = LastMap(backbone, resolve_precision(run.config.precision, data.views.device))
        probe = MlpProbe(
            data.rows(run, network, title, cached=asked.quick),
            network.inputs(run.record.channels),
            data.test,
            data.classes,
            form=form,
            epochs=epochs or (QUICK_EPOCHS if asked.quick else MLP_EPOCHS[form]),
            width=width or (QUICK_WIDTH if asked.quick else WIDTH),
            rates=() if lr is None else (lr,),
            crops=crops or ("one" if asked.quick else "ten"),
            partial=asked.partial,
            name=title,
        )
        return {metric: value for metric, value in vars(probe.score()).items() if value is not None}

    trained, untrained = score(run.backbone, "trained"), score(run.untrained_backbone(), "untrained")
    return {**trained, "untrained": untrained["top1"], **data.facts(), "untrained_network": untrained}


def svm(
    run: OpenedRun, asked: Request, *, stages: str | None = None, folds: int = 1, space: ProbeSpace = "backbone"
) -> dict[str, Any]:
    """Linear SVM on every stage and on the feature (instance discrimination, tables 1 to 3), trained and untrained network.

    `space` "output" takes the head's output instead, 128 numbers of instance discrimination (its table 1).

    Keys as of `linear`; `stages` holds top-1, top-5, the accuracy on the validation part and the C chosen on it.
    """
    check_probe(None, None, None, folds)
    if space == "output":
        if stages is not None:
            raise ConfigError(
                "--stages are of the backbone; with --space output there is one row for each image: leave one out."
            )
        return _svm_on_output(run, asked, folds)
    names = parse_stages(stages, run.backbone, output=True)
    data = probe_images(run, asked, QUICK_SVM if asked.quick else None)
    rows, seed, positions = data.training_rows, run.config.seed, _positions(data, folds, run.config.seed)

    def scores(backbone: Backbone, title: str) -> dict[str, dict[str, Any]]:
        features = stage_features(run, backbone, names)
        train = Central(features, data.views, rows, f"{title}, features").at(rows)
        test = Central(features, data.views, data.test, f"{title}, test features").at(data.test)
        return _svm_scores(asked, data, features.parts(train), features.parts(test), positions, seed, title)

    return table_of(scores(run.backbone, "trained"), scores(run.untrained_backbone(), "untrained"), data)


def _positions(data: ProbeImages, folds: int, seed: int) -> list[Fold]:
    """Folds as positions in the training rows: those of cross validation, or the validation part held out once."""
    rows = data.training_rows
    parts = [(data.part.train, data.part.validation)]
    if folds > 1:
        parts = folds_of(data.images.labels, rows, folds, seed)
    return [(torch.searchsorted(rows, own), torch.searchsorted(rows, chosen)) for own, chosen in parts]


def _svm_on_output(run: OpenedRun, asked: Request, folds: int) -> dict[str, Any]:
    """The same of the outputs of the method's head, trained and untrained."""
    methods = {"trained": run.method, "untrained": run.untrained_method()}
    if OUTPUT not in methods["trained"].spaces(torch.zeros(2, run.backbone.feature_dim)):
        raise ConfigError(f"{run.config.method} has no space 'output': the outputs of its head stand for classes.")
    data = probe_images(run, asked, QUICK_SVM if asked.quick else None)
    seed, positions = run.config.seed, _positions(data, folds, run.config.seed)

    def scores(title: str) -> dict[str, dict[str, Any]]:
        method = methods[title]
        train, test = (method.outputs(part) for part in data.images.features(run, method.backbone, title))
        return _svm_scores(asked, data, {OUTPUT: train}, {OUTPUT: test}, positions, seed, title)

    return table_of(scores("trained"), scores("untrained"), data)


def _svm_scores(
    asked: Request,
    data: ProbeImages,
    train: Mapping[str, torch.Tensor],
    test: Mapping[str, torch.Tensor],
    positions: Sequence[Fold],
    seed: int,
    title: str,
) -> dict[str, dict[str, Any]]:
    labels = data.images.labels
    probe = SvmProbe(
        train,
        labels[data.training_rows],
        test,
        labels[data.test],
        data.classes,
        positions,
        seed=seed,
        partial=asked.partial,
        name=title,
    )
    return {stage: dict(vars(score)) for stage, score in probe.scores().items()}


def table_of(
    trained: dict[str, dict[str, Any]], untrained: dict[str, dict[str, Any]], data: ProbeImages
) -> dict[str, Any]:
    """Scores by stage as the result of a protocol; the headline stage is the one that was best on the validation part."""
    best, before = best_stage(trained), best_stage(untrained)
    table = {stage: trained[stage] | {"untrained": untrained[stage]["top1"]} for stage in trained}
    top5 = {"top5": trained[best]["top5"]} if trained[best]["top5"] is not None else {}
    head = {"top1": trained[best]["top1"], **top5, "stage": best, "untrained": untrained[before]["top1"]}
    return {**head, **data.facts(), "stages": table}


def best_stage(scores: dict[str, dict[str, Any]]) -> str:
    """The stage with the highest accuracy on the validation part."""
    return max(scores, key=lambda stage: scores[stage]["validation"])


def stage_features(run: OpenedRun, backbone: Backbone, stages: Sequence[str]) -> StageFeatures:
    """Pooled maps of these stages in the run's precision."""
    device = next(backbone.parameters()).device
    dtype = resolve_precision(run.config.precision, device)
    return StageFeatures(backbone, stages, run.record.channels, dtype=dtype)


def check_probe(
    epochs: int | None, lr: float | None, weight_decay: float | None, folds: int, crops: str | None = None
) -> None:
    """Raise ConfigError for hyper-parameters nobody can train with."""
    if crops not in (None, "one", "ten"):
        raise ConfigError(
            f"a probe is scored on one or ten crops, got '{crops}'; random crops are voc-classification's."
        )
    if epochs is not None and epochs < 1:
        raise ConfigError(f"epochs must be at least 1, got {epochs}; the papers train {EPOCHS}.")
    if lr is not None and not lr > 0:
        raise ConfigError(f"lr must be above 0, got {lr}; the papers begin at 0.01.")
    if weight_decay is not None and not weight_decay >= 0:
        raise ConfigError(f"weight_decay must be at least 0, got {weight_decay}; the papers use 0.0001.")
    if folds < 1:
        raise ConfigError(f"folds must be at least 1 (one held-out part), got {folds}.")
