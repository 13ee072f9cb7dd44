"""Optimal assignment for Noise As Targets (Bojanowski and Joulin 2017, section 3.2): who gets which code.

Shapes: B outputs of a batch and as many codes; n outputs and k codes in the rectangular case. The solver is exact, on
floating-point scores. It is a shortest augmenting path method (Jonker and Volgenant 1987) from lapx, or SciPy's.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unlabeled.errors import DataError


def assign_batch(scores: Tensor) -> Tensor:
    """The permutation [B] that maximises the sum of scores[i, permutation[i]] over the batch.

    `scores` is [B, B], the inner products of outputs (rows) and codes (columns); it is solved on the CPU and the answer
    returned on its device. Raises DataError if it is not square, or not finite.
    """
    if scores.ndim != 2 or scores.shape[0] != scores.shape[1]:
        raise DataError(f"scores must be a square matrix (outputs, codes), got {tuple(scores.shape)}.")
    return _assigned(scores, -1)


def assign_full(cost: Tensor) -> Tensor:
    """The column [n] of each row, all different, that minimises the sum of `cost` [n, k].

    With k > n some columns stay without a row. With k < n there are not enough: DataError says so, repeat the columns.
    Exact over the whole set: cubic in n, meant for small sets and for tests (spec M07).
    """
    if cost.ndim != 2:
        raise DataError(f"costs must be a matrix (outputs, codes), got {tuple(cost.shape)}.")
    rows, columns = cost.shape
    if rows > columns:
        raise DataError(
            f"every output needs a code of its own, got {rows} outputs and {columns} codes; repeat codes so that there "
            "are at least as many."
        )
    return _assigned(cost, 1)


def _assigned(table: Tensor, sign: int) -> Tensor:
    # NumPy from here on: waking torch's threads for so small a matrix would cost more than the solver.
    cost = sign * table.detach().cpu().double().numpy()
    if not np.isfinite(cost).all():
        raise DataError("scores hold NaN or infinity, assignment needs finite ones; lower lr if training diverged.")
    return torch.from_numpy(_solve(cost, wide=table.dtype == torch.float64)).to(table.device)


def assign_free(scores: Tensor) -> Tensor:
    """The best column [n] of each row, shared or not (spec M08, set Q): what collapses when features are learned."""
    return scores.argmax(1)


def _solve(cost: NDArray[np.float64], *, wide: bool) -> NDArray[np.int64]:
    if not cost.size:
        return np.zeros(0, dtype=np.int64)
    try:
        from lap import lapjvs
    except ImportError:
        from scipy.optimize import linear_sum_assignment

        return np.asarray(linear_sum_assignment(cost)[1], dtype=np.int64)
    # The float32 kernel is two to three times faster and loses no more than float32 scores have lost themselves.
    columns = lapjvs(np.ascontiguousarray(cost), return_cost=False, jvx_like=False, prefer_float32=not wide)[0]
    return np.asarray(columns, dtype=np.int64)
