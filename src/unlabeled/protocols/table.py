"""What each protocol needs of the images: one line a protocol, read by `evaluate all`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

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


PUBLISHED: Final = {
    "cliques": "thesis section 4.1: maximal cliques of neighbours as classes cover few images and train very poorly; no "
    "number is given.",
    "edge-ratio": "thesis section 4.1, ImageNet, 10 neighbours: random graph 0.4 %, random AlexNet 3.0 %.",
    "knn": "Instance Discrimination, 128 dims, 200 neighbours (--space output --neighbors 200): CIFAR-10, ResNet-18 "
    "80.8 % with the exact softmax, 80.4 % with NCE; ImageNet, ResNet-18 41.0 %, ResNet-50 46.5 %, random 3.5 "
    "% (tables 1 and 2).",
    "knn-bank": "Instance Discrimination, 200 neighbours: ImageNet, ResNet-18 41.0 %, ResNet-50 46.5 %; CIFAR-10, "
    "ResNet-18 80.8 % (tables 1 and 2).",
    "linear": "AlexNet on ImageNet, conv1 to conv5: random 11.6 17.1 16.9 16.3 14.1, DeepCluster 13.4 32.3 41.0 39.6 "
    "38.2, labels 19.3 36.3 44.2 48.3 50.5 % (DeepCluster table 1; thesis tables 5.3 and 5.4).",
    "low-shot": "thesis figure 5.1, ImageNet, 10 draws: a curve without numbers; the standard deviation over draws is "
    "about 0.1.",
    "mlp": "AlexNet on ImageNet: random 12.0, Noise As Targets 36.0 % (NAT table 3).",
    "nmi": "DeepCluster figure 2, ImageNet: curves without numbers; between one epoch's clusters and the next it "
    "stays below 0.8.",
    "retrieval": "VGG-16, mean AP on Oxford5k and Paris6k: random 6.9 and 22.0, DeepCluster 61.0 and 72.0, labels 72.4 and "
    "81.5 % (DeepCluster table 5).",
    "semi-supervised": "Instance Discrimination figure 6, ImageNet, 1 to 20 % labelled, top-5: a curve without numbers.",
    "svm": "Instance Discrimination on ImageNet, conv1 to conv5: random 11.6 17.1 16.9 16.3 14.1, AlexNet 16.8 26.5 "
    "31.8 34.1 35.6, ResNet-18 16.0 19.9 29.8 39.0 44.5, ResNet-50 15.3 18.8 24.9 40.6 54.0 % (table 2); "
    "CIFAR-10, ResNet-18 75.4 % (table 1).",
    "voc-classification": "AlexNet on VOC 2007, fc and all: random 33.2 and 57.0, Noise As Targets 56.7 and 65.3, DeepCluster 72.0 "
    "and 73.7, labels 78.9 and 79.9 % (DeepCluster table 2).",
    "voc-detection": "VOC 2007, 11 points, whole network: AlexNet random 44.5, Noise As Targets 49.4, DeepCluster 55.4, labels "
    "56.8 % (DeepCluster table 2); VGG-16 DeepCluster 65.9, labels 67.3 % (table 4); ResNet-50 Instance "
    "Discrimination 65.4 % (its table 6).",
    "voc-segmentation": "AlexNet on VOC 2012, fc and all: random 15.2 and 30.1, Noise As Targets 26.7 and 37.1, DeepCluster 43.2 "
    "and 45.1, labels 48.0 % for all (DeepCluster table 2).",
}
"""By the protocol's name; `all` has every other's."""


def published(protocol: str) -> str | None:
    """What the papers report for a protocol, None for `all`."""
    found = PUBLISHED.get(protocol)
    return found and f"{found} They compare with yours only where images, network and training are theirs."
