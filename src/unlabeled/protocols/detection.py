"""`evaluate voc-detection`: a region detector fine-tuned from the run's network, beside the same from the untrained one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from unlabeled import progress
from unlabeled.data.decode import decode
from unlabeled.data.pixels import Undecodable, ValueRange, scale_to_uint8, to_channels
from unlabeled.data.source import file_fingerprint, read_file
from unlabeled.data.voc import VocImage, VocSplit, read_voc
from unlabeled.device import resolve_precision
from unlabeled.distributed import all_gather_rows, all_reduce_sum, broadcast_object, is_main, rank, shard, world_size
from unlabeled.errors import ConfigError, DataError, unknown_name
from unlabeled.evaluation.detection import proposals as selective
from unlabeled.evaluation.detection.boxes import overlap
from unlabeled.evaluation.detection.proposals import read_proposals
from unlabeled.evaluation.detection.rcnn import DetectorName
from unlabeled.evaluation.fitting import SAVE_SECONDS, NormStatistics
from unlabeled.evaluation.result_cache import Partial
from unlabeled.evaluation.voc_classification import Trained
from unlabeled.evaluation.voc_detection import Detecting, DetectionImages, VocDetectionProtocol, table
from unlabeled.models import Backbone
from unlabeled.protocols.driver import Request
from unlabeled.protocols.voc import by_layers, notes_of, nothing_learned, tell
from unlabeled.runs.images import default_cache
from unlabeled.runs.opened import OpenedRun

SIDE, VIEW = 600, 224
"""The papers' short side, and the views their networks were built for: others get a side in proportion, at least 128."""
QUICK = Detecting(side=128, steps=80, lr=1e-2, regions=32)
QUICK_IMAGES = 40
QUICK_PROPOSALS = 300
"""What `--quick` takes: settings, pictures of each split, proposals of a picture."""
LOTTERY = 0.02
"""Average precision that boxes of no meaning reach on a few pictures: one right box out of hundreds."""
SPLITS = {"val": ("train", "val"), "test": ("trainval", "test")}
"""By the split that is scored: what is learnt from, and what is scored."""


def voc_detection(
    run: OpenedRun,
    asked: Request,
    *,
    detector: str = "fast",
    train: str = "all",
    split: str = "test",
    proposals: str | Path | None = None,
    side: int | None = None,
    steps: int | None = None,
    lr: float | None = None,
    norm_statistics: str = "measured",
) -> dict[str, Any]:
    """Detection on VOC's trainval and test (DeepCluster Tables 2 and 4, spec E10), trained and untrained.

    `split` "val" learns from train and scores on val instead, for choosing settings without a look at the test pictures.

    Keys: `map_11_point`, `map_area`, `untrained`, `untrained_area`, `proposal_recall` (share of the test pictures'
    objects that a proposal overlaps by half; not with `faster`), `train_images`, `test_images`, and the tables
    `per_class`, `untrained_per_class` (11-point), `skipped`, pictures left out with the reason, `notes`, sentences about
    objects left out, and `settings`.

    Raises:
        ConfigError: an option out of range, or a loss that is no longer a number.
        DataError: no VOC layout, no usable pictures, or proposals that do not fit.
    """
    how = settings(
        *(run, asked), detector=detector, train=train, side=side, steps=steps, lr=lr, norm_statistics=norm_statistics
    )
    if proposals and detector != "fast":
        raise ConfigError("--proposals are for `--detector fast`; faster finds its own: leave one of the two out.")
    if split not in SPLITS:
        raise ConfigError(unknown_name("split", split, SPLITS))
    sets = _opened(run, asked, how, SPLITS[split], Path(proposals) if proposals else None)
    classes = sets[0][0].class_names

    def score(backbone: Backbone, name: str) -> VocDetectionProtocol:
        learnt, tested = sets[0][1], sets[1][1]
        return VocDetectionProtocol(backbone, learnt, tested, len(classes), how, partial=asked.partial, name=name)

    results = {
        name: score(backbone, name)
        for name, backbone in (("trained", run.backbone), ("untrained", run.untrained_backbone()))
    }
    (ap, area), (plain, plain_area) = ([value for _, value in result.run()] for result in results.values())
    (_, learnt), (_, tested) = sets
    scores: dict[str, Any] = {
        "map_11_point": ap,
        "map_area": area,
        "untrained": plain,
        "untrained_area": plain_area,
        **({"proposal_recall": recall(tested)} if tested.regions is not None else {}),
        "train_images": len(learnt.images),
        "test_images": len(tested.images),
        "skipped": {name: sentence for split, _ in sets for name, sentence in split.skipped},
        "notes": notes_of([split for split, _ in sets]),
        "per_class": table(results["trained"].scores, classes),
        "untrained_per_class": table(results["untrained"].scores, classes),
        "settings": asdict(how) | {"dtype": str(how.dtype)},
    }
    scores |= {"steps": how.steps, **nothing_learned(scores | {"steps": how.steps}, "map_11_point", LOTTERY)}
    settings_of = {"detector": how.detector, "steps": how.steps, "side": how.side, "lr": how.lr}
    return by_layers(run, "voc-detection", how.train, split, scores, "map_11_point", **settings_of)


