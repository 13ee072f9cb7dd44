"""Controls whose table never changes: the true label, or the image's own number.

`Supervised` is the yardstick of every paper's tables: the same network, views and loop, told the answer. Loss: softmax,
or the squared distance of a unit output to the basis vector of its class (Noise As Targets, table 1).
`ParametricInstance` is instance discrimination with a learned weight vector per image in place of the memory bank
(Wu et al. 2018, equation 1 and table 1).

Shapes: N images, B batch, D output dims, K classes.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from unlabeled import losses, metrics
from unlabeled.config import Config
from unlabeled.distributed import world_size
from unlabeled.errors import DataError
from unlabeled.methods.base import Embed, Method
from unlabeled.methods.statistics import OutputStatistics
from unlabeled.models import Backbone
from unlabeled.models.heads import l2_head, linear_head
from unlabeled.randomness import generator


class Supervised(Method):
    """Targets are classes: `labels`, int64 [N], -1 for images without a label, which are not trained on."""

    labels: torch.Tensor

    def __init__(self, backbone: Backbone, labels: torch.Tensor, config: Config) -> None:
        """Raises DataError where there are fewer than two classes."""
        super().__init__(backbone, len(labels), config.seed)
        self.config = config
        self.register_buffer("labels", labels.clone())
        self.num_classes = int(labels.max()) + 1
        if len(labels[labels >= 0].unique()) < 2:
            raise DataError(
                f"method = supervised needs at least 2 classes, the {len(labels):,} images have "
                f"{len(labels[labels >= 0].unique())}; check `--labels`."
            )
        self.head = self.make_head(generator(config.seed, "head"))
        self.statistics = OutputStatistics(self.spread_dims(), "top1")

    def make_head(self, random: torch.Generator) -> nn.Module:
        """Logits [B, K]; for the square loss of length one."""
        make = l2_head if self.config.supervised_loss == "square" else linear_head
        return make(self.backbone, self.num_classes, generator=random)

    def spread_dims(self) -> int:
        """Dims of the outputs whose spread is worth measuring."""
        return self.num_classes

    def before_epoch(self, epoch: int, embed: Embed) -> None:
        """Begin to count anew."""
        self.statistics.reset()

    @property
    def images_per_epoch(self) -> int:
        """As many as have a label."""
        return int((self.labels >= 0).sum())

    def draw(self, epoch: int) -> torch.Tensor:
        """Every labelled image once."""
        labelled = (self.labels >= 0).nonzero()[:, 0].cpu()
        return labelled[torch.randperm(len(labelled), generator=generator(self.seed, "draw", epoch))]

    def targets(self, index: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """Labels [B] of these images."""
        return self.labels[index]

    def loss(self, z: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of logits [B, K], or the square loss of unit outputs, summed over the batches of all ranks."""
        if self.config.supervised_loss == "softmax":
            return losses.cross_entropy(z, target)
        total = losses.square_loss_to_basis(z, target)
        # Gradients are averaged over ranks.
        return total * world_size() if self.config.loss_reduction == "sum" else total / len(z)

    def after_step(self, index: torch.Tensor, z: torch.Tensor) -> None:
        """Count right answers; the table stays."""
        self.statistics.add(z.float(), z.argmax(dim=1) == self.labels[index])

    def summary(self) -> dict[str, float]:
        """Accuracy on training views, spread of outputs, and the loss of one who knows only how common classes are."""
        result = self.statistics.summary()
        if self.config.supervised_loss == "softmax":
            result["chance_loss"] = self.chance_loss()
        return result

    def chance_loss(self) -> float:
        """Entropy of the classes."""
        return metrics.entropy(torch.bincount(self.labels[self.labels >= 0].cpu()))

    @staticmethod
    def facts(config: Config) -> dict[str, str]:
        """Which loss."""
        return {"targets": "the true labels", "loss": config.supervised_loss}


class ParametricInstance(Supervised):
    """Every image a class of its own, with a weight vector that is learned: a softmax over N logits.

    What the paper leaves open is chosen so: outputs are not normalised, weights have no bias, there is no temperature.
    """

    def __init__(self, backbone: Backbone, num_images: int, config: Config) -> None:
        super().__init__(backbone, torch.arange(num_images), config.replace(supervised_loss="softmax"))

    def make_head(self, random: torch.Generator) -> nn.Module:
        """Output of `embedding_dims`, then one weight vector for each image."""
        dims = self.config.embedding_dims
        vectors = nn.Linear(dims, self.num_classes, bias=False)
        nn.init.uniform_(vectors.weight, -(dims**-0.5), dims**-0.5, generator=random)
        return nn.Sequential(linear_head(self.backbone, dims, generator=random), vectors)

    def spread_dims(self) -> int:
        """None: as many dims as images."""
        return 0

    def chance_loss(self) -> float:
        """All images alike."""
        return math.log(self.num_images)

    @staticmethod
    def facts(config: Config) -> dict[str, str]:
        """What stands in the bank's place."""
        return {"each image against": f"a learned vector of {config.embedding_dims} dims for every image"}
