"""Claims of the thesis that led to DeepCluster (sections 4.2 to 4.4)."""

from __future__ import annotations

from benchmarks.claims.claim import Above, Arm, Claim
from benchmarks.claims.deepcluster import PLAIN
from benchmarks.claims.sizes import Size


def before_relu(size: Size) -> Claim:
    """6: which features are clustered."""
    # The other sizes' networks end in a mean over a map of what a ReLU gave: there is no "before" to cluster. This one ends in
    # a layer of its perceptron, as the thesis' does, and wants views of 63 pixels or more, which cost eight times as much.
    network = {
        "backbone": "alexnet_fc6",
        "image_size": 64,
        "resize": 64,
        "store_size": 64,
        "epochs": max(size.epochs // 2, 2),
    }
    kinds = {
        "k-means": network,
        "PIC": network | {"clustering": "pic", "bandwidth": 0.5},
    }
    arms: dict[str, Arm] = {}
    for name, changes in kinds.items():
        arms[f"{name}, before"] = Arm("deepcluster", dict(changes))
        arms[f"{name}, after"] = Arm("deepcluster", {**changes, "feature": "after_relu"})
    return Claim(
        6,
        "before-relu",
        "features are better clustered before their last ReLU than after it, for PIC and for many clusters",
        "thesis, table 4.1 with its columns put right (PIC 33.2 before, 21.9 after; 1,000 clusters 33.8, 33.4)",
        arms,
        ("knn",),
        ("knn", "untrained"),
        tuple(Above(f"{name}, before", f"{name}, after", "knn") for name in kinds),
    )


def sized_crops(size: Size) -> Claim:
    """10: what augmentation needs."""
    crops = {
        "random-sized crops": PLAIN,
        "random crops": Arm("deepcluster", {"crop": "random", "resize": round(size.view * 9 / 8)}),
        "no crops": Arm("deepcluster", {"crop": "center"}),
    }
    return Claim(
        10,
        "sized-crops",
        "crops of random size make the features; crops of one size and mirroring do not",
        "thesis, figure 4.4",
        crops,
        ("knn",),
        ("knn", "untrained"),
        tuple(Above("random-sized crops", name, "knn") for name in crops if name != "random-sized crops"),
        "The crops of one size are 8/9 of a side; so is the central view by which that row is scored.",
    )


def reassign(size: Size) -> Claim:
    """12: how often to cluster anew."""
    periods = (1, 3, 10)
    arms = {
        f"every {period}": PLAIN if period == size.reassign_every else Arm("deepcluster", {"reassign_every": period})
        for period in periods
    }
    return Claim(
        12,
        "reassign-often",
        "the more often images are clustered anew, the better the features in the end",
        "thesis, figure 4.5 (every epoch best after 100)",
        arms,
        ("knn",),
        ("knn", "untrained"),
        (Above("every 1", "every 3", "knn"), Above("every 1", "every 10", "knn")),
        "A small set gives a fresh head few steps between two clusterings: the papers' epoch has 5,005."
        if size.name != "full"
        else "",
    )
