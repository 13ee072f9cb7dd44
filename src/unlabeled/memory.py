"""The memory bank of instance discrimination: one vector for every image, rewritten whenever the image is seen.

Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination" (CVPR 2018), section 3.

Shapes: N images, B batch, D dims, m negatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from unlabeled import losses
from unlabeled.config import Normaliser
from unlabeled.distributed import all_reduce_sum, broadcast
from unlabeled.errors import ConfigError, DataError
from unlabeled.randomness import generator

Init = Literal["sphere", "uniform"]
EMA = 0.99
"""How much of the normaliser is kept at a step where it is a moving average."""


class MemoryBank(nn.Module):
    """Rows of length one [N, D], and the normaliser Z that noise-contrastive estimation needs; both are in
    `state_dict()`.

    `momentum` m gives row <- unit(m * row + (1 - m) * z), the released code's way (0.5); 0 overwrites, the paper's way
    with the proximal term. `init` "sphere" draws unit vectors as the paper says; "uniform" draws coordinates in
    +-sqrt(3 / D) as the released code does, with lengths near one.
    """

    bank: torch.Tensor
    normaliser: torch.Tensor
    repeats: torch.Tensor

    def __init__(self, num_images: int, dims: int, *, seed: int, momentum: float = 0.5, init: Init = "sphere") -> None:
        super().__init__()
        if num_images < 1 or dims < 1:
            raise ConfigError(f"a memory bank needs at least one image and one dimension, got {num_images} and {dims}.")
        if not 0 <= momentum < 1:
            raise ConfigError(f"momentum of the memory bank must lie in [0, 1), got {momentum}; 0 overwrites the rows.")
        self.momentum = momentum
        random = generator(seed, "memory bank")
        if init == "sphere":
            bank = F.normalize(torch.randn(num_images, dims, generator=random), dim=1)
        else:
            bank = (torch.rand(num_images, dims, generator=random) * 2 - 1) * (3 / dims) ** 0.5
        self.register_buffer("bank", bank)
        self.register_buffer("normaliser", torch.zeros(()))
        self.register_buffer("repeats", torch.zeros((), dtype=torch.int64), persistent=False)

    def __len__(self) -> int:
        return len(self.bank)

    def rows(self, index: torch.Tensor) -> torch.Tensor:
        """The rows of `index`, of any shape [...]: [..., D], a copy on the bank's device."""
        return self.bank[index.to(self.bank.device)]

    def fill(self, z: torch.Tensor) -> None:
        """Rewrite every row from outputs z [N, D] of length one, whatever it was."""
        self.bank.copy_(broadcast(z.to(self.bank)))

    @torch.no_grad()
    def update(self, index: torch.Tensor, z: torch.Tensor) -> None:
        """Rewrite the rows of `index` [B] from outputs z [B, D] of length one; every other row stays as it is, bit for
        bit.

        Raises `DataError` if an image appears twice: which of its outputs would be kept is nobody's decision. On a GPU
        `check` raises it instead, so that no step waits for the device.
        """
        index, z = index.to(self.bank.device), z.to(self.bank)
        ordered = index.sort().values
        self.repeats += (ordered[1:] == ordered[:-1]).sum()
        if self.bank.device.type == "cpu":
            self.check()
        mixed = self.bank[index] * self.momentum + z * (1 - self.momentum)
        self.bank[index] = F.normalize(mixed, dim=1)

    def check(self) -> None:
        """Raise `DataError` if an update since the last call had an image twice."""
        repeats = int(self.repeats)
        self.repeats.zero_()
        if repeats:
            raise DataError(
                f"an image may appear once in a batch, got {repeats} repeats; draw without replacement, and begin the run anew."
            )

    @torch.no_grad()
    def observe_normaliser(
        self, positive: torch.Tensor, negative: torch.Tensor, temperature: float, kind: Normaliser = "first"
    ) -> torch.Tensor:
        """The normaliser to use for this batch, from its similarities [B] and [B, m] (`losses.similarities`).

        The estimate is N times the mean of exp(s / temperature) over positives and negatives of all ranks, as in the
        released code. "first" keeps the one of the first batch ever; "ema" moves towards it by 1 percent at each call.
        """
        if kind == "exact":
            raise ConfigError("an exact normaliser is not estimated from similarities; use `exact_normaliser`.")
        values = torch.cat([positive[:, None], negative], dim=1).double() / temperature
        sums = all_reduce_sum(torch.stack([values.exp().sum(), values.new_tensor(values.numel())]))
        estimate = (len(self) * sums[0] / sums[1]).to(self.normaliser)
        later = EMA * self.normaliser + (1 - EMA) * estimate if kind == "ema" else self.normaliser
        # A selection on the device: asking whether there is one yet would make the step wait.
        self.normaliser.copy_(torch.where(self.normaliser == 0, estimate, later))
        return self.normaliser

    @torch.no_grad()
    def exact_normaliser(self, z: torch.Tensor, temperature: float, chunk: int = 65_536) -> torch.Tensor:
        """Z of each output z [B, D]: the sum over all N rows of exp(row . z / temperature), float64 [B]."""
        total = torch.zeros(len(z), dtype=torch.float64, device=z.device)
        for rows in self.bank.split(chunk):
            total += (z @ rows.to(z).T / losses.positive_temperature(temperature)).double().exp().sum(dim=1)
        return total


def negatives(num_images: int, shape: Sequence[int], random: torch.Generator) -> torch.Tensor:
    """Images drawn uniformly with replacement from all N, int64 of this shape; the positive may be among them."""
    return torch.randint(num_images, tuple(shape), generator=random, device=random.device)


def alias_table(weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Walker's alias table of the distribution proportional to `weights` [n]: (keep [n] float64, alias [n] int64).

    Drawing a column uniformly and keeping it with probability keep[column], else taking alias[column], gives the
    distribution in constant time a draw. Raises `DataError` unless weights are finite, not negative, and not all 0.
    """
    values = weights.double().cpu()
    if (
        values.ndim != 1
        or not len(values)
        or not bool(values.isfinite().all())
        or bool((values < 0).any())
        or not values.any()
    ):
        raise DataError("weights of a distribution must be a vector of finite numbers from 0 up, not all of them 0.")
    # Columns of mean height one: each one below is filled up from one above, which becomes its alias.
    keep = (values / values.sum() * len(values)).tolist()
    alias = list(range(len(keep)))
    below = [i for i, height in enumerate(keep) if height < 1]
    above = [i for i, height in enumerate(keep) if height >= 1]
    while below and above:
        low, high = below.pop(), above[-1]
        alias[low] = high
        keep[high] -= 1 - keep[low]
        if keep[high] < 1:
            below.append(above.pop())
    for i in below + above:  # what is left differs from one by rounding only
        keep[i] = 1.0
    return torch.tensor(keep, dtype=torch.float64), torch.tensor(alias)


def alias_draw(keep: torch.Tensor, alias: torch.Tensor, shape: Sequence[int], random: torch.Generator) -> torch.Tensor:
    """Draws with replacement from the distribution of an alias table, int64 of this shape."""
    columns = torch.randint(len(keep), tuple(shape), generator=random)
    is_kept = torch.rand(tuple(shape), generator=random, dtype=torch.float64) < keep[columns]
    return torch.where(is_kept, columns, alias[columns])
