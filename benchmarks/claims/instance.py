"""Claims of "Unsupervised Feature Learning via Non-Parametric Instance Discrimination" (Wu et al., CVPR 2018)."""

from __future__ import annotations

from benchmarks.claims.claim import Above, Arm, Claim, Within
from benchmarks.claims.sizes import Size, share_of

PLAIN = Arm("instance")
"""The exact softmax over the whole bank, 128 dims: the run that most of these claims share."""


def non_parametric(size: Size) -> Claim:
    """1: rows of a memory bank instead of learned weight vectors."""
    arms = {"non-parametric": PLAIN, "parametric": Arm("instance", {"objective": "parametric"})}
    return Claim(
        1,
        "non-parametric",
        "a softmax over remembered features gives better features than one over learned weights, kNN +5 points or more",
        "Wu et al. 2018, table 1 (kNN 80.8 against 63.0)",
        arms,
        ("knn", "output"),
        ("knn_output", "knn", "untrained"),
        (
            Above("non-parametric", "parametric", "knn_output"),
            Above("non-parametric", "parametric", "knn_output", by=0.05),
        ),
    )


def negatives(size: Size) -> Claim:
    """2: the approximation by NCE gets better with the number of negatives."""
    counts = (1, 10, 512, 4096) if size.images > 4096 else (1, 10, 512)
    arms = {f"m = {count:,}": Arm("instance", {"objective": "nce", "num_negatives": count}) for count in counts}
    last = f"m = {counts[-1]:,}"
    return Claim(
        2,
        "negatives",
        "kNN accuracy grows with the number m of negatives of NCE and comes close to the exact softmax",
        "Wu et al. 2018, table 1 (kNN 42.5, 63.4, 78.4, 80.4 at m = 1, 10, 512, 4096; exact 80.8)",
        {**arms, "exact softmax": PLAIN},
        ("knn", "output"),
        ("knn_output", "knn", "untrained"),
        (
            Above("m = 10", "m = 1", "knn_output"),
            Above("m = 512", "m = 10", "knn_output"),
            Above("exact softmax", last, "knn_output", by=-0.02),
        ),
        "" if size.images > 4096 else "m = 4,096 is left out: it is more than there are images.",
    )


def embedding_and_data(size: Size) -> Claim:
    """14: the length of the output saturates at 128, the number of images does not."""
    dims = (8, 32, 64, 128, 256)
    by_dims = {f"{d} dims": PLAIN if d == 128 else Arm("instance", {"embedding_dims": d}) for d in dims}
    # The same number of steps for each: with the same number of epochs, a tenth of the images would be a tenth of the training.
    by_data = {
        f"{share} % of the images": Arm("instance", {"epochs": size.epochs * size.images // count}, f"main-{share}%")
        for share, count in ((share, share_of(size.images, share / 100)) for share in (1, 10, 30))
    }
    return Claim(
        14,
        "embedding-and-data",
        "kNN accuracy rises with the length of the output up to 128 and stays there; it rises with the number of images",
        "Wu et al. 2018, tables 4 and 5 (32 to 256 dims: 34.0, 38.8, 41.0, 40.1; 1 to 100 % of the images: 10.7 to 41.0)",
        {**by_dims, **by_data},
        ("knn", "output"),
        ("knn_output", "knn", "untrained"),
        (
            Above("128 dims", "8 dims", "knn_output"),
            Within("256 dims", "128 dims", "knn_output", 0.02),
            Above("10 % of the images", "1 % of the images", "knn_output"),
            Above("128 dims", "30 % of the images", "knn_output"),
        ),
        "Neighbours are the whole labelled set for every configuration; equal numbers of steps (the paper does not say).",
    )
