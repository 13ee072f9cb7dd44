"""What is put on a backbone for one objective. Every head begins with the ReLU the backbone ends before.

Shapes: features [B, D] in, outputs [B, K] out.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from unlabeled import losses
from unlabeled.models.backbone import Backbone
from unlabeled.randomness import generator


class LinearHead(nn.Module):
    """ReLU, then a linear layer with weights N(0, 0.01²) and bias 0 (DeepCluster's top layer, spec O02).

    relu: False leaves the ReLU out (the thesis' "no ReLU", section 4.2): features are then trained as they are read.
    classes: int64 [S] ids of the only outputs that the next passes compute, for very wide heads (thesis, section 4.7);
    None computes all. It is no part of the state.
    stable_lr: a learning rate at which plain gradient descent on this head surely settles, where someone measured it
    (`expect`); infinite before.
    """

    classes: torch.Tensor | None = None
    stable_lr: torch.Tensor

    def __init__(
        self, inputs: int, outputs: int, generator: torch.Generator | None = None, *, relu: bool = True
    ) -> None:
        super().__init__()
        self.relu = relu
        self.linear = nn.Linear(inputs, outputs)
        nn.init.normal_(self.linear.weight, 0, 0.01, generator=generator)
        nn.init.zeros_(self.linear.bias)
        self.register_buffer("stable_lr", torch.tensor(torch.inf))

    def expect(self, features: torch.Tensor) -> None:
        """Measure `stable_lr` on typical features [n, D].

        At even predictions the curvature of the softmax loss is at most E|x|² / K, x being what the linear layer sees; plain
        gradient descent settles below twice its inverse, and half of that leaves room for the noise of small batches. An
        untrained ResNet's features have |x|² of several hundred.
        """
        seen = functional.relu(features) if self.relu else features
        # The bias sees one more input, which is always 1.
        energy = 1 + float(seen.double().square().sum(1).mean())
        self.stable_lr.fill_(self.linear.out_features / energy)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """[B, D] to [B, K], or [B, S] where only some classes are computed."""
        features = functional.relu(features) if self.relu else features
        if self.classes is None:
            return self.linear(features)
        return functional.linear(features, self.linear.weight[self.classes], self.linear.bias[self.classes])


class L2Head(nn.Module):
    """ReLU, a linear layer with torch's uniform initialisation, rows scaled to length one (spec B05, B07, B13).

    A ResNet's feature has no negative entry, so its ReLU changes nothing there. Rows come out in float32 under
    autocast too: memory banks and codes are compared with them.
    """

    def __init__(self, inputs: int, outputs: int = 128, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        bound = inputs**-0.5
        nn.init.uniform_(self.linear.weight, -bound, bound, generator=generator)
        nn.init.uniform_(self.linear.bias, -bound, bound, generator=generator)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """[B, D] to [B, K], every row of length one."""
        rows = self.linear(functional.relu(features))
        rows = rows.float() if rows.dtype in (torch.bfloat16, torch.float16) else rows
        # A row of zeros has no direction; it stays zero rather than becoming nan.
        return functional.normalize(rows, dim=1, eps=1e-10)


def linear_head(
    backbone: Backbone | int, outputs: int, *, relu: bool = True, generator: torch.Generator | None = None
) -> LinearHead:
    """A fresh linear head for `backbone` (or for features of that length); from torch's generator if none is given."""
    return LinearHead(backbone if isinstance(backbone, int) else backbone.feature_dim, outputs, generator, relu=relu)


def l2_head(backbone: Backbone | int, outputs: int = 128, *, generator: torch.Generator | None = None) -> L2Head:
    """A fresh head with outputs of length one for `backbone` (or for features of that length)."""
    return L2Head(backbone if isinstance(backbone, int) else backbone.feature_dim, outputs, generator)


def restrict(head: LinearHead, labels: torch.Tensor, size: int, index: torch.Tensor, seed: int) -> None:
    """Let the next passes of `head` compute the classes `labels` [B] of the images `index` [B] and others, `size` in all.

    Nothing is restricted where `size` is 0 or the head has no more classes.
    """
    total = head.linear.out_features
    if size and size < total:
        random = generator(seed, "loss subset", *index.tolist())
        head.classes = losses.class_subset(labels, total, size, random)


def restricted_loss(head: LinearHead, z: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the chosen logits [B, S] for labels [B]; over all classes it would be at least this."""
    assert head.classes is not None
    return losses.cross_entropy(z, losses.positions_in(head.classes, labels))


def answers(head: LinearHead, z: torch.Tensor) -> torch.Tensor:
    """The class with the largest of the logits z [B, K], or [B, S] where only some were computed: int64 [B]."""
    found = z.argmax(dim=1)
    return found if head.classes is None else head.classes[found]
