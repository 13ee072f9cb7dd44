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
from unlabeled.methods.base import Embed, Method, OutputStatistics, fixed_subset
from unlabeled.models import Backbone, LinearHead
from unlabeled.models.heads import answers, l2_head, linear_head, restrict, restricted_loss
from unlabeled.randomness import generator


class Supervised(Method):
    """Targets are classes: `labels`, int64 [N], -1 for images without a label, which are not trained on."""

    labels: torch.Tensor

    def __init__(self, backbone: Backbone, labels: torch.Tensor, config: Config) -> None:
        """Raises DataError where there are fewer than two classes."""
        super().__init__(backbone, len(labels), config.seed, config.subset)
        self.config = config
        self.register_buffer("labels", labels.clone())
        self.num_classes = int(labels.max()) + 1
        known = len(labels[self.trained_on].unique())
        if known < 2:
            raise DataError(
                f"method = supervised needs at least 2 classes, the {self.num_rows:,} images have {known}; check `--labels`"
                f"{' and --subset' if config.subset else ''}."
            )
        self.head = self.make_head(generator(config.seed, "head"))
        self.statistics = OutputStatistics(self.spread_dims(), "top1")

    def make_head(self, random: torch.Generator) -> nn.Module:
        """Logits [B, K]; for the square loss of length one."""
        make = l2_head if self.config.supervised_loss == "square" else linear_head
        return make(self.backbone, self.num_classes, generator=random)

    @property
    def trained_on(self) -> torch.Tensor:
        """int64, on the CPU: the images that have a label, of the subset where there is one."""
        labels = self.labels.cpu()
        index = torch.arange(self.num_images) if self.chosen is None else self.chosen.cpu()
        return index[labels[index] >= 0]

    @property
    def restricts(self) -> bool:
        """Whether the loss looks at some of the classes only."""
        size = 0 if self.config.supervised_loss == "square" else self.config.loss_subset
        return isinstance(self.head, LinearHead) and 0 < size < self.num_classes

    def spread_dims(self) -> int:
        """Dims of the outputs whose spread is worth measuring: none where each step computes others."""
        return 0 if self.restricts else self.num_classes

    def before_epoch(self, epoch: int, embed: Embed) -> None:
        """Begin to count anew."""
        self.statistics.reset()

    @property
    def images_per_epoch(self) -> int:
        """As many as have a label."""
        return len(self.trained_on)

    def draw(self, epoch: int) -> torch.Tensor:
        """Every labelled image once."""
        labelled = self.trained_on
        return labelled[torch.randperm(len(labelled), generator=generator(self.seed, "draw", epoch))]

    def before_step(self, index: torch.Tensor) -> None:
        """With `loss_subset`, choose the classes of this step: those of the batch and random others (thesis, section 4.7)."""
        if self.restricts:
            restrict(self._top, self.labels[index], self.config.loss_subset, index, self.seed)

    def targets(self, index: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """Labels [B] of these images."""
        return self.labels[index]

    def loss(self, z: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of logits [B, K] (with `loss_subset` of some of them), or the square loss of unit outputs.

        The square loss is summed over the batches of all ranks.
        """
        if self.restricts and self._top.classes is not None:
            return restricted_loss(self._top, z, target)
        if self.config.supervised_loss == "softmax":
            return losses.cross_entropy(z, target)
        total = losses.square_loss_to_basis(z, target)
        # Gradients are averaged over ranks.
        return total * world_size() if self.config.loss_reduction == "sum" else total / len(z)

    def after_step(self, index: torch.Tensor, z: torch.Tensor) -> None:
        """Count right answers, with `loss_subset` among the classes of the step; the table stays."""
        found = answers(self._top, z) if self.restricts else z.argmax(dim=1)
        self.statistics.add(z.float(), found == self.labels[index])

    def summary(self) -> dict[str, float]:
        """Accuracy on training views, spread of outputs, and the loss of one who knows only how common classes are."""
        result = self.statistics.summary()
        if self.config.supervised_loss == "softmax":
            chance = self.chance_loss()
            result["chance_loss"] = min(chance, math.log(self.config.loss_subset)) if self.restricts else chance
        return result

    def chance_loss(self) -> float:
        """Entropy of the classes."""
        return metrics.entropy(torch.bincount(self.labels.cpu()[self.trained_on]))

    @property
    def _top(self) -> LinearHead:
        assert isinstance(self.head, LinearHead)
        return self.head

    @staticmethod
    def facts(config: Config) -> dict[str, str]:
        """Which loss."""
        some = f" over {config.loss_subset:,} classes a step" if config.loss_subset else ""
        loss = config.supervised_loss + (some if config.supervised_loss == "softmax" else "")
        return {"targets": "the true labels", "loss": loss}


class ParametricInstance(Supervised):
    """Every image a class of its own, with a weight vector that is learned: a softmax over N logits.

    What the paper leaves open is chosen so: outputs are not normalised, weights have no bias, there is no temperature.
    """

    def __init__(self, backbone: Backbone, num_images: int, config: Config) -> None:
        labels = torch.arange(num_images)
        chosen = fixed_subset(num_images, config.subset, config.seed)
        if chosen is not None:
            # A class for each image of the subset; the others have none.
            labels = torch.full((num_images,), -1).index_copy_(0, chosen, labels[: len(chosen)])
        super().__init__(backbone, labels, config.replace(supervised_loss="softmax", loss_subset=0))

    def make_head(self, random: torch.Generator) -> nn.Module:
        """Output of `embedding_dims`, then one weight vector for each image."""
        dims = self.config.embedding_dims
        vectors = nn.Linear(dims, self.num_classes, bias=False)
        nn.init.uniform_(vectors.weight, -(dims**-0.5), dims**-0.5, generator=random)
        return nn.Sequential(linear_head(self.backbone, dims, generator=random), vectors)

    def spread_dims(self) -> int:
        """None: as many dims as images."""
        return 0

    def spaces(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
        """The output in front of the vectors of the images, [N, D] as with the memory bank."""
        return {"output": self.outputs(features)}

    def outputs(self, features: torch.Tensor, chunk: int = 8192) -> torch.Tensor:
        """The output [n, D] of features [n, D'], without the vectors of the images."""
        assert isinstance(self.head, nn.Sequential)
        device = next(self.head.parameters()).device
        with torch.no_grad():
            return torch.cat([self.head[0](rows.to(device)).float().cpu() for rows in features.split(chunk)])

    def chance_loss(self) -> float:
        """All images alike."""
        return math.log(self.num_rows)

    @staticmethod
    def facts(config: Config) -> dict[str, str]:
        """What stands in the bank's place."""
        return {"each image against": f"a learned vector of {config.embedding_dims} dims for every image"}
