"""Claims of "Deep Clustering for Unsupervised Learning of Visual Features" (Caron et al., ECCV 2018)."""

from __future__ import annotations

from functools import partial

from benchmarks.claims.claim import Above, Arm, Claim
from benchmarks.claims.draws import DRAWS, share_of_largest
from benchmarks.claims.sizes import Size

PLAIN = Arm("deepcluster")
NO_JITTER = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, "grey": 0.0}
"""The paper's views are only cropped and mirrored; colour jitter would hide what Sobel does."""


LAYERS = {
    "alexnet_small": ("conv1", "conv2", "conv3", "conv4", "conv5"),
    "resnet18_small": ("conv1", "layer1", "layer2", "layer3", "layer4"),
}
"""Levels of the backbones of the sizes."""


def over_segmentation(size: Size) -> Claim:
    """5: more clusters than classes."""
    counts = (10, 30, 100, 300, 1000) if size.name == "full" else (10, 30, 100, 300)
    counts = tuple(k for k in counts if 3 * k < size.images)
    arms = {f"k = {k:,}": PLAIN if k == size.clusters else Arm("deepcluster", {"num_clusters": k}) for k in counts}
    return Claim(
        5,
        "over-segmentation",
        "more clusters than classes are better: the best k is ten times the number of classes or so, not that number",
        "Caron et al. 2018, figure 2c (best k = 10,000 for 1,000 classes)",
        arms,
        ("knn",),
        ("knn", "untrained"),
        tuple(Above(f"k = {k:,}", "k = 10", "knn") for k in counts if k >= 100),
    )


def sobel(size: Size) -> Claim:
    """7: without colour, clusters follow shapes."""
    clusters = min(64, size.clusters)
    sets = {"coloured shapes": "shapes", "photographs" if size.source == "photographs" else "CIFAR-10": "main"}
    arms = {
        f"{stem}, {images}": Arm("deepcluster", {"stem": stem, "num_clusters": clusters, **NO_JITTER}, name)
        for images, name in sets.items()
        for stem in ("rgb", "sobel")
    }
    natural = next(images for images, name in sets.items() if name == "main")
    beyond = LAYERS[size.backbone][1:]
    return Claim(
        7,
        "sobel",
        "the clusters of a colour image follow its colour; a Sobel filter makes them follow shape: better beyond the first "
        "layer where colour says nothing, worse at the first layer where it does",
        "Caron et al. 2018, sections 3.4 and 4.2, figure 3; thesis table 5.3 (conv1 18.0 RGB, 13.4 Sobel; conv5 30.6, 36.0)",
        arms,
        ("stages", "agreement_with_colour", "knn"),
        (*LAYERS[size.backbone], "nmi_colour", "nmi_shape", "knn", "untrained"),
        (
            *(Above("sobel, coloured shapes", "rgb, coloured shapes", stage) for stage in beyond),
            Above("rgb, coloured shapes", "sobel, coloured shapes", "nmi_colour"),
            Above("sobel, coloured shapes", "rgb, coloured shapes", "nmi_shape"),
            Above(f"rgb, {natural}", f"sobel, {natural}", "conv1"),
        ),
        "kNN on every layer. The shapes come in eight colours that say nothing about their class. Views are cropped and "
        "mirrored only, as the paper's: colour jitter would hide what Sobel does.",
    )


def uniform_sampling(size: Size) -> Claim:
    """8: lopsided clusters and a network that answers always the same."""
    lopsided = {"num_clusters": 3 * size.clusters, "normalize_rows": False}
    arms = {sampling: Arm("deepcluster", {**lopsided, "sampling": sampling}) for sampling in ("uniform", "natural")}
    return Claim(
        8,
        "uniform-sampling",
        "images drawn uniformly over clusters keep a network from answering every image with the largest cluster",
        'Caron et al. 2018, section 3.3, "trivial parametrization"',
        arms,
        ("predictions", "knn"),
        ("prediction_entropy", "top_answer", "top_cluster", "knn", "untrained", "largest_cluster", "largest_drawn"),
        (
            Above("uniform", "natural", "prediction_entropy"),
            Above("natural", "uniform", "top_answer"),
            Above("uniform", "natural", "knn"),
            Above("released indexing", "uniform draw", "largest_drawn", by=0.1),
        ),
        "Features are not brought to length one before k-means here, so that outliers get clusters of their own and the rest few "
        "large ones. The other three rows need no training: share of the largest "
        "of 100 Zipf-sized clusters among 20,000 images and among the images drawn for an epoch; the released code draws "
        "positions in the data set and looks them up in one that was sorted by cluster, so it balances nothing (trap 13b).",
        computed={name: partial(share_of_largest, how=draw) for name, draw in DRAWS.items()},
    )


def agreement(size: Size) -> Claim:
    """9: clusters come to agree with the classes and with each other."""
    return Claim(
        9,
        "agreement",
        "clusters agree more and more with the labels nobody told, and with those of the clustering before, short of 1",
        "Caron et al. 2018, figures 2a and 2b",
        {"k-means": PLAIN},
        ("agreement", "knn"),
        ("nmi_first", "nmi_last", "stability_first", "stability_last"),
        (
            Above("k-means", "k-means", "nmi_last", low_score="nmi_first"),
            Above("k-means", "k-means", "stability_last", low_score="stability_first"),
        ),
    )


def skew(size: Size) -> Claim:
    """13: training images that are not balanced."""
    arms = {
        "level": Arm("deepcluster", images="level"),
        "skewed": Arm("deepcluster", images="skewed"),
    }
    return Claim(
        13,
        "skew",
        "classes as unequal as on the web cost little, and the features stay far above the untrained network's",
        "Caron et al. 2018, table 3 (VOC classification 73.7 on ImageNet, 69.3 on YFCC100M)",
        arms,
        ("knn",),
        ("knn", "untrained"),
        (
            Above("skewed", "level", "knn", by=-0.05),
            Above("skewed", "skewed", "knn", low_score="untrained"),
        ),
        "Two sets of equal size; classes in the skewed one as 1, 1/2, 1/3 … Both are scored on the balanced images.",
    )
