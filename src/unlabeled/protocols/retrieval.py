"""`evaluate retrieval`: find the images that show the same thing, by lists in the layout of Oxford Buildings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize

from unlabeled import progress
from unlabeled.data.decode import decode
from unlabeled.data.oxford import CORRUPTED_PARIS, Gallery, Query, find_images, image_name, read_ground_truth
from unlabeled.data.pixels import Undecodable, ValueRange, scale_to_uint8, to_channels
from unlabeled.data.sources import Source, Subset, open_source
from unlabeled.device import autocast, resolve_precision
from unlabeled.distributed import all_gather_rows, all_reduce_sum, shard
from unlabeled.errors import ConfigError, DataError
from unlabeled.evaluation.result_cache import Partial
from unlabeled.evaluation.retrieval import (
    DIMS,
    Moments,
    Projection,
    RetrievalProtocol,
    learn_projection,
    prepare,
    region_descriptors,
    rmac,
)
from unlabeled.features import evaluation_mode
from unlabeled.models import Backbone
from unlabeled.protocols.driver import Request
from unlabeled.runs.opened import OpenedRun

SIDE = 1024
"""Larger side of an image, pixels, as in the papers."""
QUICK_SIDE = 224
QUICK_GALLERY = 600
QUICK_PCA = 200
"""What `--quick` takes: pixels of the larger side, images searched (never fewer than one query names), images for the whitening."""
CHUNK = 64
"""Images between two saved parts."""
NOTED = 3
"""Unusable images named on the screen."""
DECODERS = 4
"""Threads that decode images ahead of the network."""
SMALLEST = 64
"""Pixels of the smaller side from which every backbone has a map."""

Box = tuple[float, float, float, float]
Crop = tuple[int, Box | None]
"""An image of a source by its position, and a box in it, if it is not the whole image."""


def retrieval(
    run: OpenedRun,
    asked: Request,
    *,
    ground_truth: str | Path | None = None,
    pca: str | Path | None = None,
    levels: int = 3,
    side: int | None = None,
    expand: int = 0,
    scales: str | Sequence[float] = (1.0,),
) -> dict[str, Any]:
    """Instance retrieval with R-MAC (DeepCluster Table 5; spec E12, E13, E22), trained and untrained.

    Keys: `mean_ap`, `untrained`, `chance`, `queries`, `gallery_images`, `pca_images`, `missing_images` (of those to be
    found), `side`, `levels`, `dims`, `expand`, and the tables `per_query`, `untrained_per_query` (by name of the query) and
    `sides` (by scale). Each network's
    whitening is learned from its own maps of the images `pca`.

    Raises:
        ConfigError: no ground truth or no images for the whitening, or an option out of range.
        DataError: lists or images do not fit.
    """
    side = side or (QUICK_SIDE if asked.quick else SIDE)
    factors = _factors(scales)
    _check(ground_truth, pca, asked.test, levels, side, expand)
    gallery, source, other, learned_on = _opened(asked, ground_truth, pca)
    sizes = tuple(max(round(side * factor), 1) for factor in factors)

    def score(backbone: Backbone, name: str) -> tuple[RetrievalProtocol, list[str]]:
        network = _Network(run, backbone, sizes, levels, asked.partial, name)
        projection = network.projection(other, learned_on)
        return _protocol(network, source, gallery, projection, expand)

    trained, names = score(run.backbone, "trained")
    untrained, _ = score(run.untrained_backbone(), "untrained")
    precision = {"per_query": trained.per_query(), "untrained_per_query": untrained.per_query()}
    return {
        **dict(trained.run()),
        "untrained": dict(untrained.run())["mean_ap"],
        "chance": trained.chance(run.config.seed),
        "queries": len(names),
        "gallery_images": int(trained.gallery.isfinite().all(1).sum()),
        "pca_images": len(learned_on),
        "missing_images": len(np.unique(np.concatenate(trained.positive))) - _present(trained),
        "side": side,
        "levels": levels,
        "dims": trained.gallery.shape[1],
        "expand": expand,
        "sides": {f"{factor:g}": size for factor, size in zip(factors, sizes, strict=True)},
        **{key: dict(zip(names, values, strict=True)) for key, values in precision.items()},
    }


def _opened(
    asked: Request, ground_truth: str | Path | None, pca: str | Path | None
) -> tuple[Gallery, Source, Source, list[int]]:
    # What is searched for and among, the images the whitening is learned on, and which of them.
    queries = read_ground_truth(str(ground_truth))
    source, other = open_source(asked.data), open_source(str(pca))
    learned_on = [i for i, name in enumerate(other.names) if image_name(name) not in CORRUPTED_PARIS]
    if asked.quick:
        queries, source = _fewer(queries, source)
        learned_on = _spread(learned_on, QUICK_PCA)
    gallery = find_images(queries, source.names)
    for note in gallery.notes:
        progress.say(f"Note: {note}")
    if other.path.resolve() == source.path.resolve():
        progress.say(
            "Note: the whitening is learned on the images that are searched; the papers take another set (--pca)."
        )
    return gallery, source, other, learned_on


def _present(protocol: RetrievalProtocol) -> int:
    # Images to be found that can be found.
    wanted = np.unique(np.concatenate(protocol.positive))
    wanted = torch.from_numpy(wanted[wanted < len(protocol.gallery)])
    return int(protocol.gallery[wanted].isfinite().all(1).sum())


def _protocol(
    network: _Network, source: Source, gallery: Gallery, projection: Projection, expand: int
) -> tuple[RetrievalProtocol, list[str]]:
    # The protocol, and the names of the queries it asks: those whose image and box can be used.
    images = network.describe(source, [(int(row), None) for row in gallery.rows], projection, "images")
    crops = [(int(gallery.rows[i]), query.box) for i, query in zip(gallery.images, gallery.queries, strict=True)]
    asked = network.describe(source, crops, projection, "queries")
    usable = asked.isfinite().all(1)
    chosen = usable.nonzero()[:, 0].tolist()
    if not chosen:
        raise DataError(
            f"none of {len(crops)} queries can be asked; check --ground-truth and --side against the images."
        )
    positive, junk = ([lists[i] for i in chosen] for lists in (gallery.positive, gallery.junk))
    names = [gallery.queries[i].name for i in chosen]
    return RetrievalProtocol(images, asked[usable], positive, junk, expand), names


def _check(ground_truth: object, pca: object, test: Path | None, levels: int, side: int, expand: int) -> None:
    if ground_truth is None:
        raise ConfigError(
            "retrieval needs the folder of *_query.txt, *_good.txt, *_ok.txt and *_junk.txt: --ground-truth DIR."
        )
    if pca is None:
        raise ConfigError(
            "retrieval needs images that its whitening is learned on: --pca OTHER_IMAGES; the papers take Paris for Oxford "
            "and Oxford for Paris, never the images that are searched."
        )
    if test is not None:
        raise DataError("retrieval searches one set of images and takes no --test; the queries are in --ground-truth.")
    least = {"levels": (levels, 1), "side": (side, 1), "expand": (expand, 0)}
    for name, (value, smallest) in least.items():
        if value < smallest:
            raise ConfigError(f"{name} must be at least {smallest}, got {value}.")


def _factors(scales: str | Sequence[float]) -> list[float]:
    parts = scales.split(",") if isinstance(scales, str) else scales
    try:
        factors = [float(part) for part in parts]
    except ValueError:
        factors = []
    if not factors or not all(0 < factor <= 8 for factor in factors):
        raise ConfigError(
            f"scales must be factors of the side above 0 and at most 8, got '{scales}'; for example 0.7,1,1.4."
        )
    return factors


def _spread(rows: Sequence[int], count: int) -> list[int]:
    # At most `count` of them, evenly spaced.
    return [rows[i] for i in np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)).tolist()]


def _fewer(queries: list[Query], source: Source) -> tuple[list[Query], Source]:
    # Every second query, and again, until the images they name are few; then other images, evenly spaced, to fill up.
    names = [image_name(name) for name in source.names]
    present = set(names)
    kept = [query for query in queries if query.image in present and (query.good or query.ok)] or queries
    named = {name for query in kept for name in query.names} & present
    while len(named) > QUICK_GALLERY and len(kept) > 1:
        kept = kept[::2]
        named = {name for query in kept for name in query.names} & present
    others = [i for i, name in enumerate(names) if name not in named]
    chosen = {i for i, name in enumerate(names) if name in named} | set(
        _spread(others, max(QUICK_GALLERY - len(named), 0))
    )
    return kept, Subset(source, sorted(chosen))


@dataclass(frozen=True)
class _Network:
    """Images through one network, one at a time, each in its own size, a part of them on every rank."""

    run: OpenedRun
    backbone: Backbone
    sizes: tuple[int, ...]
    """Larger sides an image is brought to, pixels."""
    levels: int
    partial: Partial
    name: str
    """Which network, in the names of parts and bars."""

    def projection(self, source: Source, rows: Sequence[int]) -> Projection:
        """The whitening learned from all regions of the images `rows` of `source`, those of all ranks."""
        name, done = f"{self.name}-whitening", 0
        moments = Moments.zero(self._channels())
        if state := self.partial.load(name):
            done, moments = int(state.pop("done")), Moments(**state)
        with progress.bar(f"{self.name}: whitening", len(rows)) as update:
            for start in range(done, len(rows), CHUNK):
                part = [(row, None) for row in rows[start : start + CHUNK]]
                here = Moments.zero(len(moments.total))
                for descriptors in self._regions(source, part[shard(len(part))]):
                    if descriptors is not None:
                        here.add(torch.cat(descriptors))
                for total, addend in zip(vars(moments).values(), vars(here).values(), strict=True):
                    total += all_reduce_sum(addend)
                self.partial.save(name, {"done": torch.tensor(start + len(part)), **vars(moments)})
                update(start + len(part), "")
        if not int(moments.count):
            raise DataError(
                f"none of the {len(rows):,} images of {source.path} for --pca can be used; give other images."
            )
        return learn_projection(moments, DIMS)

    def describe(self, source: Source, crops: Sequence[Crop], projection: Projection, what: str) -> torch.Tensor:
        """Descriptors [n, d] of images or of boxes in them, the same on every rank; a row of nan where there is none."""
        found: list[torch.Tensor] = []
        with progress.bar(f"{self.name}: {what}", len(crops)) as update:
            for start in range(0, len(crops), CHUNK):
                part, name = crops[start : start + CHUNK], f"{self.name}-{what}-{start}"
                kept = self.partial.load(name)
                if kept is None:
                    here = torch.full((len(part), len(projection.matrix)), torch.nan)[shard(len(part))]
                    for row, descriptors in zip(here, self._regions(source, part[shard(len(part))]), strict=True):
                        if descriptors is not None:
                            vectors = [rmac(one[None], projection)[0] for one in descriptors]
                            row.copy_(normalize(torch.stack(vectors).sum(0), dim=0))
                    kept = {"rows": all_gather_rows(here)}
                    self.partial.save(name, kept)
                found.append(kept["rows"])
                update(start + len(part), "")
        result = torch.cat(found)
        self._note(source, [crops[i] for i in (~result.isfinite().all(1)).nonzero()[:, 0].tolist()], what)
        return result

    def _note(self, source: Source, crops: Sequence[Crop], what: str) -> None:
        # The reasons are found again: those of other ranks are not known here.
        for row, box in crops[:NOTED]:
            try:
                self._one(self._pixels(source, row), box)
            except Undecodable as error:
                progress.say(f"Note: {source.names[row]} is left out of the {what}: {error.reason}.")
        if len(crops) > NOTED:
            progress.say(f"Note: and {len(crops) - NOTED:,} more of the {what}.")

    def _regions(self, source: Source, crops: Sequence[Crop]) -> Iterator[list[torch.Tensor] | None]:
        # Region descriptors [R, C] at every size, None where there are none; images are decoded ahead by a few threads.
        def read(crop: Crop) -> torch.Tensor | None:
            try:
                return self._pixels(source, crop[0])
            except Undecodable:
                return None

        with ThreadPoolExecutor(DECODERS) as pool:
            for image, (_, box) in zip(pool.map(read, crops), crops, strict=True):
                try:
                    yield None if image is None else self._one(image, box)
                except Undecodable:
                    yield None

    def _pixels(self, source: Source, row: int) -> torch.Tensor:
        """uint8 [h, w, C], as the training images were prepared."""
        values, name = self.run.record.value_range, source.names[row]
        known = ValueRange(tuple(values["low"]), tuple(values["high"]), values["share_clipped"])
        pixels = to_channels(decode(source.read(row), name), self.run.record.channels)
        return torch.from_numpy(np.array(scale_to_uint8(pixels, known)))

    def _one(self, image: torch.Tensor, box: Box | None) -> list[torch.Tensor]:
        found: list[torch.Tensor] = []
        for size in self.sizes:
            try:
                view = prepare(image, size, box)
            except DataError as error:
                raise Undecodable(str(error).removesuffix(".")) from None
            try:
                found.append(region_descriptors(self._map(view), self.levels)[0].cpu())
            except RuntimeError:
                # So small that a convolution or a pool has nothing to stand on; anything larger is another error.
                if min(view.shape[2:]) >= SMALLEST:
                    raise
                wide, high = view.shape[3], view.shape[2]
                raise Undecodable(
                    f"at {size} pixels it is {wide} x {high}, too small for {self.run.config.backbone}; raise --side"
                ) from None
        return found

    @torch.no_grad()
    def _map(self, view: torch.Tensor) -> torch.Tensor:
        """The last stage after its ReLU, without the pool behind it."""
        device = next(self.backbone.parameters()).device
        x = view.to(device)
        with evaluation_mode(self.backbone), autocast(device, resolve_precision(self.run.config.precision, device)):
            x = self.backbone.stem(x)
            for _, stage in self.backbone.trunk(x):
                x = stage  # earlier maps are let go at once: they are large
        return x.float()

    def _channels(self) -> int:
        side = self.backbone.image_size
        return self._map(torch.zeros((1, self.run.record.channels, side, side), dtype=torch.uint8)).shape[1]
