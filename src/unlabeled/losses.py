"""The losses of the papers as pure functions of outputs and targets; all return a scalar.

Shapes: N images, B batch, D output dims, K clusters or classes, m negatives.

Losses are means over the batch, except the square loss of Noise As Targets, whose published learning rate goes with a
sum. Outputs `z` and rows of a memory bank have length one where a temperature is involved. Gradients flow to the
outputs only, never to rows of a bank.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F

from unlabeled.device import resolve_precision
from unlabeled.errors import ConfigError, DataError

NCE_EPSILON = 1e-7
"""What the released code of Wu et al. adds to both denominators; 0 gives the equations of the paper."""


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Multinomial logistic loss of logits [B, K] for labels [B] (DeepCluster equation 1)."""
    return F.cross_entropy(logits, labels)


def weighted_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, class_weights: torch.Tensor) -> torch.Tensor:
    """Mean over the batch of class_weights[label] * loss, logits [B, K], labels [B], class_weights [K].

    DeepCluster section 3.3 with weights proportional to 1 / cluster size. Divided by B, not by the sum of the weights:
    then its expectation over natural draws is that of uniform draws over clusters, whatever the batch holds.
    """
    if class_weights.shape != logits.shape[1:]:
        raise DataError(
            f"every class needs one weight, got {tuple(class_weights.shape)} for {logits.shape[1]} classes."
        )
    return (class_weights[labels] * F.cross_entropy(logits, labels, reduction="none")).mean()


def square_loss(z: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Sum over batch and dims of (z - target)^2, both [B, D] (Noise As Targets eq. 2, scaled as in its code)."""
    return (z - targets).square().sum()


def square_loss_to_basis(z: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """`square_loss` to the basis vectors e_label without making them: |z|^2 - 2 z[label] + 1, summed over the batch.

    z [B, K], labels [B]. Discrete targets and the supervised square loss of Noise As Targets (section 4.1, table 1),
    where K can be 100,000.
    """
    return (z.square().sum(dim=1) - 2 * z.gather(1, labels[:, None])[:, 0] + 1).sum()


def restricted_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, subset: torch.Tensor) -> torch.Tensor:
    """Multinomial logistic loss over the classes of `subset` [S] alone (the thesis, section 4.7, "SGT").

    logits [B, K], labels [B], all of which must be in the subset. At most the loss over all classes.
    """
    return F.cross_entropy(logits[:, subset], positions_in(subset, labels))


def class_subset(labels: torch.Tensor, num_classes: int, size: int, generator: torch.Generator) -> torch.Tensor:
    """Sorted ids of all classes in `labels` [B] and as many random others as make up `size` classes (SGT).

    More than `size` if the batch alone holds more classes; all if `size` is at least `num_classes`.
    """
    order = torch.randperm(num_classes, generator=generator)
    present = torch.unique(labels.cpu())
    is_other = torch.ones(num_classes, dtype=torch.bool)
    is_other[present] = False
    others = order[is_other[order]][: max(size - len(present), 0)]
    return torch.cat([present, others]).sort().values.to(labels.device)


def positions_in(subset: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Where each of `labels` [B] stands in the sorted ids `subset` [S]; raises `DataError` if one is missing."""
    positions = torch.searchsorted(subset, labels).clamp(max=len(subset) - 1)
    if not torch.equal(subset[positions], labels):
        missing = int(labels[subset[positions] != labels][0])
        raise DataError(
            f"the subset of classes must be sorted and hold every class of the batch, class {missing} is missing."
        )
    return positions


def nonparametric_softmax(z: torch.Tensor, bank: torch.Tensor, index: torch.Tensor, temperature: float) -> torch.Tensor:
    """-log of P(index | z) = exp(bank[index] . z / t) / sum_j exp(bank[j] . z / t) (Wu et al. equation 2).

    z [B, D], bank [N, D], index [B]. Makes all B x N logits; `bank_softmax` gives the same without keeping them.
    """
    return F.cross_entropy(z @ bank.detach().T / positive_temperature(temperature), index)


def similarities(z: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Inner products of z [B, D] with its own rows [B, m, D], or with rows shared by the batch [m, D]; [B, m]."""
    rows = rows.detach()
    return z @ rows.T if rows.ndim == 2 else torch.einsum("bd,bmd->bm", z, rows)


def nce(
    positive: torch.Tensor,
    negative: torch.Tensor,
    *,
    num_images: int,
    temperature: float,
    normaliser: float | torch.Tensor,
    epsilon: float = NCE_EPSILON,
) -> torch.Tensor:
    """Noise-contrastive estimation of the softmax over all images (Wu et al. equations 4 to 7), mean over the batch.

    positive [B]: similarity of each output to its own row; negative [B, m]: to m rows drawn uniformly with replacement;
    normaliser: the constant Z, or one per row [B]. With P = exp(s / temperature) / Z and noise m / N, the loss of a row
    is -log(P+ / (P+ + m/N)) - sum over the m negatives of log((m/N) / (P- + m/N)): the noise term is a sum, not a mean.
    """
    temperature = positive_temperature(temperature)
    log_z = torch.as_tensor(normaliser, dtype=positive.dtype, device=positive.device).log()
    noise = negative.shape[1] / num_images
    own = positive / temperature - log_z
    others = negative / temperature - (log_z[:, None] if log_z.ndim else log_z)
    # log(exp(own) + noise + epsilon) without leaving the log domain, so that no similarity can overflow.
    log_noise = own.new_tensor(math.log(noise + epsilon))
    data_term = own - torch.logaddexp(own, log_noise)
    noise_term = math.log(noise) - torch.logaddexp(others, log_noise)
    return -(data_term + noise_term.sum(dim=1)).mean()


def sampled_softmax(positive: torch.Tensor, negative: torch.Tensor, temperature: float) -> torch.Tensor:
    """Cross-entropy of the positive similarity [B] against m sampled ones [B, m] (2020 update of Wu et al.'s code)."""
    logits = torch.cat([positive[:, None], negative], dim=1) / positive_temperature(temperature)
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64, device=logits.device))


def proximal(z: torch.Tensor, previous: torch.Tensor) -> torch.Tensor:
    """Mean over the batch of the squared distance to the row stored before, both [B, D] (Wu et al. equation 9)."""
    return (z - previous.detach()).square().sum(dim=1).mean()


def positive_temperature(temperature: float) -> float:
    """The temperature itself; raises `ConfigError` unless it is above 0."""
    if not temperature > 0:
        raise ConfigError(f"temperature must be above 0, got {temperature}; the papers use 0.07 or 0.1.")
    return temperature


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
