"""Few labels: low-shot and semi-supervised classification, the whole network fine-tuned, against training from scratch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch

from unlabeled import progress
from unlabeled.device import resolve_precision
from unlabeled.errors import ConfigError, DataError
from unlabeled.evaluation.crops import CropCount, ten_crop_views
from unlabeled.evaluation.few_labels import Contest, FewShotImages
from unlabeled.evaluation.fine_tuning import FineTuning
from unlabeled.evaluation.low_shot import DRAWS, GRID, SHOTS, STEPS, LowShotProtocol, largest_shots
from unlabeled.evaluation.semi_supervised import FRACTIONS, PAPER, SemiSupervisedProtocol
from unlabeled.protocols.driver import Request
from unlabeled.protocols.inputs import labelled_split
from unlabeled.randomness import generator
from unlabeled.runs.images import make_loader
from unlabeled.runs.opened import OpenedRun

QUICK_SHOTS, QUICK_FRACTIONS, QUICK_DRAWS = (1, 10), (0.01, 0.1), 3
QUICK_BATCH, QUICK_STEPS, QUICK_VIEWS, QUICK_TEST = 32, 40, 1500, 300
"""Of a quick evaluation: images and steps of a low-shot training, views of a semi-supervised one, images scored."""
NO_COLOUR = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, "grey": 0.0, "blur": 0.0}
"""Views to fine-tune on are cut and mirrored as the run's own, their colours left as they are: a few labelled images
are learned in fewer steps, and views made so stay bytes and are several times cheaper."""

Number = TypeVar("Number", int, float)


def low_shot(
    run: OpenedRun,
    asked: Request,
    *,
    shots: str | Sequence[int] | None = None,
    draws: int | None = None,
    frozen: bool = False,
    crops: CropCount | None = None,
) -> dict[str, Any]:
    """Low-shot classification (thesis section 5.2): n labelled images a class, mean and 95 % interval over random draws.

    `shots`: numbers of images a class, "1,4,10,50" unless given; `draws`: 10; `frozen`: train a linear head only; `crops`: "ten"
    views of a test image, or "one", as a quick call. Keys: `shots`, for each n `images`, `top1`, `scratch` (the untrained
    network, trained on the same images), `gain`, each with its `ci95`, and top-5 of more than five classes; `spread`,
    every draw and the learning rates chosen; `chance`, `draws`, `train_images`, `test_images`.
    """
    wanted = _numbers("shots", shots, int, QUICK_SHOTS if asked.quick else SHOTS)
    count = _draws(draws, QUICK_DRAWS if asked.quick else DRAWS)
    contest, how = _contest(run, asked, crops, frozen)
    possible, smallest = largest_shots(contest.train.labels[contest.train.rows], wanted)
    if not possible:
        raise DataError(
            f"low-shot with {progress.counted(wanted[0], 'image')} a class needs that many labelled training images in every "
            f"class, the smallest has {smallest}; give --shots {smallest} or label more."
        )
    if possible != wanted:
        left = ", ".join(str(n) for n in wanted if n not in possible)
        progress.say(f"Note: {left} images a class are left out: the smallest class has {smallest} to learn from.")
    # A quick evaluation has no time to choose: the first of the grid is taken.
    grid, steps = (GRID[:1], QUICK_STEPS) if asked.quick else (GRID, STEPS)
    protocol = LowShotProtocol(contest, possible, count, grid, steps, run.config.seed, how)
    return {**dict(protocol.run()), **_facts(contest, count)}


def semi_supervised(
    run: OpenedRun,
    asked: Request,
    *,
    fractions: str | Sequence[float] | None = None,
    draws: int | None = None,
    crops: CropCount | None = None,
) -> dict[str, Any]:
    """Semi-supervised classification (Wu et al. 2018, section 4.3): a share of the training images has labels.

    `fractions`: "0.01,0.02,0.04,0.1,0.2" unless given; `draws`: 3; `crops`: as of low-shot. Keys: `fractions`, for each share
    ("1%") a row as of low-shot's `shots`; `spread`; `chance`, `draws`, `train_images`, `test_images`.
    """
    wanted = _numbers("fractions", fractions, float, QUICK_FRACTIONS if asked.quick else FRACTIONS)
    if wanted[-1] > 1:
        raise ConfigError(f"--fractions are shares between 0 and 1, got {wanted[-1]:g}; 0.01 is one per cent.")
    count = _draws(draws, QUICK_DRAWS)
    contest, how = _contest(run, asked, crops)
    protocol = SemiSupervisedProtocol(
        contest,
        wanted,
        count,
        run.config.seed,
        QUICK_VIEWS if asked.quick else None,
        replace(how, epochs=PAPER.epochs, batch_size=QUICK_BATCH if asked.quick else PAPER.batch_size),
    )
    return {**dict(protocol.run()), **_facts(contest, count)}


def _contest(
    run: OpenedRun, asked: Request, crops: CropCount | None, frozen: bool = False
) -> tuple[Contest, FineTuning]:
    """The trained network and the one it began as, the images, and what is the same in all trainings."""
    if crops not in (None, "one", "ten"):
        raise ConfigError(f"--crops of few labels is 'one' or 'ten', got '{crops}'.")
    # Shares of the images and images a class are to mean the same in a quick call: fewer are scored, fewer views trained on.
    images = labelled_split(run, asked)
    device = next(run.backbone.parameters()).device
    config = run.config.replace(**NO_COLOUR)
    first, last = images.stores[0], images.stores[-1]
    # Rows count through the stores: those of a second one begin after the first.
    begin = len(images.labels) - len(last)
    loader = make_loader(first, config, device)
    test = images.test - begin
    if asked.quick and len(test) > QUICK_TEST:
        chosen = torch.randperm(len(test), generator=generator(run.config.seed, "quick test"))[:QUICK_TEST]
        test = test[chosen.sort().values]
    scored = loader if first is last else make_loader(last, config, device)
    ten = (crops or ("one" if asked.quick else "ten")) == "ten"
    contest = Contest(
        {"trained": run.backbone, "scratch": run.untrained_backbone()},
        FewShotImages(loader, images.labels[: len(first)], images.train),
        FewShotImages(scored, images.labels[begin:], test, ten_crop_views(scored) if ten else None),
        len(images.class_names),
        asked.partial,
        frozen,
    )
    dtype = resolve_precision(run.config.precision, device)
    return contest, FineTuning(batch_size=QUICK_BATCH if asked.quick else PAPER.batch_size, dtype=dtype)


def _facts(contest: Contest, draws: int) -> dict[str, Any]:
    commonest = torch.bincount(contest.train.labels[contest.train.rows]).argmax()
    return {
        # What always answering the commonest class would score.
        "chance": float((contest.test.labels[contest.test.rows] == commonest).double().mean()),
        "draws": draws,
        "train_images": len(contest.train.rows),
        "test_images": len(contest.test.rows),
    }


def _numbers(
    name: str, given: str | Sequence[Number] | None, kind: type[Number], default: Sequence[Number]
) -> list[Number]:
    """Numbers above 0, each once and rising, from a list or from text with commas."""
    parts = given.split(",") if isinstance(given, str) else default if given is None else given
    try:
        values = sorted({kind(part) for part in parts})
    except ValueError:
        values = []
    if not values or not values[0] > 0:
        wanted = "whole numbers of at least 1" if kind is int else "numbers above 0 and at most 1"
        example = ",".join(f"{value:g}" for value in default)
        raise ConfigError(f"--{name} must be {wanted}, with commas between, got '{given}'; give for example {example}.")
    return values


def _draws(given: int | None, default: int) -> int:
    if given is not None and given < 1:
        raise ConfigError(f"--draws must be at least 1, got {given}; an interval needs 2, the thesis drew 10 times.")
    return default if given is None else given
