"""What every method shares: the target table and the times at which a method may act.

Follow the data: image index -> view -> network -> output z -> loss(z, target[index]) -> step -> table. The index is part of
every batch, so nothing else needs to know which method runs. A method is a torch Module whose table, codes or bank are
buffers: `state_dict()` is the whole story.

Shapes: N images, n of them with a row in the table, B batch, D feature dimensions, K outputs.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import nn

from unlabeled.config import Config
from unlabeled.data import samplers
from unlabeled.distributed import all_reduce_sum
from unlabeled.errors import ConfigError
from unlabeled.models import Backbone
from unlabeled.randomness import generator


class Embed(Protocol):
    """Makes features with the network as it is now."""

    def __call__(self, index: torch.Tensor | None = None, *, as_trained: bool = False) -> torch.Tensor:
        """This rank's contiguous part, [n, D] float32, of the features of the images `index` (int64 [m], the same on
        every rank), in that order; of all images in index order where not given.

        `as_trained`: with the statistics of each batch, as the head sees features while it is trained.
        """
        ...


class Method(nn.Module):
    """A backbone, a head and a table of targets. Hooks are named by the time they run; the default ones do nothing."""

    backbone: Backbone
    head: nn.Module
    config: Config
    chosen: torch.Tensor | None
    row_of_image: torch.Tensor | None

    def __init__(self, backbone: Backbone, num_images: int, seed: int, subset: int = 0) -> None:
        """With `subset` only so many images, the same for ever, have a row and are trained on; 0 is all.

        Raises ConfigError where there are fewer images.
        """
        super().__init__()
        self.backbone = backbone
        self.num_images = num_images
        self.seed = seed
        chosen, row_of_image = fixed_subset(num_images, subset, seed), None
        if chosen is not None:
            row_of_image = torch.full((num_images,), -1).index_copy_(0, chosen, torch.arange(subset))
        # The seed makes them again, so they are no part of the state.
        self.register_buffer("chosen", chosen, persistent=False)
        self.register_buffer("row_of_image", row_of_image, persistent=False)

    @property
    def num_rows(self) -> int:
        """n, rows of the table."""
        return self.num_images if self.chosen is None else len(self.chosen)

    def row_of(self, index: torch.Tensor) -> torch.Tensor:
        """Where in the table the rows of these images are: int64 of the same shape, -1 for an image that has none."""
        return index if self.row_of_image is None else self.row_of_image[index]

    @property
    def images_per_epoch(self) -> int:
        """How many images `draw` gives."""
        return self.num_rows

    def network(self) -> nn.Sequential:
        """Backbone and head as one module: all that the optimizer and other ranks see."""
        return nn.Sequential(self.backbone, self.head)

    def assignment(self, epoch: int) -> torch.Tensor | None:
        """The cluster of every image, int64 [N], -1 = none, if `before_epoch` made them anew for this epoch; else None."""
        return None

    def before_epoch(self, epoch: int, embed: Embed) -> None:
        """Rewrite every row of the table, from features of all images.

        `embed` comes first: it may raise `Interrupted`, and the method is then saved as it was before this epoch.
        """

    def draw(self, epoch: int) -> torch.Tensor:
        """Which images this epoch shows, in which order: int64 [M], the same on every rank. Each once unless overridden."""
        order = torch.randperm(self.num_rows, generator=generator(self.seed, "draw", epoch))
        return order if self.chosen is None else self.chosen.cpu()[order]

    def before_step(self, index: torch.Tensor) -> None:
        """Prepare for the images of the next step, int64 [B], before the network sees them."""

    def targets(self, index: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """Rows of the table for these images: [B, ...]."""
        raise TypeError(f"{type(self).__name__} must say what its targets are")

    def loss(self, z: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Scalar loss of outputs [B, K] against their targets."""
        raise TypeError(f"{type(self).__name__} must say what its loss is")

    def after_step(self, index: torch.Tensor, z: torch.Tensor) -> None:
        """Rewrite the rows of the images just seen."""

    def summary(self) -> dict[str, float]:
        """Numbers about the table for the journal, after an epoch."""
        return {}

    def spaces(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
        """Other features of all images that deserve a kNN check, [N, ...] by name, from the backbone's [N, D]."""
        return {}

    def table_bytes(self) -> int:
        """Memory of the table and what belongs to it."""
        own = {id(buffer) for part in (self.backbone, self.head) for buffer in part.buffers()}
        return sum(buffer.nbytes for buffer in self.buffers() if id(buffer) not in own)

    @staticmethod
    def facts(config: Config) -> dict[str, str]:
        """What the table is and when it is rewritten, for the plan and the report: fact by name."""
        return {}

    def describe(self) -> str:
        """The method and its facts in one clause."""
        known = self.facts(self.config)
        if self.config.subset:
            mode = self.config.subset_mode
            known = known | {"trained on": f"{self.config.subset:,} of {self.num_images:,} images ({mode})"}
        facts = "; ".join(f"{name}: {fact}" for name, fact in known.items())
        return f"{self.config.method} ({facts})" if facts else self.config.method

    def outputs(self, features: torch.Tensor, chunk: int = 8192) -> torch.Tensor:
        """The head on features [n, D] of the backbone: [n, K] on the CPU, without gradient."""
        device = next(self.head.parameters()).device
        with torch.no_grad():
            return torch.cat([self.head(rows.to(device)).float().cpu() for rows in features.split(chunk)])


def fixed_subset(num_images: int, size: int, seed: int) -> torch.Tensor | None:
    """The `size` images that every method with this seed is trained on, int64 [size], rising; None where `size` is 0.

    Raises ConfigError where there are fewer images.
    """
    check_subset(size, num_images)
    return samplers.subset(num_images, size, generator(seed, "subset", 0)) if size else None


def check_subset(size: int, num_images: int) -> None:
    """Raise ConfigError if a subset of `size` is more than there is."""
    if size > num_images:
        raise ConfigError(f"subset ({size:,}) must be at most the number of images ({num_images:,}); give 0 for all.")


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
        """The means by name; `feature_std` and `mean_cosine` of the outputs as in `diagnostics.feature_statistics`."""
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
