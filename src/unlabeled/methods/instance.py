"""Instance discrimination (Wu et al., CVPR 2018): every image is a class of its own, and a memory bank holds the classes.

The row of image i is a vector v_i, its own output on earlier visits. A batch's rows are rewritten after the step. The
loss asks that an output resemble its own row more than all others (equation 2),

    -log( exp(v_i . z / t) / Z_i ),   Z_i = sum over all j of exp(v_j . z / t)

either exactly (`softmax`), or by telling it from m rows drawn at random (`nce`, equations 4 to 7, with Z a constant), or
by a softmax over those alone (`sampled`). Rows change slowly because they are running means (`memory = momentum`, the
released code) or because the loss penalises leaving the last one (`proximal`, equations 9 and 10).

Shapes: N images (those of the subset, where there is one), B batch, D output dims, m negatives.
"""

from __future__ import annotations

import math

import torch

from unlabeled import losses
from unlabeled.config import Config
from unlabeled.distributed import all_gather_rows, rank, world_size
from unlabeled.losses import bank_softmax
from unlabeled.memory import MemoryBank, negatives
from unlabeled.methods.base import Embed, Method, OutputStatistics
from unlabeled.models import Backbone
from unlabeled.models.heads import l2_head
from unlabeled.randomness import generator

FIRST_VISITS = 3
"""Visits after which a row is mostly an output and no longer the random vector it began as."""


