"""Pictures of the network: its first filters, images its filters climb to, and the real images that excite them most."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from torch.nn.functional import cosine_similarity

from unlabeled import progress
from unlabeled.device import resolve_precision
from unlabeled.distributed import all_gather_rows, shard
from unlabeled.errors import ConfigError, unknown_name
from unlabeled.evaluation.result_cache import Partial
from unlabeled.models import Backbone
from unlabeled.models.stem import HighPass, Rgb, Sobel
from unlabeled.runs.images import make_loader
from unlabeled.runs.opened import OpenedRun, named_runs
from unlabeled.visualize import ascent as climbing
from unlabeled.visualize.activations import NONE, top_images
from unlabeled.visualize.sheets import Row, Section, Tile, grid, sheet
from unlabeled.visualize.thumbnails import at_least_one, channels_last, opened, parse_units, thumbnail
from unlabeled.writing import csv_text

LEARNING_RATE = 30.0
"""Ten times that of the released code, as its authors advise for the last layers: with 3, the noise is still there after
a thousand steps."""
FILTER_SIDE = 44
"""Pixels of a filter's tile at least, in whole multiples of the filter's own."""


def filters(run: OpenedRun, *, compare: Sequence[str | Path] | None = None) -> dict[str, bytes | str]:
    """First-layer filters of the trained and of the untrained network (V01); behind Sobel, composed with it.

    `compare`: other runs whose trained filters are shown below, for example a supervised one (Noise As Targets, figure 4).
    """
    runs = named_runs(run, compare)
    found = {name: (first_filters(one.backbone), first_filters(one.untrained_backbone())) for name, one in runs.items()}
    own, *others = found
    trained, untrained = found[own]
    size, count = trained.kernels.shape[-1], len(trained.kernels)
    if trained.composed:
        what = (
            f"What each filter looks for in the grey image: the filter and the fixed stem ({run.config.stem}) in front of it as "
            f"one kernel of {size} × {size} pixels."
        )
    else:
        kind = "in colour" if trained.kernels.shape[1] == 3 else "the mean over channels"
        what = f"Filters of {size} × {size} pixels, {kind}."
    note = f"{what} Each tile is stretched from its smallest to its largest value; rows in the order of the filters."
    named = f"{own}, {run.config.method}: "
    sections = [
        _section(f"{named}after training" if others else "After training", trained),
        _section(f"{named}before training" if others else "Before training", untrained),
    ]
    sections += [_section(f"{name}, {runs[name].config.method}: after training", found[name][0]) for name in others]
    picture = sheet(
        f"First layer of {run.config.backbone}: {count} filters",
        note,
        sections,
        side=size * -(-FILTER_SIDE // size),
        crisp=True,
    )
    header = ("filter", "smallest", "largest", "length", "untrained_length", "cosine_with_untrained")
    if not others:
        return {"filters.png": picture, "filters.csv": csv_text(header, _lengths(trained, untrained))}
    rows = [(name, *row) for name, both in found.items() for row in _lengths(*both)]
    return {"filters-compared.png": picture, "filters-compared.csv": csv_text(("run", *header), rows)}


def _section(heading: str, found: Filters) -> Section:
    count = len(found.kernels)
    columns = 16 if count % 16 == 0 or count > 48 else 12
    return Section(heading, grid([Tile(tile) for tile in found.tiles()], columns))


def _lengths(trained: Filters, untrained: Filters) -> list[tuple[object, ...]]:
    """A row for each filter: its number, smallest and largest weight, length after and before training, and their cosine."""
    flat, before = trained.kernels.flatten(1), untrained.kernels.flatten(1)
    columns = (flat.amin(1), flat.amax(1), flat.norm(dim=1), before.norm(dim=1), cosine_similarity(flat, before))
    return [
        (unit, *(f"{value:.6g}" for value in values))
        for unit, values in enumerate(zip(*(column.tolist() for column in columns), strict=True))
    ]


def ascent(
    run: OpenedRun,
    *,
    stage: str | None = None,
    units: str | None = None,
    steps: int | None = None,
    lr: float = LEARNING_RATE,
    seed: int | None = None,
) -> dict[str, bytes | str]:
    """Images that the filters of a stage answer to (V03); the last stage, its first 25 filters unless told otherwise."""
    stage = stage_of(run.backbone, stage)
    side, channels = run.config.image_size, run.record.channels
    steps = climbing.default_steps(side) if steps is None else steps
    at_least_one(steps=steps)
    if not lr > 0:
        raise ConfigError(f"lr must be above 0, got {lr}; 30 is a good one, the released code took 3.")
    seed = run.config.seed if seed is None else seed
    device = next(run.backbone.parameters()).device
    with climbing.stage_maps(run.backbone, stage) as maps:
        with torch.no_grad():
            width = maps(torch.zeros(1, channels, side, side, device=device))[0].shape[1]
        wanted = torch.tensor(parse_units(units, width, stage))
        start = climbing.starting_images(wanted, channels, side, seed)
        found = _climb(maps, wanted, start.to(device), (steps, lr), _parts(run, stage, seed, steps, lr))
    pictures = climbing.shown(found.images.cpu())
    tiles = [
        Tile(channels_last(image), f"{unit}{' (dead)' if dead else ''}")
        for image, unit, dead in zip(pictures, wanted.tolist(), found.dead.tolist(), strict=True)
    ]
    note = (
        f"Images that the filters of {stage} answer to, climbed to in {steps} steps from noise; the number of the filter is below. "
        "A filter is dead where it still gives zero everywhere; then the convolution before it is climbed."
    )
    few = len(tiles) <= 36
    picture = sheet(
        f"{run.config.backbone}, {stage}: activation maximisation",
        note,
        [Section("", grid(tiles, 5 if few else 12))],
        side=144 if few else 96,
    )
    rows = [
        (unit, f"{first:.6g}", f"{last:.6g}", int(dead))
        for unit, first, last, dead in zip(
            wanted.tolist(), found.objective[0].tolist(), found.objective[-1].tolist(), found.dead.tolist(), strict=True
        )
    ]
    header = ("filter", "first_objective", "last_objective", "dead")
    return {f"ascent-{stage}.png": picture, f"ascent-{stage}.csv": csv_text(header, rows)}


def _climb(
    maps: climbing.Maps, wanted: torch.Tensor, start: torch.Tensor, how: tuple[int, float], parts: Partial
) -> climbing.Ascent:
    """All images wanted, batch by batch, each batch shared by the ranks; what an earlier call finished is read."""
    size, (steps, lr) = climbing.batch_size(start.shape[-1]), how
    whole: list[climbing.Ascent] = []
    batches = wanted.split(size)
    with parts.told(), progress.bar("activation maximisation", steps * len(batches)) as update:
        for number, (units, images) in enumerate(zip(batches, start.split(size), strict=True)):
            name = "-".join(map(str, (int(units[0]), int(units[-1]), len(units))))
            kept = parts.load(name)
            if kept is None:
                own, done = shard(len(units)), number * steps
                part = climbing.Ascent(images[:0], torch.zeros(steps, 0), torch.zeros(0, dtype=torch.bool))
                if len(units[own]):
                    part = climbing.ascend(
                        maps,
                        units[own],
                        images[own],
                        steps=steps,
                        lr=lr,
                        after_step=partial(_advance, update, done),
                    )
                kept = {
                    "images": all_gather_rows(part.images).cpu(),
                    # Only the first and the last value are asked for.
                    "objective": all_gather_rows(part.objective[[0, -1]].t().contiguous().to(images.device)).cpu(),
                    "dead": all_gather_rows(part.dead.float().to(images.device)).cpu(),
                }
                parts.save(name, kept)
            whole.append(climbing.Ascent(kept["images"], kept["objective"].t(), kept["dead"] > 0))
    parts.finish()
    return climbing.Ascent(
        torch.cat([part.images for part in whole]),
        torch.cat([part.objective for part in whole], 1),
        torch.cat([part.dead for part in whole]),
    )


def _advance(update: progress.Update, before: int, step: int) -> None:
    update(before + step, "")


def _parts(run: OpenedRun, *asked: object) -> Partial:
    # The weights belong to the question: a run that went on training is drawn anew.
    weights = [file.name for file in sorted(run.folder.checkpoints.glob("*.safetensors"))]
    name = f"ascent-{blake2b(repr((asked, weights)).encode(), digest_size=4).hexdigest()}"
    return Partial(run.folder.evaluation / name if os.access(run.path, os.W_OK) else None)


def activations(
    run: OpenedRun, data: str | Path | None = None, *, stage: str | None = None, units: str | None = None
) -> dict[str, bytes | str]:
    """The nine images that excite each filter of a stage most (V04), from any number of images in one pass."""
    stage = stage_of(run.backbone, stage)
    store = opened(run, data)
    device = next(run.backbone.parameters()).device
    found = top_images(
        run.backbone,
        stage,
        make_loader(store, run.config, device),
        dtype=resolve_precision(run.config.precision, device),
        batch_size=2 * run.config.batch_size,
    )
    wanted = parse_units(units, len(found.values), stage)
    rows: list[Row] = []
    table: list[tuple[object, ...]] = []
    for unit, values, index in zip(range(len(found.values)), found.values.tolist(), found.index.tolist(), strict=True):
        known = [(value, i) for value, i in zip(values, index, strict=True) if i != NONE]
        table += [(unit, place, store.names[i], f"{value:.6g}") for place, (value, i) in enumerate(known, 1)]
        if unit in wanted:
            dead = not known or known[0][0] <= 0
            tiles = [Tile(thumbnail(store, i), f"{value:.3g}") for value, i in known]
            rows.append(Row(tiles, f"filter {unit}{', dead' if dead else ''}"))
    note = (
        f"The {found.k} images of {len(store):,} that excite each filter of {stage} most, by the mean of its map after the ReLU "
        "on the central view (the number below)."
    )
    picture = sheet(f"{run.config.backbone}, {stage}: what excites its filters", note, [Section("", rows)], side=80)
    header = ("filter", "place", "path", "activation")
    return {f"activations-{stage}.png": picture, f"activations-{stage}.csv": csv_text(header, table)}


def stage_of(backbone: Backbone, stage: str | None) -> str:
    """The stage of this name, the last one for None.

    Raises:
        ConfigError: this network has no such stage.
    """
    if stage is not None and stage not in backbone.stages:
        raise ConfigError(unknown_name("stage", stage, backbone.stages))
    return stage or backbone.stages[-1]


@dataclass(frozen=True)
class Filters:
    """The filters of a first layer as kernels on the image."""

    kernels: torch.Tensor
    """float32 [F, C', h, w]: C' is 1 behind a fixed stem, else the channels of the image."""
    composed: bool
    """Whether they were composed with the stem and act on the grey image."""

    def tiles(self) -> NDArray[np.uint8]:
        """[F, h, w, 3], each filter stretched to 0..255; of other than three channels grey, their mean."""
        kernels = self.kernels if self.kernels.shape[1] == 3 else self.kernels.mean(1, keepdim=True).repeat(1, 3, 1, 1)
        low, high = kernels.amin((1, 2, 3), keepdim=True), kernels.amax((1, 2, 3), keepdim=True)
        # A filter of equal numbers has nothing to show: middle grey.
        unit = torch.where(high > low, (kernels - low) / (high - low).clamp(min=1e-30), 0.5)
        return (255 * unit).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def first_filters(backbone: Backbone) -> Filters:
    """The filters of the first convolution, composed with the fixed stem if there is one."""
    weight = first_convolution(backbone).weight.detach().float().cpu()
    if isinstance(backbone.stem, Rgb):
        return Filters(weight, composed=False)
    return Filters(compose(weight, stem_kernels(backbone.stem)), composed=True)


def first_convolution(backbone: Backbone) -> nn.Conv2d:
    """The layer that sees the stem's output."""
    return next(module for module in backbone.modules() if isinstance(module, nn.Conv2d))


def stem_kernels(stem: nn.Module) -> torch.Tensor:
    """Kernels [C, m, m] that this stem correlates the grey image with, float32.

    Raises ConfigError for a stem that is no such thing.
    """
    if isinstance(stem, Sobel):
        smooth, difference = torch.tensor([1.0, 2.0, 1.0]), torch.tensor([1.0, 0.0, -1.0])
        horizontal = torch.outer(smooth, difference)
        return torch.stack((horizontal, horizontal.t())) * stem.factor.cpu()
    if isinstance(stem, HighPass):
        kernel = -torch.outer(stem.kernel.cpu(), stem.kernel.cpu())
        kernel[len(kernel) // 2, len(kernel) // 2] += 1
        return kernel[None]
    raise ConfigError(
        f"the stem {type(stem).__name__} is no convolution of the grey image; filters cannot be composed with it."
    )


def compose(weight: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
    """Filters [F, C, k, k] behind kernels [C, m, m] as one kernel each, [F, 1, k + m - 1, k + m - 1]."""
    if weight.shape[1] != len(kernels):
        raise ConfigError(f"filters of {weight.shape[1]} channels cannot follow a stem of {len(kernels)}.")
    # A correlation with the flipped kernel over a border of zeros is the full convolution.
    border = kernels.shape[-1] - 1
    return functional.conv2d(weight, kernels.flip(1, 2)[None], padding=border)