def settings(
    run: OpenedRun,
    asked: Request,
    *,
    detector: str = "fast",
    train: str = "all",
    side: int | None = None,
    steps: int | None = None,
    lr: float | None = None,
    norm_statistics: str = "measured",
) -> Detecting:
    """How to train: the papers' numbers, less of them if quick, and what was asked for instead.

    Raises:
        ConfigError: an unknown name or a number out of range.
    """
    for kind, name, known in (
        ("detector", detector, get_args(DetectorName)),
        ("--train", train, get_args(Trained)),
        ("--norm-statistics", norm_statistics, get_args(NormStatistics)),
    ):
        if name not in known:
            raise ConfigError(unknown_name(kind, name, known))
    if asked.test is not None:
        raise ConfigError("VOC's own lists say what is scored: give --split val or --split test, and no --test.")
    how = QUICK if asked.quick else Detecting(side=max(128, round(SIDE * run.config.image_size / VIEW)))
    wanted = {"side": side, "steps": steps, "lr": lr}
    how = replace(
        how,
        detector=detector,
        train=train,
        norm_statistics=norm_statistics,
        **{key: value for key, value in wanted.items() if value is not None},
    )
    if how.side < 32 or how.steps < 1 or how.lr <= 0:
        raise ConfigError(
            f"--side must be at least 32 pixels, --steps at least 1 and --lr above 0, got {how.side}, {how.steps}, {how.lr:g}."
        )
    precision = resolve_precision(run.config.precision, next(run.backbone.parameters()).device)
    return replace(how, seed=run.config.seed, dtype=precision)


def recall(pictures: DetectionImages, least: float = 0.5) -> float:
    """Share of objects (difficult ones left out) that some proposal overlaps by at least `least`; nan without objects."""
    found = [
        overlap(regions, image.boxes[~image.difficult] + torch.tensor([0.0, 0.0, 1.0, 1.0])).amax(0)
        if len(regions)
        else torch.zeros(int((~image.difficult).sum()))
        for image, regions in zip(pictures.images, pictures.regions or [], strict=True)
    ]
    return float((torch.cat(found) >= least).float().mean())


Opened = tuple[VocSplit, DetectionImages]


def _opened(
    run: OpenedRun, asked: Request, how: Detecting, names: tuple[str, str], proposals: Path | None
) -> tuple[Opened, Opened]:
    learnt = read_voc(asked.data, names[0])
    tested = read_voc(asked.data, names[1], class_names=learnt.class_names)
    opened: list[Opened] = []
    for split in (learnt, tested):
        images = _evenly(split.images, QUICK_IMAGES) if asked.quick else split.images
        limit = QUICK_PROPOSALS if asked.quick else selective.LIMIT
        # Before anything is decoded: a file that does not fit should be said at once.
        given = read_proposals(proposals, images, limit=limit) if proposals else None
        regions, usable = _looked_through(run, split, images, asked, compute=how.detector == "fast" and given is None)
        for image, is_usable in zip(images, usable, strict=True):
            if not is_usable:
                split.skipped.append((image.name, f"{image.path} cannot be decoded and is left out."))
        chosen = [i for i, is_usable in enumerate(usable) if is_usable]
        if not chosen:
            raise DataError(
                f"none of the {len(images):,} pictures of the split {split.split} of {split.root} can be decoded."
            )
        own = given or regions
        picked = [own[i][:limit] for i in chosen] if how.detector == "fast" else None
        opened.append(
            (split, DetectionImages([images[i] for i in chosen], lambda image: read_pixels(run, image), picked))
        )
    tell((learnt, tested))
    return opened[0], opened[1]