class InstanceDiscrimination(Method):
    """Targets are rows of `memory.bank` [N, D], named by the images' own indices (by `row_of` them, with a subset)."""

    def __init__(self, backbone: Backbone, num_images: int, config: Config) -> None:
        super().__init__(backbone, num_images, config.seed, config.subset)
        self.config = config
        dims = config.embedding_dims
        self.head = l2_head(backbone, dims, generator=generator(config.seed, "head"))
        # The paper's rows are the last visit's output, and the proximal term keeps them near the one before.
        momentum = config.memory_momentum if config.memory == "momentum" else 0.0
        drawn = "uniform" if config.memory_init == "uniform" else "sphere"
        self.memory = MemoryBank(self.num_rows, dims, seed=config.seed, momentum=momentum, init=drawn)
        self.statistics = OutputStatistics(dims, "own_similarity")
        self.steps = 0

    def before_epoch(self, epoch: int, embed: Embed) -> None:
        """Begin to count anew; the bank stays, but that it begins as the outputs of the first network if so asked."""
        if epoch == 0 and self.config.memory_init == "outputs":
            self.memory.fill(all_gather_rows(self.outputs(embed(self.chosen))))
        self.statistics.reset()

    def targets(self, index: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """The rows' numbers [B]. The constant of NCE is estimated here: at the first step, or with `ema` at each."""
        config = self.config
        if config.objective == "nce" and (
            config.normaliser == "ema" or (config.normaliser == "first" and not self.steps)
        ):
            own, others = self.similarities(z, self.row_of(index))
            self.memory.observe_normaliser(own, others, config.temperature, config.normaliser)
        return self.row_of(index)

    def loss(self, z: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The objective of outputs [B, D] against the whole bank, of which rows `target` [B] are their own."""
        value = self.objective(z, target)
        if self.config.memory == "proximal":
            value = value + self.config.proximal_weight * losses.proximal(z, self.memory.rows(target))
        return value

    def objective(self, z: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss without proximal term."""
        config = self.config
        if config.objective == "softmax":
            return bank_softmax(z, self.memory.bank, target, config.temperature, precision=config.precision)
        own, others = self.similarities(z, target)
        if config.objective == "sampled":
            return losses.sampled_softmax(own, others, config.temperature)
        constant = self.memory.normaliser
        if config.normaliser == "exact":
            constant = self.memory.exact_normaliser(z.detach(), config.temperature)
        return losses.nce(own, others, num_images=self.num_rows, temperature=config.temperature, normaliser=constant)

    def similarities(self, z: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Inner products of outputs with their own rows `target` [B], [B], and with this step's negatives, [B, m]."""
        own = losses.similarities(z, self.memory.rows(target)[:, None])[:, 0]
        return own, losses.similarities(z, self.memory.rows(self.negatives(len(z))))

    def negatives(self, batch: int) -> torch.Tensor:
        """Rows of this step's negatives: [B, m], drawn for every image of its own; for `sampled` [m], shared.

        They depend on the step and the place in the global batch, not on the number of ranks.
        """
        random = generator(self.seed, "negatives", self.steps, device=self.memory.bank.device)
        if self.config.objective == "sampled":
            return negatives(self.num_rows, (self.config.num_negatives,), random)
        drawn = negatives(self.num_rows, (batch * world_size(), self.config.num_negatives), random)
        return drawn[rank() * batch : (rank() + 1) * batch]

    def after_step(self, index: torch.Tensor, z: torch.Tensor) -> None:
        """Rewrite the rows of all images of the global batch, on every rank alike."""
        z, own = z.float(), self.row_of(index)
        self.statistics.add(z, (z * self.memory.rows(own)).sum(dim=1))
        self.memory.update(all_gather_rows(own), all_gather_rows(z))
        self.steps += 1

    def summary(self) -> dict[str, float]:
        """Value of the loss for outputs that say nothing, similarity of outputs to their own rows, spread of outputs.

        With NCE also `normaliser`, the constant Z in units of N.
        """
        self.memory.check()
        result = self.statistics.summary()
        chance = self.chance_loss()
        if chance is not None:
            result["chance_loss"] = chance
        if self.config.objective == "nce" and self.config.normaliser != "exact":
            result["normaliser"] = float(self.memory.normaliser) / self.num_rows
        return result

    def chance_loss(self) -> float | None:
        """The objective where every row is equally similar, P(i | z) = 1 / N; None where the loss says nothing about it.

        That is with a proximal term, with a constant Z, which fits no other similarities than those it was taken from,
        and before every row has been visited a few times: random rows are far from all outputs alike.
        """
        seen = self.steps * self.config.batch_size * world_size()
        exact = self.config.objective != "nce" or self.config.normaliser == "exact"
        if self.config.memory == "proximal" or not exact or seen < FIRST_VISITS * self.num_rows:
            return None
        m = self.config.num_negatives
        if self.config.objective == "softmax":
            return math.log(self.num_rows)
        return math.log1p(m) + (m * math.log1p(1 / m) if self.config.objective == "nce" else 0.0)

    def spaces(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
        """The bank as it is (stale, of augmented views: what the released code scores), and the outputs made anew.

        In the bank an image outside the subset has a row of zeros, which is like nothing.
        """
        bank = self.memory.bank.cpu()
        if self.chosen is not None:
            bank = bank.new_zeros(self.num_images, bank.shape[1]).index_copy_(0, self.chosen.cpu(), bank)
        return {"bank": bank, "output": self.outputs(features)}

    def table_bytes(self) -> int:
        """The bank, and the rows that a step gathers for its negatives, once more for their gradient's sake."""
        gathered = 0
        if self.config.objective == "nce":
            gathered = 2 * 4 * self.config.batch_size * self.config.num_negatives * self.config.embedding_dims
        return super().table_bytes() + gathered

    @staticmethod
    def facts(config: Config) -> dict[str, str]:
        """Which loss, and what the rows are."""
        against = {
            "softmax": "the whole bank, exactly",
            "nce": f"{config.num_negatives:,} random rows (NCE, normaliser {config.normaliser})",
            "sampled": f"a softmax over {config.num_negatives:,} random rows",
        }
        kept = (
            f"momentum {config.memory_momentum:g}"
            if config.memory == "momentum"
            else f"proximal {config.proximal_weight:g}"
        )
        return {
            "each image against": against.get(config.objective, ""),
            "memory bank": f"{config.embedding_dims} dims, {kept}",
            "temperature": f"{config.temperature:g}",
        }

    def get_extra_state(self) -> torch.Tensor:
        """Steps since the run began: the key of the negatives."""
        return torch.tensor(self.steps)

    def set_extra_state(self, state: torch.Tensor) -> None:
        """Take over what `get_extra_state` gave."""
        self.steps = int(state)
