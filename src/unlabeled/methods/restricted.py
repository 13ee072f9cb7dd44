"""A softmax over a few of very many classes: those of the batch and random others (the thesis, section 4.7, "SGT").

Only the chosen rows of the head are multiplied and get a gradient. The choice is made before the network runs, from the
images of the step, so a resumed run chooses the same.

Shapes: B batch, K classes, S chosen ones.
"""

from __future__ import annotations

import torch

from unlabeled import losses
from unlabeled.models import LinearHead
from unlabeled.randomness import generator


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