def _evenly(images: Sequence[VocImage], most: int) -> list[VocImage]:
    places = np.unique(np.linspace(0, len(images) - 1, min(most, len(images))).astype(int))
    return [images[i] for i in places.tolist()]


def read_pixels(run: OpenedRun, image: VocImage) -> torch.Tensor:
    """uint8 [C, h, w] of a picture as the run sees pictures.

    Raises:
        Undecodable: it cannot be decoded, or has other channels than the run's images.
    """
    record = run.record
    pixels = to_channels(decode(read_file(str(image.path)), image.path.name), record.channels)
    low, high, clipped = (record.value_range[key] for key in ("low", "high", "share_clipped"))
    pixels = scale_to_uint8(pixels, ValueRange(tuple(low), tuple(high), clipped))
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def _looked_through(
    run: OpenedRun, split: VocSplit, images: Sequence[VocImage], asked: Request, *, compute: bool
) -> tuple[list[torch.Tensor], list[bool]]:
    """Decode every picture once: proposals of each (none unless `compute`), and whether it can be used.

    Images are split over ranks. Computed proposals stay in the cache, since they cost more than all else that is read.
    """
    name, kept = _key(images, run), _cache(run, asked.partial) if compute else asked.partial
    name = f"proposals-{name}" if compute else f"decoded-{name}"
    found = kept.load(name) or {"boxes": torch.zeros(0, 4), "counts": torch.zeros(0, dtype=torch.int64)}
    boxes, counts = found["boxes"], found["counts"]
    last_save = time.monotonic()
    title = f"{split.split}: {'proposals' if compute else 'pictures'}"
    with progress.bar(title, len(images)) as update:
        while len(counts) < len(images):
            part = images[len(counts) : len(counts) + 4 * world_size()]
            own = [_looked_at(run, image, compute=compute) for image in part[shard(len(part))]]
            rows = torch.cat([found for found, _ in own]) if own else torch.zeros(0, 4)
            boxes = torch.cat([boxes, all_gather_rows(rows)])
            counts = torch.cat([counts, all_gather_rows(torch.tensor([n for _, n in own], dtype=torch.int64))])
            update(len(counts), "")
            due = all_reduce_sum(torch.tensor(float(time.monotonic() - last_save > SAVE_SECONDS and rank() == 0)))
            if bool(due) or len(counts) == len(images):
                kept.save(name, {"boxes": boxes, "counts": counts})
                last_save = time.monotonic()
    return list(boxes.split(counts.clamp(min=0).tolist())), (counts >= 0).tolist()


def _looked_at(run: OpenedRun, image: VocImage, *, compute: bool) -> tuple[torch.Tensor, int]:
    """Proposals of a picture and their number; -1 for a picture that cannot be used."""
    try:
        pixels = read_pixels(run, image)
    except Undecodable:
        return torch.zeros(0, 4), -1
    boxes = torch.zeros(0, 4)
    if compute:
        boxes = torch.from_numpy(selective.propose(pixels.permute(1, 2, 0).numpy()))
    return boxes, len(boxes)


def _key(images: Sequence[VocImage], run: OpenedRun) -> str:
    """Digest of the files, how their pixels are read, and how proposals are made."""
    method = (selective.SIDE, selective.SIZES, selective.LEAST, selective.LIMIT)
    files = [(image.name, *file_fingerprint(image.path)) for image in images]
    return blake2b(
        repr((method, run.record.channels, run.record.value_range, files)).encode(), digest_size=8
    ).hexdigest()


def _cache(run: OpenedRun, otherwise: Partial) -> Partial:
    """A folder of the cache, or `otherwise` where nobody can write there."""
    cache = run.record.cache or default_cache()
    if cache is None:
        return otherwise
    folder = Path(cache) / "proposals"
    writable = True
    if is_main():
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            writable = False
    return Partial(folder) if broadcast_object(writable) else otherwise
