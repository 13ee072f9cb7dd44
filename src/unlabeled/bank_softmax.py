"""The exact softmax over a whole memory bank, without ever holding its logits.

Shapes: N images, B batch, D dims.

For z [B, D] and a bank V [N, D], both with rows of length one, the loss of row i of class y_i is (Wu et al. equation 2)

    l_i = log sum_j exp(s_ij) - s_iy,    s = z V^T / t,    dl_i / dz_i = (sum_j p_ij v_j - v_y) / t,    p = softmax(s)

The sum and the gradient need the same exponentials, so one pass over the bank in chunks that stay in cache gives both:
the forward pass makes the gradient and the backward pass only scales it. Because |s| <= 1 / t no maximum is needed, unless
t is below 1/60: then one more pass finds it. In bfloat16 the products round; each image's own term, the only one that is
large by itself once training has begun, is taken in float32.
"""

from __future__ import annotations

from typing import Any

import torch

from unlabeled.device import resolve_precision
from unlabeled.errors import DataError
from unlabeled.losses import positive_temperature

SCORES_CPU = 2**20
"""Scores held at once on a CPU: 2 MB in bfloat16, which stays in the second-level cache."""
SCORES_GPU = 2**23
"""Scores held at once on a GPU: 16 MB in bfloat16, enough to fill it and within its second-level cache."""
LARGEST_EXPONENT = 60.0
"""exp(60) times ten million rows is far from the largest float32; where scores can be larger they are shifted down."""


def bank_softmax(
    z: torch.Tensor, bank: torch.Tensor, index: torch.Tensor, temperature: float, *, precision: str = "auto"
) -> torch.Tensor:
    """Mean over the batch of -log softmax(z bank^T / temperature)[index]; differentiable in z, which gets the gradient
    at once.

    z [B, D] and bank [N, D] with rows of length one, index [B]. Products in bfloat16 where it is fast or asked for,
    sums in float32; the extra memory is one chunk of scores. Raises `DataError` if the shapes do not fit.
    """
    if z.ndim != 2 or bank.ndim != 2 or z.shape[1] != bank.shape[1] or index.shape != (len(z),):
        raise DataError(
            f"outputs [B, D], bank [N, D] and index [B] must fit, got {tuple(z.shape)}, {tuple(bank.shape)} and "
            f"{tuple(index.shape)}."
        )
    dtype = torch.float64 if z.dtype == torch.float64 else resolve_precision(precision, z.device)
    return _BankSoftmax.apply(z, bank, index, positive_temperature(temperature), dtype)  # pyright: ignore


class _BankSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(  # pyright: ignore
        ctx: Any, z: torch.Tensor, bank: torch.Tensor, index: torch.Tensor, temperature: float, dtype: torch.dtype
    ) -> torch.Tensor:
        wide = torch.promote_types(dtype, torch.float32)
        outputs, own_rows = z.detach().to(wide), bank[index].to(wide)
        own = (outputs * own_rows).sum(dim=1) / temperature
        scaled = (outputs / temperature).to(dtype)
        shift = _shift(scaled, bank) if 1 / temperature > LARGEST_EXPONENT else None
        total, mean = _accumulate(scaled, bank, index, shift, ctx.needs_input_grad[0])
        subtracted = 0.0 if shift is None else shift[:, 0].to(wide)
        own_weight = (own - subtracted).exp()
        total += own_weight
        if ctx.needs_input_grad[0]:
            mean += own_weight[:, None] * own_rows
            gradient = (mean / total[:, None] - own_rows) / (temperature * len(z))
            ctx.save_for_backward(gradient.to(z.dtype))
        return (total.log() + subtracted - own).mean()

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # pyright: ignore
        (gradient,) = ctx.saved_tensors
        return grad_output * gradient, None, None, None, None


def _shift(scaled: torch.Tensor, bank: torch.Tensor) -> torch.Tensor:
    # What brings the largest score of each row down to the exponent allowed, [B, 1], at least 0.
    length = _chunk(len(scaled), bank)
    largest = [(scaled @ rows.to(scaled.dtype).T).amax(dim=1) for rows in bank.split(length)]
    return (torch.stack(largest, dim=1).amax(dim=1, keepdim=True) - LARGEST_EXPONENT).clamp_(min=0)


def _chunk(batch: int, bank: torch.Tensor) -> int:
    # Rows of the bank whose scores are held at once.
    return min(len(bank), max((SCORES_CPU if bank.device.type == "cpu" else SCORES_GPU) // batch, 1))


def _accumulate(
    scaled: torch.Tensor, bank: torch.Tensor, index: torch.Tensor, shift: torch.Tensor | None, with_gradient: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    # Sums over all rows but each image's own: weights exp(s - shift) [B], and weights times rows [B, D].
    batch, dims = scaled.shape
    wide = torch.promote_types(scaled.dtype, torch.float32)
    total = torch.zeros(batch, dtype=wide, device=scaled.device)
    mean = torch.zeros(batch, dims, dtype=wide, device=scaled.device)
    length = _chunk(batch, bank)
    scores = torch.empty(batch * length, dtype=scaled.dtype, device=scaled.device)
    order = torch.arange(batch, device=scaled.device)
    for start in range(0, len(bank), length):
        rows = bank[start : start + length].to(scaled.dtype)
        weights = torch.mm(scaled, rows.T, out=scores[: batch * len(rows)].view(batch, len(rows)))
        if shift is not None:
            weights.sub_(shift)
        weights.exp_()
        position = index - start
        is_here = (position >= 0) & (position < len(rows))
        # A product instead of a selection: how many are here would have to come back from the GPU.
        clamped = position.clamp(0, len(rows) - 1)
        weights[order, clamped] = torch.where(is_here, 0, weights[order, clamped])
        total += weights.sum(dim=1, dtype=wide)
        if with_gradient:
            mean += weights @ rows
    return total, mean
