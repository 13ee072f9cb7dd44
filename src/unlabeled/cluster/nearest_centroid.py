"""The nearest of K centroids for each of N rows, with products as narrow as the hardware and the data allow.

Shapes: N rows (of this rank), K centroids, D dimensions. The nearest centroid maximises the score x·c - |c|²/2.
Nearly all the time of k-means is the [N, K] matrix of these scores, so it is made in chunks that stay in cache, from
8-bit integers (32-bit sums, so only the inputs are rounded) or bfloat16, and only its row maxima are kept.
`Nearest.noise` says how far a score may be off; k-means compares it with its objective and with its progress, and
climbs to wider products when they matter.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from unlabeled.device import cpu_has, has_fast_bfloat16
from unlabeled.errors import ConfigError, unknown_name

Width = Literal["int8", "bfloat16", "float32"]

_SMALL_WORK = 2**27
"""Below this many multiplications float32 takes milliseconds, and its labels are exact."""
_SCORES_IN_CACHE = 2**20
_LOWEST = -(2**30)


@cache
def has_fast_int8(device_type: str) -> bool:
    """Whether 8-bit products with 32-bit sums are faster than bfloat16 here (AVX512-VNNI on CPU)."""
    if device_type != "cpu" or not cpu_has("_is_vnni_supported"):
        return False
    probe = torch.full((32, 64), 127, dtype=torch.int8)
    # 127 * 127 * 64 overflows the 16-bit sums of instruction sets before VNNI; trust the answer, not the flag.
    return bool((int_product(probe, probe) == 127 * 127 * 64).all())


def ladder(precision: str, device_type: str, work: int, dims: int) -> list[Width]:
    """Widths to try, narrowest first; float32 always ends the list.

    `work` is N·K·D, over all ranks, so that every rank decides alike. `precision` is "auto", "int8", "bfloat16" or
    "float32"; raises ConfigError for anything else.
    """
    known = ("auto", "bfloat16", "float32", "int8")
    if precision not in known:
        raise ConfigError(unknown_name("precision", precision, known))
    widths: list[Width] = []
    if precision == "int8" or (
        precision == "auto" and work >= _SMALL_WORK and dims >= 32 and has_fast_int8(device_type)
    ):
        widths.append("int8")
    if precision == "bfloat16" or (precision == "auto" and work >= _SMALL_WORK and has_fast_bfloat16(device_type)):
        widths.append("bfloat16")
    return [*widths, "float32"]


def chunk_rows(columns: int) -> int:
    """Rows per chunk so that a [rows, columns] block of scores stays near the cache and products stay efficient."""
    return max(256, min(8192, _SCORES_IN_CACHE // max(1, columns)))


class Nearest:
    """Nearest-centroid search for fixed rows and changing centroids.

    `x` [N, D] float32 rows, about centred: the 8-bit grid is symmetric around zero. `largest` is the largest absolute
    entry over all ranks, `energy` the mean squared norm of a row over all ranks.
    """

    def __init__(self, x: Tensor, widths: list[Width], *, largest: float, energy: float) -> None:
        self.x = x
        self.widths = widths
        self.energy = energy
        # A grid of 254 steps over +-5 standard deviations clips next to nothing of bell-shaped features and is not
        # blown up by a single outlier.
        spread = math.sqrt(energy / x.shape[1]) if x.shape[1] else 0.0
        self.step = max(min(largest, 5 * spread), 1e-30) / 127
        self.noise = 0.0
        self._narrow: Tensor | None = None
        self._best: Tensor | None = None

    @property
    def exact(self) -> bool:
        """Whether the search now runs in float32."""
        return self.widths[0] == "float32"

    def widen(self) -> None:
        """Climb to the next wider products."""
        self.widths = self.widths[1:]
        self._narrow = None

    def labels(self, centroids: Tensor) -> Tensor:
        """Index [N] of the nearest of `centroids` [K, D]; near ties within `noise` may fall either way."""
        bias = -0.5 * centroids.square().sum(1)
        if self.widths[0] == "int8":
            return self._labels_int8(centroids, bias)
        if self.widths[0] == "bfloat16":
            return self._labels_bfloat16(centroids, bias)
        self.noise = 0.0
        return _labels_float32(self.x, centroids, bias)

    def _labels_int8(self, centroids: Tensor, bias: Tensor) -> Tensor:
        if self._narrow is None:
            self._narrow = _to_int8(self.x, self.step)
        sizes = centroids.square().sum(1)
        spread = float(centroids.abs().amax())
        step = max(spread, 1e-30) / 127
        self.noise = math.sqrt((self.step**2 * float(sizes.mean()) + step**2 * self.energy) / 12)
        scale = self.step * step
        # Only differences of the bias matter; around its middle it fits 32 bits unless the data are absurd.
        offset = ((bias - bias.mean()) / scale).round()
        if float(offset.abs().max()) > 2**29:
            self.widen()
            return self.labels(centroids)
        blocks, width = _block_shape(len(centroids))
        table = torch.zeros(blocks * width, centroids.shape[1], dtype=torch.int8, device=centroids.device)
        table[: len(centroids)] = _to_int8(centroids, step)
        padded = torch.full((blocks * width,), _LOWEST, dtype=torch.int32, device=centroids.device)
        padded[: len(centroids)] = offset.to(torch.int32)
        rows = chunk_rows(blocks * width)
        scores = torch.empty(min(rows, max(17, len(self.x))), blocks * width, dtype=torch.int32, device=self.x.device)
        labels = torch.empty(len(self.x), dtype=torch.int64, device=self.x.device)
        for start in range(0, len(self.x), rows):
            part = self._narrow[start : start + rows]
            out = scores[: len(part)]
            int_product(part, table, out)
            labels[start : start + rows] = block_max(out.add_(padded), blocks)[1]
        return labels

    def _labels_bfloat16(self, centroids: Tensor, bias: Tensor) -> Tensor:
        dims = centroids.shape[1]
        if self._narrow is None:
            self._narrow = torch.empty(len(self.x), dims + 4, dtype=torch.bfloat16, device=self.x.device)
            self._narrow[:, :dims] = self.x
            self._narrow[:, dims : dims + 2] = 1
            self._narrow[:, dims + 2 :] = 0
            self._best = torch.zeros(len(self.x), device=self.x.device)
        assert self._best is not None
        # bfloat16 has 8 bits, but the product sums in float32 before it rounds: with the score that won last time taken
        # off inside the product, the scores that matter are near zero, where 8 bits are fine steps.
        self._narrow[:, dims + 2 :] = _in_two(-self._best)
        blocks, width = _block_shape(len(centroids))
        table = torch.zeros(blocks * width, dims + 4, dtype=torch.bfloat16, device=centroids.device)
        table[: len(centroids), :dims] = centroids
        table[len(centroids) :, dims] = -torch.inf
        table[: len(centroids), dims : dims + 2] = _in_two(bias)
        table[:, dims + 2 :] = 1
        self.noise = 2**-9 / math.sqrt(3) * math.sqrt(2 * self.energy * float(centroids.square().sum(1).mean()) / dims)
        rows = chunk_rows(blocks * width)
        scores = torch.empty(min(rows, len(self.x)), blocks * width, dtype=torch.bfloat16, device=self.x.device)
        labels = torch.empty(len(self.x), dtype=torch.int64, device=self.x.device)
        for start in range(0, len(self.x), rows):
            part = self._narrow[start : start + rows]
            out = torch.mm(part, table.t(), out=scores[: len(part)])
            best, labels[start : start + rows] = block_max(out, blocks)
            self._best[start : start + rows] += best
        return labels


def block_max(scores: Tensor, blocks: int) -> tuple[Tensor, Tensor]:
    """Row maxima [R] of `scores` [R, blocks * width] and where they are, several times faster than `max(1)` on CPU.

    The maximum over equal strides is plain vector code; only the [R, width] maxima are then searched with positions.
    """
    if blocks == 1:
        return scores.max(1)
    width = scores.shape[1] // blocks
    tiles = scores.view(len(scores), blocks, width)
    position = tiles.amax(1).max(1).indices
    inside = tiles.gather(2, position[:, None, None].expand(-1, blocks, 1)).squeeze(2).max(1)
    return inside.values, inside.indices * width + position


def squared_distances(x: Tensor, centroids: Tensor, labels: Tensor) -> Tensor:
    """Squared distance [N] of each row of `x` to the centroid its label names, by differences, so exact zeros stay
    zero."""
    distances = torch.empty(len(x), device=x.device)
    for start in range(0, len(x), 8192):
        part = slice(start, start + 8192)
        distances[part] = (x[part] - centroids[labels[part]]).square_().sum(1)
    return distances


def _labels_float32(x: Tensor, centroids: Tensor, bias: Tensor) -> Tensor:
    rows = chunk_rows(len(centroids))
    labels = torch.empty(len(x), dtype=torch.int64, device=x.device)
    scores = torch.empty(min(rows, len(x)), len(centroids), device=x.device)
    for start in range(0, len(x), rows):
        part = x[start : start + rows]
        out = torch.addmm(bias, part, centroids.t(), out=scores[: len(part)])
        labels[start : start + rows] = out.max(1).indices
    return labels


def int_product(left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
    """left @ rightᵀ of int8 matrices with int32 sums: torch's only operator for it on CPU has a private name."""
    return torch._int_mm(left, right.t(), out=out)  # pyright: ignore[reportPrivateUsage]


def _to_int8(x: Tensor, step: float) -> Tensor:
    narrow = torch.empty(x.shape, dtype=torch.int8, device=x.device)
    for start in range(0, len(x), 8192):
        narrow[start : start + 8192] = (x[start : start + 8192] / step).round_().clamp_(-127, 127)
    return narrow


def _in_two(values: Tensor) -> Tensor:
    """[n] float32 as [n, 2] whose columns survive bfloat16 and sum to the value within 2^-17."""
    high = values.bfloat16().float()
    return torch.stack([high, values - high], 1)


def _block_shape(columns: int) -> tuple[int, int]:
    """(blocks, width) with blocks * width >= columns; width a multiple of the vector length, little padding."""
    if columns < 64:
        return 1, columns
    blocks = 16 if columns >= 512 else 4
    return blocks, -(-columns // (16 * blocks)) * 16
