"""Claims of "Unsupervised Learning by Predicting Noise" (Bojanowski and Joulin, ICML 2017)."""

from __future__ import annotations

from benchmarks.claims.claim import Above, Arm, Claim
from benchmarks.claims.sizes import Size


def permutation(size: Size) -> Claim:
    """3: images must be allowed to trade their codes."""
    periods = (1, 3, 10) if size.name == "full" else (1, 3)
    arms = {f"every {period} epochs": Arm("nat", {"permute_every": period}) for period in periods}
    arms = {"fixed": Arm("nat", {"permute_every": 0}), **arms}
    return Claim(
        3,
        "permutation",
        "permuting the targets beats targets that are fixed once, whatever the period",
        "Bojanowski and Joulin 2017, section 4.1 and figure 2 (fixed 26.4, permuted above 30, every third epoch best)",
        arms,
        ("knn", "output"),
        ("knn", "knn_output", "untrained"),
        tuple(Above(name, "fixed", "knn") for name in arms if name != "fixed"),
    )


def continuous(size: Size) -> Claim:
    """4: points of the sphere against one-hot codes."""
    counts = (10, 100, 1000) if size.name == "full" else (10, 100)
    traded = {"permute_every": 3 if size.name == "full" else 1}
    onehot = {f"one-hot, {k:,} codes": Arm("nat", {**traded, "targets": "onehot", "num_codes": k}) for k in counts}
    return Claim(
        4,
        "continuous-targets",
        "points of the sphere are better targets than one-hot codes",
        "Bojanowski and Joulin 2017, section 4.1 (36.0 against 22)",
        {"sphere": Arm("nat", traded), **onehot},
        ("knn", "output"),
        ("knn", "knn_output", "untrained"),
        tuple(Above("sphere", name, "knn") for name in onehot),
    )
