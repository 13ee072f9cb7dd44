"""The claim that features learned without labels help where labels are few."""

from __future__ import annotations

from benchmarks.claims.claim import Above, Arm, Claim
from benchmarks.claims.instance import PLAIN
from benchmarks.claims.measures import FEW
from benchmarks.claims.sizes import Size


def few_labels(size: Size) -> Claim:
    """11: fine-tuning on 4, 10 and 50 labels a class."""
    return Claim(
        11,
        "few-labels",
        "fine-tuned on few labels a class, a network trained without labels beats one that begins random",
        "thesis, figure 5.1 (from 4 labels a class on); Wu et al. 2018, figure 6 (gap largest at 1 %)",
        {"trained": PLAIN, "random": Arm("random")},
        ("few_labels",),
        tuple(f"tuned_{count}" for count in FEW),
        tuple(Above("trained", "random", f"tuned_{count}") for count in FEW),
        "The whole network is trained, equally many steps for each number of labels; another draw of labels for each seed.",
    )
