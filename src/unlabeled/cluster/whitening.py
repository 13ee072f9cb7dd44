"""PCA-whitening of features before clustering (DeepCluster, section 3.4: 256 dimensions, whitened, then rows of
length one).

Shapes: n rows of this rank, N rows of all ranks, D dimensions, d of them kept.

    x  ->  (x - mean) @ componentsᵀ * scale  ->  / its own length         scale = 1 / sqrt(eigenvalue), or 1

where x has gone through a ReLU first if that was asked for.

The moments are summed chunk by chunk, so features may be a tensor, a memory map, or chunks that are computed and thrown
away; sums are kept in float64 and shifted by a first estimate of the mean, so a large common offset costs no digits.
Only moments cross ranks. The top d eigenvectors come from a full decomposition where D is small and from subspace
iteration where it is large. No ε is added to the eigenvalues: directions without variance are dropped instead, and
`note` says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from unlabeled import distributed
from unlabeled.device import has_fast_bfloat16
from unlabeled.errors import ConfigError, DataError
from unlabeled.randomness import generator

_CHUNK = 8192
_FULL_DECOMPOSITION = 1024
"""Widest covariance that is decomposed as a whole, in float64; also the side of a tile of wider ones."""
_DOUBLE_MOMENTS = 512
"""Widest features whose products are made in float64, where that is cheap."""
_GUARD = 64
"""Extra directions that the subspace iteration carries, so that the last ones wanted converge too."""


Features = Tensor | np.ndarray | Iterable[Tensor | np.ndarray]
"""Rows of features, [n, D], or chunks of them."""


@dataclass(frozen=True)
class Whitening:
    """A fitted map from features to the space that is clustered; the same on every rank."""

    mean: Tensor
    """[D] float32."""
    components: Tensor
    """[d, D] float32 orthonormal rows, largest entry of each positive; [0, D] where features are only centred."""
    scale: Tensor
    """[d] float32, what each kept dimension is multiplied by."""
    eigenvalues: Tensor
    """[d] float64 variances along the components, largest first."""
    total_variance: float
    """Sum of all D variances; `eigenvalues / total_variance` are the shares that the directions explain."""
    note: str = ""
    """Why fewer dimensions than asked were kept, one sentence; empty otherwise."""
    rectify: bool = False
    """Whether features go through a ReLU first."""

    @property
    def dims(self) -> int:
        """Width of what `apply` returns."""
        return len(self.components) or len(self.mean)

    def apply(self, features: Tensor | np.ndarray, normalize_rows: bool = True) -> Tensor:
        """[n, D] features, tensor or memory map, as [n, dims] float32, rows of length one if asked; zero rows stay."""
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            raise DataError(
                f"this whitening was fitted on features {len(self.mean)} wide, got shape {tuple(features.shape)}; "
                "embed with the same backbone, or fit again."
            )
        device = features.device if isinstance(features, Tensor) else self.mean.device
        mean = self.mean.to(device)
        columns = (self.components * self.scale[:, None]).t().to(device)
        out = torch.empty(len(features), self.dims, device=device)
        start = 0
        for part in _chunks(features, self.rectify):
            centred = part.to(device) - mean
            rows = centred @ columns if len(self.components) else centred
            if normalize_rows:
                rows = torch.nn.functional.normalize(rows, eps=1e-30)
            out[start : start + len(part)] = rows
            start += len(part)
        return out

    def to_tensors(self) -> dict[str, Tensor]:
        """Everything as named tensors, for storage without pickle."""
        return {
            "mean": self.mean,
            "components": self.components,
            "scale": self.scale,
            "eigenvalues": self.eigenvalues,
            "total_variance": torch.tensor(self.total_variance, dtype=torch.float64),
            "note": torch.tensor(list(self.note.encode()), dtype=torch.uint8),
            "rectify": torch.tensor(self.rectify),
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Whitening:
        """The inverse of `to_tensors`; what earlier versions stored knew no `rectify`."""
        names = ("mean", "components", "scale", "eigenvalues", "total_variance", "note")
        missing = [name for name in names if name not in tensors]
        if missing:
            raise DataError(f"a stored whitening needs the tensors {', '.join(names)}; {', '.join(missing)} missing.")
        mean, components, scale, eigenvalues, total, note = (tensors[name] for name in names)
        rectify = "rectify" in tensors and bool(tensors["rectify"])
        return cls(mean, components, scale, eigenvalues, float(total), bytes(note.tolist()).decode(), rectify)


def unchanged(dims: int, *, rectify: bool = False) -> Whitening:
    """The map that leaves features [n, dims] as they are, but for a ReLU where `rectify` asks for it."""
    nothing = torch.empty(0)
    return Whitening(torch.zeros(dims), torch.empty(0, dims), nothing, nothing.double(), 0.0, rectify=rectify)


def fit(
    features: Features,
    dims: int,
    *,
    whiten: bool = True,
    rectify: bool = False,
    seed: int = 0,
) -> Whitening:
    """Fit on the rows of all ranks.

    Args:
        features: this rank's rows, [n, D] tensor, array or memory map, or an iterable of such chunks, read once.
        dims: dimensions kept; 0 keeps all of them and does not rotate, only centres.
        whiten: divide kept dimensions by their standard deviation (ablation C06 turns it off).
        rectify: take features after a ReLU. They are not changed, nor copied as a whole.
        seed: decides where the subspace iteration starts; the result is the same up to rounding.

    Raises:
        ConfigError: `dims` is negative.
        DataError: no rows, chunks of different widths, or rows with NaN or infinity.
    """
    if dims < 0:
        raise ConfigError(f"pca_dims must be 0 (keep all) or more, got {dims}.")
    # An iterator may be a feature pass that is running: it is read once. Arrays can be read again in float32, so they
    # are first read as narrow as the hardware is fast at.
    again = isinstance(features, Tensor | np.ndarray)
    moments = _Moments(_chunks(features, rectify), covariance=dims > 0, narrow=again)
    mean, covariance = moments.reduce()
    if covariance is None:
        empty = torch.zeros(0, len(mean), device=mean.device)
        none = torch.zeros(0, dtype=torch.float64)
        return Whitening(mean.float(), empty, none.float(), none, 0.0, rectify=rectify)
    fitted = replace(_decompose(mean, covariance, moments, dims, whiten, seed), rectify=rectify)
    if moments.rounded:
        asked = min(dims, len(mean)) == fitted.dims
        doubt = moments.rounding(covariance) / max(float(fitted.eigenvalues.min()), 1e-300) if asked else math.inf
        if doubt > 0.1:
            moments = _Moments(_chunks(features, rectify), covariance=True, narrow=False)
            mean, covariance = moments.reduce()
            assert covariance is not None
            fitted = replace(_decompose(mean, covariance, moments, dims, whiten, seed), rectify=rectify)
        elif doubt > 2e-3:
            fitted = _refine(fitted, features, whiten)
    return fitted


def _refine(fitted: Whitening, features: Features, whiten: bool) -> Whitening:
    """Turn and rescale the components by the float64 covariance of the rows projected on them.

    The span of the components feels rounding only in second order, the variances along them in first.
    """
    plain = replace(fitted, scale=torch.ones_like(fitted.scale))
    projected = (plain.apply(part, normalize_rows=False) for part in _chunks(features))
    moments = _Moments(projected, covariance=True, narrow=False, double=True)
    offset, covariance = moments.reduce()
    assert covariance is not None
    turned = _decompose(offset, covariance, moments, len(offset), whiten, 0)
    components = _signed(turned.components @ fitted.components)
    return replace(
        fitted, components=distributed.broadcast(components), scale=turned.scale, eigenvalues=turned.eigenvalues
    )


class _Moments:
    """Count, sums and products of rows about a provisional mean, chunk by chunk."""

    def __init__(self, chunks: Iterator[Tensor], *, covariance: bool, narrow: bool, double: bool = False) -> None:
        self.count = 0
        self.rounded = False
        first = next(chunks, None)
        width = 0 if first is None else first.shape[1]
        device = torch.device("cpu") if first is None else first.device
        if distributed.is_distributed() and torch.cuda.is_available() and first is None:
            device = torch.device("cuda")
        widest = int(distributed.all_reduce_max(torch.tensor([width], device=device)))
        if widest == 0:
            raise DataError(
                "whitening needs at least one row of features, got none; check that the images can be read."
            )
        self.shift = _rough_mean(first, widest, device)
        self.sums = torch.zeros(widest, dtype=torch.float64, device=device)
        self.broken = torch.zeros((), dtype=torch.int64, device=device)
        self.mismatch = 0
        self.tiles: dict[tuple[int, int], Tensor] = {}
        self.covariance = covariance
        self.rounded = covariance and narrow and widest > _DOUBLE_MOMENTS and has_fast_bfloat16(device.type)
        self.products = 0
        if double or widest <= _DOUBLE_MOMENTS:
            self.type = torch.float64
        else:
            self.type = torch.bfloat16 if self.rounded else torch.float32
        for chunk in chain([] if first is None else [first], chunks):
            if chunk.shape[1] != widest:
                self.mismatch = chunk.shape[1]
                continue
            # Each narrow product is rounded once as a whole: the more there are, the better the roundings cancel.
            for part in chunk.split(2048 if self.rounded else _CHUNK):
                self._add(part)

    def rounding(self, covariance: Tensor) -> float:
        """About the largest eigenvalue of the error that bfloat16 leaves in the covariance.

        Inputs add (2^-9)²/3 of their square. Products are rounded by 2^-9/sqrt(3) of each entry, of either sign: the
        norm of a random matrix is at most about twice its longest row.
        """
        products = float(distributed.all_reduce_sum(torch.tensor([float(self.products)], device=self.sums.device)))
        entries = 2 * 2.0**-9 / math.sqrt(3 * products) * float(covariance.norm(dim=1).max())
        return entries + 2.0**-18 / 3 * float(covariance.diagonal().max())

    def _add(self, chunk: Tensor) -> None:
        self.count += len(chunk)
        self.products += 1
        shifted = chunk - self.shift
        totals = shifted.sum(1)
        self.broken += (~torch.isfinite(totals)).sum()
        self.sums += shifted.sum(0, dtype=torch.float64)
        if not self.covariance:
            return
        shifted = shifted.to(self.type)
        # Tiles on and above the diagonal are all there is to know about a symmetric matrix.
        edges = range(0, shifted.shape[1], _FULL_DECOMPOSITION)
        for row in edges:
            for column in edges[row // _FULL_DECOMPOSITION :]:
                left = shifted[:, row : row + _FULL_DECOMPOSITION].t()
                product = left @ shifted[:, column : column + _FULL_DECOMPOSITION]
                if (row, column) in self.tiles:
                    self.tiles[row, column] += product
                else:
                    self.tiles[row, column] = product.double()

    def reduce(self) -> tuple[Tensor, Tensor | None]:
        """Mean [D] and covariance [D, D] over all ranks, float64."""
        width = len(self.sums)
        facts = torch.tensor([self.count, int(self.broken), self.mismatch], device=self.sums.device)
        total, broken, mismatch = distributed.all_reduce_sum(facts).tolist()
        if mismatch:
            raise DataError(f"all feature rows must have one width, got {width} and {mismatch}.")
        if broken:
            raise DataError(
                f"{broken} of {total} feature rows hold NaN or infinity, whitening needs finite ones; "
                "check the images with `unlabeled check`, or lower lr if training diverged."
            )
        self.count = total
        offset = distributed.all_reduce_sum(self.sums) / total
        mean = self.shift.double() + offset
        if not self.covariance:
            return mean, None
        scatter = torch.zeros(width, width, dtype=torch.float64, device=self.sums.device)
        for (row, column), tile in self.tiles.items():
            scatter[row : row + tile.shape[0], column : column + tile.shape[1]] = tile
            if row != column:
                scatter[column : column + tile.shape[1], row : row + tile.shape[0]] = tile.t()
        covariance = distributed.all_reduce_sum(scatter).div_(total)
        return mean, covariance.sub_(torch.outer(offset, offset))


def _rough_mean(first: Tensor | None, width: int, device: torch.device) -> Tensor:
    """[D] mean of the first chunks of all ranks, the same on every rank; any nearby point would do."""
    sums = torch.zeros(width + 1, dtype=torch.float64, device=device)
    if first is not None and first.shape[1] == width:
        sums[:-1] = first.sum(0, dtype=torch.float64)
        sums[-1] = len(first)
    sums = distributed.all_reduce_sum(sums)
    return (sums[:-1] / sums[-1].clamp(min=1)).nan_to_num(0, 0, 0).float()


def _decompose(mean: Tensor, covariance: Tensor, moments: _Moments, dims: int, whiten: bool, seed: int) -> Whitening:
    width = len(mean)
    note = ""
    kept = dims
    if kept > width:
        kept, note = width, f"features are {width} wide, so {width} dimensions are kept instead of {dims}."
    count = moments.count
    if count <= kept:
        # With as many directions as rows, whitening would make all rows equally far apart and clustering a lottery.
        kept = max(1, count // 2)
        note = f"{count} rows are too few for {dims} dimensions, so {kept} are kept."
    full = width <= _FULL_DECOMPOSITION or 2 * (kept + _GUARD) > width
    values, vectors = _all_eigenvectors(covariance) if full else _subspace(covariance, kept + _GUARD, kept, seed)
    values, vectors = values[:kept], vectors[:, :kept]
    # float32 features carry rounding of about 1e-7 of their size, whose square is the variance of a dead direction;
    # float32 products of them leave 1e-7 itself.
    dead = 1e-11 if moments.type == torch.float64 else 1e-6
    alive = int((values > dead * values[0].clamp(min=0)).sum()) if float(values[0]) > 0 else 0
    if alive < kept:
        kept = max(1, alive)
        note = f"features vary along {alive} directions only, so {kept} dimensions are kept instead of {dims}."
    values, components = values[:kept].clamp(min=0), vectors[:, :kept].t().float().contiguous()
    components = _signed(components)
    # A set of equal rows has no direction at all: they all become zero rows, not NaN.
    scale = torch.where(values > 0, values, 1).rsqrt() if whiten else torch.ones_like(values)
    # Every rank has the same covariance, but not surely the same library or thread count.
    tensors = [distributed.broadcast(t.contiguous()) for t in (mean.float(), components, scale.float(), values)]
    return Whitening(*tensors, total_variance=float(covariance.diagonal().sum()), note=note)


def _signed(components: Tensor) -> Tensor:
    """Components [d, D] with the largest entry of each made positive: an eigenvector has no sign of its own."""
    return components * components.gather(1, components.abs().argmax(1, keepdim=True)).sign()


def _all_eigenvectors(covariance: Tensor) -> tuple[Tensor, Tensor]:
    values, vectors = torch.linalg.eigh(covariance)
    return values.flip(0), vectors.flip(1)


def _subspace(covariance: Tensor, size: int, wanted: int, seed: int) -> tuple[Tensor, Tensor]:
    """Top `size` eigenpairs, largest first, by subspace iteration with a Chebyshev filter and Rayleigh-Ritz steps.

    The filter is the polynomial that is small on [0, a], a the smallest eigenvalue carried, and grows fastest above it
    (Zhou, Saad, Tiago and Chelikowsky 2006). Products are float32 on a covariance scaled to unit mean variance, the
    [size, size] problem is float64. Stops when the `wanted` eigenvalues change by less than 1e-4: their error is the
    square of that of the vectors.
    """
    unit = covariance.diagonal().mean().clamp(min=1e-300)
    start = torch.randn(len(covariance), size, generator=generator(seed, "whitening")).to(covariance.device)
    scaled = (covariance / unit).float()
    basis, values = _iterate(scaled, scaled @ start, wanted)
    # float32 sees eigenvalues down to about a millionth of the first; where the wanted ones come near that, float64
    # does it.
    if float(values[wanted - 1]) < 1e-4 * float(values[0]):
        wide = covariance / unit
        basis, values = _iterate(wide, wide @ start.double(), wanted)
    return values * unit, basis


def _iterate(matrix: Tensor, block: Tensor, wanted: int) -> tuple[Tensor, Tensor]:
    """Rounds of filter and Ritz step in the type of `matrix`, from the span of `block`, until the values settle."""
    tiny = 10 * torch.finfo(matrix.dtype).eps
    basis, values = _ritz(matrix, block)
    for turn in range(12):
        cut = max(float(values[-1]), tiny * float(values[0]), 1e-300)
        # Growing too far apart at both ends of the wanted range would let rounding bury the lower one. Once the first
        # vectors have settled, hardly anything of them is left in the others, and twice the exponent is safe.
        growth = math.acosh(max(2 * float(values[0]) / cut - 1, 1 + 1e-6))
        room = -math.log(100 * tiny) * (1 if turn < 2 else 2)
        degree = int(max(1, min(10, room // growth)))
        half = cut / 2
        older, block = basis, (matrix @ basis) / half - basis
        for _ in range(degree - 1):
            older, block = block, 2 * ((matrix @ block) / half - block) - older
        before = values[:wanted]
        basis, values = _ritz(matrix, block)
        change = (values[:wanted] - before).abs()
        if bool((change <= 1e-4 * before.abs() + tiny * values[0]).all()):
            break
    return basis, values


def _ritz(matrix: Tensor, block: Tensor) -> tuple[Tensor, Tensor]:
    """Best approximate eigenvectors in the span of `block`, and their eigenvalues (float64), largest first."""
    basis = torch.linalg.qr(block).Q
    small = (basis.t() @ (matrix @ basis)).double()
    values, turn = torch.linalg.eigh((small + small.t()) / 2)
    return basis @ turn.flip(1).to(basis.dtype), values.flip(0)


def _chunks(features: Features, rectify: bool = False) -> Iterator[Tensor]:
    """[m, D] float32 pieces of moderate length, after a ReLU if asked, without reading a memory map as a whole."""
    pieces = [features] if isinstance(features, Tensor | np.ndarray) else features
    for piece in pieces:
        if piece.ndim != 2:
            raise DataError(f"features must be a matrix (rows, dimensions), got shape {tuple(piece.shape)}.")
        for start in range(0, len(piece), _CHUNK):
            part = piece[start : start + _CHUNK]
            part = (part if isinstance(part, Tensor) else torch.from_numpy(np.array(part))).float()
            yield part.relu() if rectify else part
