"""Table 1 of Wu et al. (CVPR 2018): CIFAR-10, ResNet-18, 128 dims, 200 epochs, six ways to tell an image from all others.

The one whole table of the papers that a single GPU can repeat: recipe `paper_npid_cifar`, images and augmentation on the
device, bfloat16 (at size `full`; the smaller sizes show on a CPU that the rows learn). kNN with k = 200 and temperature 0.1
of the test images against the training images, on the 128 outputs: recomputed from central views (the released code's final
test), and against the memory bank as training left it (its test after every epoch). Both are of the last epoch; that code
reports the best epoch on the test labels. Aim: full softmax at or above 80.8 within ten minutes on one H200.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.claims.claim import Arm, Claim, Values
from benchmarks.claims.sizes import Size
from benchmarks.claims.verdict import mean

ROWS: Mapping[str, tuple[Mapping[str, Any], float]] = {
    "Param softmax": ({"objective": "parametric"}, 63.0),
    "Non-param softmax": ({}, 80.8),
    "NCE m = 1": ({"objective": "nce", "num_negatives": 1}, 42.5),
    "NCE m = 10": ({"objective": "nce", "num_negatives": 10}, 63.4),
    "NCE m = 512": ({"objective": "nce", "num_negatives": 512}, 78.4),
    "NCE m = 4,096": ({"objective": "nce", "num_negatives": 4096}, 80.4),
}
"""Row of the table -> fields changed in the recipe, and the paper's kNN in per cent."""


def table1(size: Size) -> Claim:
    """The six rows as configurations of one claim without a direction."""
    return Claim(
        0,
        "table1",
        "the six rows of table 1",
        "Wu et al. 2018, table 1",
        {row: Arm("npid_cifar", changes) for row, (changes, _) in ROWS.items()},
        ("published",),
        ("knn_recomputed", "knn_bank", "untrained_vote"),
        (),
    )


def markdown(values: Values, minutes: Mapping[str, float], size: Size) -> str:
    """Ours beside the paper's, never in one column; kNN in per cent, mean over seeds, training time of one seed in minutes."""
    condition = "CIFAR-10, 200 epochs" if size.name == "full" else f"{size.images:,} images, {size.table_epochs} epochs"
    lines = [
        f"| row | ours, recomputed ({condition}) | ours, bank | ours, untrained | minutes | paper (CIFAR-10, 200 epochs) |",
        "|---|---|---|---|---|---|",
    ]
    for row, (_, paper) in ROWS.items():
        cells = [_percent(values.get(row, {}).get(score)) for score in ("knn_recomputed", "knn_bank", "untrained_vote")]
        time = f"{minutes[row]:.1f}" if row in minutes else ""
        lines.append(f"| {row} | {' | '.join(cells)} | {time} | {paper:.1f} |")
    return "\n".join(lines) + "\n"


def _percent(values: Any) -> str:
    return f"{100 * mean(values):.1f}" if values else ""
