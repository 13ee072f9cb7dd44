"""How large the experiments of the claims are, and the recipe each family begins with.

`cpu` was chosen so that the claims marked a in the table of contents take an hour on two quiet cores; the numbers of epochs
are what was left after that, not what the methods want. Its recipes are those for small sets, which rise above the untrained
network in that time; with the papers' views and rates they fall below it (LOG.md, 2026-11-20). `full` is CIFAR-10 on a GPU.
`quick` shows that the command works, without any data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

SizeName = Literal["quick", "cpu", "full"]


@dataclass(frozen=True)
class Size:
    """How many images are trained on and scored, and for how long."""

    name: SizeName
    source: Literal["photographs", "cifar"]
    """What a claim is measured on unless it says otherwise: crops of the 18 photographs that ship with the dependencies
    (`unlabeled demo`; the class is the photograph, and test crops are from another part of it), or CIFAR-10."""
    images: int
    """Training images; they are also the labelled neighbours of the kNN vote."""
    queries: int
    """Images that are scored, never trained on."""
    backbone: str
    view: int
    """Side of a view, pixels. On a CPU 16: a view costs a third of one of 32, and the hour holds three times as many."""
    batch: int
    epochs: int
    clusters: int
    """k of DeepCluster where a claim does not say another."""
    reassign_every: int
    """Epochs between two clusterings where a claim does not say another."""
    tuning_epochs: int
    """Epochs of fine-tuning on few labels."""
    table_epochs: int
    """Epochs of table 1."""

    def sentence(self) -> str:
        """For the table of results."""
        return (
            f"{self.name}: {self.images:,} images ({self.source}), {self.queries:,} scored, {self.backbone} at {self.view} pixels, "
            f"{self.epochs} epochs"
        )


SIZES: dict[SizeName, Size] = {
    "quick": Size("quick", "photographs", 540, 270, "alexnet_small", 16, 64, 2, 20, 1, 3, 6),
    "cpu": Size("cpu", "cifar", 4_000, 2_000, "alexnet_small", 16, 64, 20, 100, 3, 20, 20),
    "full": Size("full", "cifar", 50_000, 10_000, "resnet18_small", 32, 128, 60, 1_000, 1, 70, 200),
}


LEAST_IMAGES = 128
"""A share of the images is never less: a batch."""


def share_of(images: int, share: float) -> int:
    """Images in this share of a set."""
    return min(max(round(share * images), LEAST_IMAGES), images)


def settings(base: str, size: Size) -> dict[str, Any]:
    """Recipe and fields of a base; `KeyError` where there is none of that name.

    instance: exact softmax over the bank; at size `full` Wu et al. on CIFAR-10 with a cosine. nat: a sum over the batch with
    the learning rate that belongs to it (trap 2). deepcluster: k-means on whitened features. random: the network before its
    first step. npid_cifar: the paper's recipe for its table 1.
    """
    return {
        "backbone": size.backbone,
        "image_size": size.view,
        "resize": size.view,
        "store_size": 32,
        "batch_size": size.batch,
        "epochs": size.epochs,
        "evaluate_every": 0,
        "device": "auto",
        **_BASES[base](size),
    }


def _instance(size: Size) -> Mapping[str, Any]:
    if size.name == "full":
        return {"recipe": "paper_npid_cifar", "schedule": "cosine"}
    return {"recipe": "small_instance", "batch_size": 32}


def _nat(size: Size) -> Mapping[str, Any]:
    # 0.02 for a sum over 128 is the papers' 0.01 for one over 256; small sets want a tenth (the recipe's own). Codes are
    # traded inside the batch, as in the papers whose claims these are, and not over all images as the recipe does.
    papers = {"assignment": "permutation", "embedding_dims": 128, "permute_every": 1}
    return {"recipe": "small_nat", **papers, **({"lr": 0.02} if size.name == "full" else {})}


def _deepcluster(size: Size) -> Mapping[str, Any]:
    return {"recipe": "small_images", "num_clusters": size.clusters, "reassign_every": size.reassign_every}


def _random(size: Size) -> Mapping[str, Any]:
    return {"recipe": "random_network", "epochs": 0}


def _npid_cifar(size: Size) -> Mapping[str, Any]:
    drops = tuple(max(1, round(size.table_epochs * share)) for share in (0.6, 0.8))
    return {
        "recipe": "paper_npid_cifar",
        "backbone": "resnet18_small",
        "image_size": 32,
        "resize": 32,
        "epochs": size.table_epochs,
        "schedule_steps": drops,
        "batch_size": 128 if size.name == "full" else 32,
    }


_BASES = {"npid_cifar": _npid_cifar, "instance": _instance, "nat": _nat, "deepcluster": _deepcluster, "random": _random}
BASES = tuple(_BASES)
