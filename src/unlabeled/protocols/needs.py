"""What each protocol needs of the images: one line a protocol, read by `evaluate all`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Layout = Literal["images", "classes", "voc", "retrieval"]
"""Any images; a class for every image; a folder in the layout of PASCAL VOC; lists of what is to be found, as Oxford's."""


@dataclass(frozen=True)
class Needs:
    """What a protocol can run on, and its place among the others."""

    layout: Layout = "classes"
    one_set: bool = False
    """Whether it looks at one set of images and takes no `--test`; it is then given those of `--test`."""
    cost: int = 2
    """0 = a pass over the images, 1 = a classifier on fixed features, 2 = a network is trained. Cheap ones come first."""


NEEDS: dict[str, Needs] = {
    "cliques": Needs("images", one_set=True, cost=0),
    "edge-ratio": Needs(one_set=True, cost=0),
    "knn": Needs(cost=0),
    "knn-bank": Needs(cost=0),
    "linear": Needs(cost=1),
    "low-shot": Needs(),
    "mlp": Needs(cost=1),
    "nmi": Needs(one_set=True, cost=0),
    "retrieval": Needs("retrieval", cost=0),
    "semi-supervised": Needs(),
    "svm": Needs(cost=1),
    "voc-classification": Needs("voc"),
    "voc-detection": Needs("voc"),
    "voc-segmentation": Needs("voc"),
}
"""By name; a protocol that is not here needs a class for every image."""


def needs_of(protocol: str) -> Needs:
    """What a protocol needs."""
    return NEEDS.get(protocol, Needs())
