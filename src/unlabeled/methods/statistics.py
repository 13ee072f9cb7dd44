"""What an epoch's outputs looked like, as running sums: spread, and means of whatever a method adds.

Shapes: B batch of this rank, K output dims.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from unlabeled.distributed import all_reduce_sum


class OutputStatistics(nn.Module):
    """Sums over the steps of an epoch and over all ranks, in a buffer, so that a run resumed inside an epoch knows them."""

    sums: torch.Tensor

    def __init__(self, dims: int, *names: str) -> None:
        """`dims` of the outputs whose spread is measured, 0 for none; `names` of the values whose means are taken."""
        super().__init__()
        self.dims, self.names = dims, names
        self.register_buffer("sums", torch.zeros(dims + 1 + len(names), dtype=torch.float64))

    def reset(self) -> None:
        """Begin an epoch."""
        self.sums.zero_()

    @torch.no_grad()
    def add(self, z: torch.Tensor, *values: torch.Tensor) -> None:
        """Count the outputs z [B, K] of a step and the values [B] that go with them, in the order of the names."""
        columns = [F.normalize(z, dim=1)] if self.dims else []
        columns += [torch.ones_like(z[:, :1]), *(value.to(z.dtype)[:, None] for value in values)]
        # Within a batch float32 is enough; over an epoch it is not.
        self.sums += all_reduce_sum(torch.cat(columns, dim=1).sum(dim=0).double())

    def summary(self) -> dict[str, float]:
        """The means by name; `feature_std` and `mean_cosine` of the outputs as in `health.feature_statistics`."""
        sums = self.sums.cpu()
        count = float(sums[self.dims])
        if not count:
            return {}
        result = dict(zip(self.names, (sums[self.dims + 1 :] / count).tolist(), strict=True))
        if self.dims and count > 1:
            squared = float(sums[: self.dims].square().sum())
            result["feature_std"] = math.sqrt(max(1 - squared / count**2, 0.0))
            result["mean_cosine"] = (squared - count) / (count * (count - 1))
        return result
