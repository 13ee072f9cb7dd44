"""Batch correction: features of images from different batches (plates, dates, cameras) made comparable.

Within each batch every dimension is standardized, z = (x - mean_b) / std_b. Mean and standard deviation of a small batch
are uncertain and are drawn towards those of all images with the weight of `SHRINKAGE` images:

    mean_b = (n_b m_b + s m) / (n_b + s)        var_b = (n_b v_b + s v) / (n_b + s)

(empirical Bayes as in ComBat, Johnson, Li and Rabinovic 2007, with a fixed weight). It removes whatever differs between
batches, also a kind of image that only one batch holds: see docs/batches.md.

Shapes: N images, D dimensions, B batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from unlabeled.distributed import all_reduce_sum
from unlabeled.errors import DataError

LEAST_IMAGES = 20
"""Images that a batch unknown to the run must have to get statistics of its own."""
SHRINKAGE = 10.0
"""Images that the statistics of all images count for in those of one batch."""


@dataclass(frozen=True)
class BatchCorrection:
    """Mean and standard deviation of each batch and of all images; the same on every rank."""

    names: tuple[str, ...]
    """Of the batches, B."""
    mean: torch.Tensor
    """[B + 1, D] float32; the last row is that of all images, for a batch that is not known."""
    std: torch.Tensor
    """[B + 1, D] float32, above 0."""

    def apply(self, rows: torch.Tensor, batch: Sequence[str] | None = None) -> torch.Tensor:
        """Standardized rows [N, D] float32; of unknown batches, and without `batch`, by the statistics of all images."""
        position = {name: k for k, name in enumerate(self.names)}
        known = (
            [position.get(name, len(self.names)) for name in batch]
            if batch is not None
            else [len(self.names)] * len(rows)
        )
        index = torch.tensor(known, dtype=torch.int64)
        return (rows.float() - self.mean[index]) / self.std[index]

    def unknown(self, batch: Sequence[str]) -> list[str]:
        """Names of batches that are not among those fitted, sorted."""
        return sorted(set(batch) - set(self.names))

    def extended(self, rows: torch.Tensor, batch: Sequence[str], least: int = LEAST_IMAGES) -> BatchCorrection:
        """With statistics of its own for every batch that is not known and has `least` images among these rows [N, D]."""
        counts = {name: sum(other == name for other in batch) for name in self.unknown(batch)}
        large = [name for name, count in counts.items() if count >= least]
        if not large:
            return self
        means, stds = [self.mean[:-1]], [self.std[:-1]]
        for name in large:
            own = rows[torch.tensor([other == name for other in batch])].double()
            weight = len(own) / (len(own) + SHRINKAGE)
            means.append((weight * own.mean(0) + (1 - weight) * self.mean[-1]).float()[None])
            variance = weight * own.var(0, correction=0) + (1 - weight) * self.std[-1].square()
            stds.append(torch.where(variance > 1e-12, variance.sqrt(), 1.0).float()[None])
        mean, std = torch.cat([*means, self.mean[-1:]]), torch.cat([*stds, self.std[-1:]])
        return BatchCorrection((*self.names, *large), mean, std)

    def to_tensors(self) -> dict[str, torch.Tensor]:
        """Named tensors, for storage without pickle."""
        text = "\0".join(self.names).encode(errors="surrogateescape")
        return {"names": torch.tensor(list(text), dtype=torch.uint8), "mean": self.mean, "std": self.std}

    @staticmethod
    def from_tensors(tensors: dict[str, torch.Tensor]) -> BatchCorrection:
        """The inverse of `to_tensors`."""
        text = bytes(tensors["names"].tolist()).decode(errors="surrogateescape")
        return BatchCorrection(tuple(text.split("\0")), tensors["mean"], tensors["std"])


def fit(rows: torch.Tensor, batch: Sequence[str], names: Sequence[str]) -> BatchCorrection:
    """Statistics of this rank's rows [n, D] with the batch of each, summed over ranks.

    names: of all batches, the same on every rank.

    Raises:
        DataError: another number of batches than rows.
    """
    if len(batch) != len(rows):
        raise DataError(f"every row needs a batch, got {len(rows):,} rows and {len(batch):,} batches.")
    position = {name: k for k, name in enumerate(names)}
    index = torch.from_numpy(np.array([position[name] for name in batch], dtype=np.int64))
    count, dims = len(names), rows.shape[1]
    sums = torch.zeros(2, count, dims, dtype=torch.float64)
    sizes = torch.zeros(count, dtype=torch.float64).index_add_(0, index, torch.ones(len(rows), dtype=torch.float64))
    sums[0].index_add_(0, index, rows.double())
    sums[1].index_add_(0, index, rows.double().square())
    sums, sizes = all_reduce_sum(sums), all_reduce_sum(sizes)
    total = sizes.sum().clamp(min=1)
    mean_all = sums[0].sum(0) / total
    var_all = (sums[1].sum(0) / total - mean_all.square()).clamp(min=0)
    each = sizes.clamp(min=1)[:, None]
    mean = sums[0] / each
    variance = (sums[1] / each - mean.square()).clamp(min=0)
    weight = sizes[:, None] / (sizes[:, None] + SHRINKAGE)
    mean = torch.cat((weight * mean + (1 - weight) * mean_all, mean_all[None]))
    variance = torch.cat((weight * variance + (1 - weight) * var_all, var_all[None]))
    # A dimension that never changes stays 0 after its mean is taken away.
    std = torch.where(variance > 1e-12, variance.sqrt(), 1.0)
    return BatchCorrection(tuple(names), mean.float(), std.float())
