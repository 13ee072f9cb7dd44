"""PASCAL VOC: classification and segmentation on a folder in the layout of its devkit, beside the untrained network.

`split` chooses what is compared with what (spec E19): `val` trains on train and scores on val, for choosing among networks
and settings; `test` trains on trainval and scores on test, once, at the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import torch

from unlabeled import metrics, progress
from unlabeled.data.pixels import ValueRange
from unlabeled.data.store import ImageStore
from unlabeled.data.voc import Task, VocSplit, classification_labels, read_voc
from unlabeled.device import resolve_precision
from unlabeled.errors import ConfigError, DataError, unknown_name
from unlabeled.evaluation.fitting import NormStatistics
from unlabeled.evaluation.voc_classification import (
    DEFINITIONS,
    Crops,
    Trained,
    VocClassificationProtocol,
    VocTraining,
    least_side,
    mean,
)
from unlabeled.evaluation.voc_segmentation import SCORES as SEGMENTATION_SCORES
from unlabeled.evaluation.voc_segmentation import PixelReader, SegmentationTraining, VocSegmentationProtocol
from unlabeled.protocols.driver import Request
from unlabeled.runs.opened import OpenedRun

SPLITS = {"val": ("train", "val"), "test": ("trainval", "test")}
"""What is trained on and what is scored, by the name of the choice."""
SHOWN = 5
"""Sentences about odd files that are printed; all are in the JSON."""

QUICK_CLASSIFICATION = (100, 300, 100)
"""Steps, training and test pictures of a quick classification."""
QUICK_SEGMENTATION = (40, 60, 30)
"""Likewise of a quick segmentation."""
QUICK_BATCH, QUICK_LR = 4, 0.01
"""Pictures of a step of a quick segmentation and its learning rate: the published one is for 100,000 steps."""


def voc_classification(
    run: OpenedRun,
    asked: Request,
    *,
    train: str = "fc",
    split: str = "test",
    steps: int | None = None,
    lr: float | None = None,
    crops: str = "random",
    train_norm_scales: bool = False,
    fold_norm: bool = False,
    norm_statistics: str = "measured",
) -> dict[str, Any]:
    """Mean average precision of classification (see `evaluation.voc_classification`), trained and untrained network.

    Keys: `map` (the published definition: area in steps), `map_11_point`, `map_envelope`, `map_trapezoid`, `untrained`
    (as `map`), `chance` (mean share of pictures with a class), `steps`, `train_images`, `test_images`; tables `per_class`,
    `untrained_per_class`, `skipped`, pictures left out with the reason, and `notes`, sentences about objects left out.
    """
    _known("train", train, get_args(Trained))
    _known("crops", crops, get_args(Crops))
    _known("norm_statistics", norm_statistics, get_args(NormStatistics))
    quick = QUICK_CLASSIFICATION if asked.quick else (None, None, None)
    how = VocTraining(
        "all" if train == "all" else "fc",
        _steps(steps, quick[0] or VocTraining.steps),
        _rate(lr),
        crops="ten" if crops == "ten" else "random",
        train_norm_scales=train_norm_scales,
        fold_norm=fold_norm,
        norm_statistics="kept" if norm_statistics == "kept" else "measured",
        seed=run.config.seed,
    )
    learned, scored = _splits(asked, split, "Main", quick[1:])
    (store, labels), (test, test_labels) = (_opened(run, part) for part in (learned, scored))
    device = next(run.backbone.parameters()).device
    how = replace(how, dtype=resolve_precision(run.config.precision, device))

    def protocol(name: str) -> VocClassificationProtocol:
        backbone = run.backbone if name == "trained" else run.untrained_backbone()
        return VocClassificationProtocol(
            *(backbone, store, labels, test, test_labels), how, device, asked.partial, name
        )

    trained, untrained = protocol("trained").per_class(), protocol("untrained").per_class()
    names = learned.class_names
    known = test_labels != 0
    shares = ((test_labels > 0).double().sum(0) / known.sum(0).clamp(min=1)).numpy()
    scores: dict[str, Any] = {
        "map": mean(trained["step"]),
        **{f"map_{one.replace('-', '_')}": mean(trained[one]) for one in DEFINITIONS if one != "step"},
        "untrained": mean(untrained["step"]),
        "chance": float(shares[~np.isnan(trained["step"])].mean()),
        "steps": how.steps,
        "train_images": len(store),
        "test_images": len(test),
        "per_class": _by_class(names, trained["step"]),
        "untrained_per_class": _by_class(names, untrained["step"]),
        "skipped": dict(learned.skipped + store.skipped + scored.skipped + test.skipped),
        "notes": notes_of((learned, scored)),
    }
    scores |= nothing_learned(scores, "map", scores["chance"])
    return by_layers(
        run, "voc-classification", how.train, split, scores, "map", steps=how.steps, crops=how.crops, lr=how.lr
    )


def voc_segmentation(
    run: OpenedRun,
    asked: Request,
    *,
    train: str = "fc",
    split: str = "val",
    steps: int | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
    norm_statistics: str = "measured",
) -> dict[str, Any]:
    """Mean intersection over union of segmentation (see `evaluation.voc_segmentation`), trained and untrained network.

    Keys: `mean_iou`, `pixel_accuracy`, `mean_accuracy`, `weighted_iou`, `untrained` (as `mean_iou`), `all_background` (that of
    calling every pixel background), `nothing_learned` (a sentence, where that is all they reach), `steps`, `train_images`,
    `test_images`; tables `per_class`, `untrained_per_class`, `skipped`, pictures left out with the reason, and `notes`,
    sentences about objects left out.
    """
    _known("train", train, get_args(Trained))
    _known("norm_statistics", norm_statistics, get_args(NormStatistics))
    quick = QUICK_SEGMENTATION if asked.quick else (None, None, None)
    if batch_size is not None and batch_size < 1:
        raise ConfigError(
            f"batch_size must be at least 1, got {batch_size}; published: {SegmentationTraining.batch_size}."
        )
    device = next(run.backbone.parameters()).device
    how = SegmentationTraining(
        "all" if train == "all" else "fc",
        _steps(steps, quick[0] or SegmentationTraining.steps),
        _rate(lr) or (QUICK_LR if asked.quick else SegmentationTraining.lr),
        batch_size or (QUICK_BATCH if asked.quick else SegmentationTraining.batch_size),
        run.config.seed,
        resolve_precision(run.config.precision, device),
        "kept" if norm_statistics == "kept" else "measured",
    )
    learned, scored = _splits(asked, split, "Segmentation", quick[1:])
    record = run.record
    low, high, clipped = (record.value_range[key] for key in ("low", "high", "share_clipped"))
    pixels = PixelReader(record.channels, ValueRange(tuple(low), tuple(high), clipped))

    def protocol(name: str) -> VocSegmentationProtocol:
        backbone = run.backbone if name == "trained" else run.untrained_backbone()
        return VocSegmentationProtocol(backbone, learned, scored, pixels, how, device, asked.partial, name)

    counts, before = protocol("trained").counts(), protocol("untrained").segmentation()
    found, names = metrics.segmentation_scores(counts), ["background", *learned.class_names]
    background = np.zeros_like(counts)
    background[:, 0] = counts.sum(1)
    scores: dict[str, Any] = {
        **{name: getattr(found, name) for name in SEGMENTATION_SCORES},
        "untrained": before.mean_iou,
        "all_background": metrics.segmentation_scores(background).mean_iou,
        "steps": how.steps,
        "train_images": len(learned.images),
        "test_images": len(scored.images),
        "per_class": _by_class(names, found.iou),
        "untrained_per_class": _by_class(names, before.iou),
        "skipped": dict(learned.skipped + scored.skipped),
        "notes": notes_of((learned, scored)),
    }
    scores |= nothing_learned(scores, "mean_iou", scores["all_background"])
    return by_layers(
        run,
        "voc-segmentation",
        how.train,
        split,
        scores,
        "mean_iou",
        steps=how.steps,
        batch_size=how.batch_size,
        lr=how.lr,
    )


def _splits(asked: Request, split: str, task: Task, most: Sequence[int | None]) -> tuple[VocSplit, VocSplit]:
    """What is trained on and what is scored, evenly thinned to `most` pictures each, and sentences about odd files."""
    if asked.test is not None:
        raise DataError("VOC's own lists say what is scored: give --split val or --split test, and no --test.")
    _known("split", split, SPLITS)
    first, second = SPLITS[split]
    learned = read_voc(asked.data, first, task=task, decode_all=task == "Segmentation")
    scored = read_voc(asked.data, second, task=task, class_names=learned.class_names, decode_all=task == "Segmentation")
    tell((learned, scored))
    return _thinned(learned, most[0]), _thinned(scored, most[1])


def tell(splits: Sequence[VocSplit]) -> None:
    """Say what was odd in some splits: the first sentences, and where the others are."""
    told = [sentence for split in splits for _, sentence in split.skipped]
    told += [note for split in splits for note in split.notes]
    for sentence in told[:SHOWN]:
        progress.say(f"Note: {sentence}")
    if len(told) > SHOWN:
        progress.say(f"Note: and {len(told) - SHOWN:,} more, all listed under skipped and notes in --json FILE.")


def notes_of(splits: Sequence[VocSplit]) -> dict[str, str]:
    """Sentences about objects that were clipped or left out, by number."""
    notes = [note for split in splits for note in split.notes]
    return {str(number): note for number, note in enumerate(notes, start=1)}


def _thinned(split: VocSplit, most: int | None) -> VocSplit:
    count = len(split.images)
    if most is None or count <= most:
        return split
    return replace(split, images=[split.images[i * count // most] for i in range(most)])


def _opened(run: OpenedRun, split: VocSplit) -> tuple[ImageStore, torch.Tensor]:
    """The pictures, large enough for the smallest view, and their labels [N, C]."""
    record = replace(run.record, store_size=max(run.record.store_size, least_side(run.backbone.image_size)))
    store = record.open(split.source(), title=f"reading {split.split}")
    return store, classification_labels(split)[torch.from_numpy(store.index_in_source)]


def _by_class(names: Sequence[str], values: np.ndarray) -> dict[str, float]:
    return {name: value for name, value in zip(names, values.tolist(), strict=True) if not math.isnan(value)}


def _known(what: str, value: str, known: Sequence[str] | dict[str, Any]) -> None:
    if value not in known:
        raise ConfigError(unknown_name(what, value, known))


def _steps(steps: int | None, default: int) -> int:
    if steps is not None and steps < 1:
        raise ConfigError(f"steps must be at least 1, got {steps}; published: {default:,}.")
    return steps or default


def _rate(lr: float | None) -> float | None:
    if lr is not None and not 0 < lr < math.inf:
        raise ConfigError(f"lr must be above 0, got {lr}; leave it out for the published one.")
    return lr


CLEARLY = 0.01
"""What a score must have beyond one that nothing was learned for."""


def by_layers(
    run: OpenedRun, protocol: str, train: str, split: str, scores: dict[str, Any], key: str, **settings: Any
) -> dict[str, Any]:
    """`scores` with a table `layers`: by what was trained, "fc" or "all", the number under `key` and the untrained one.

    Rows of an earlier scoring are kept where it was of the same split, as many pictures and the same `settings` (steps,
    detector and the like): others cannot be compared.
    """
    same = {"split": split, "train_images": scores["train_images"], "test_images": scores["test_images"], **settings}
    row = {"score": scores[key], "untrained": scores["untrained"], **same}
    before = run.scores.get(protocol, {}).get("layers", {})
    kept = {name: old for name, old in before.items() if all(old.get(fact) == value for fact, value in same.items())}
    return scores | {"layers": kept | {train: row}}


def nothing_learned(scores: dict[str, Any], key: str, nothing: float) -> dict[str, str]:
    """A sentence where neither network is clearly above what an answer that has learned nothing scores; it is also said."""
    best = max(scores[key], scores["untrained"])
    if best > nothing + CLEARLY:
        return {}
    sentence = (
        f"Neither network has learned the task in {scores['steps']:,} steps: {100 * scores[key]:.1f} and "
        f"{100 * scores['untrained']:.1f} %, where an answer that learned nothing gets {100 * nothing:.1f} %; their difference "
        "says nothing. Leave out --quick, or give more --steps."
    )
    progress.say(f"Note: {sentence}")
    return {"nothing_learned": sentence}
