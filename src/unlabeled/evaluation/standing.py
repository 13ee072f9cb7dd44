"""What a score says beside the scores of raw pixels and of the network before training, in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Level = Literal["gain", "no gain", "worse", "raw pixels", "saturated"]

SATURATED = 0.99
"""Where every score is this high, the labels cannot tell networks apart."""
ERRORS = 2.0
"""Standard errors that a difference must exceed."""


@dataclass(frozen=True)
class Standing:
    """Where a score stands."""

    level: Level
    """`raw pixels`: they do as well as the network; `saturated`: everything is nearly perfect."""
    sentence: str
    """One sentence, the numbers in it."""


def standing(
    trained: float,
    untrained: float,
    raw_pixels: float | None,
    images: int,
    labels: str,
    baseline: str = "untrained network",
) -> Standing:
    """Compare accuracies (fractions) on `images` test images, whose labels are called `labels`; `untrained` is of the `baseline`.

    Two accuracies differ where their difference exceeds two standard errors, taken as if each were measured on images of
    its own; on the same images the true error is smaller.
    """
    others = {f"the {baseline}": untrained} | ({} if raw_pixels is None else {"raw pixels": raw_pixels})
    told = ", ".join(f"{name} {100 * value:.1f} %" for name, value in others.items())
    score = f"{100 * trained:.1f} % by the labels {labels}, {told}"
    if min(trained, untrained) >= SATURATED:
        return Standing(
            "saturated",
            f"Trained or not, it is nearly perfect ({score}): the labels cannot tell them apart.",
        )
    if raw_pixels is not None and raw_pixels > untrained and not _is_above(trained, raw_pixels, images):
        how = "better than" if _is_above(raw_pixels, trained, images) else "as well as"
        return Standing(
            "raw pixels", f"Raw pixels do {how} the network ({score}): for these labels it is no gain over them."
        )
    if _is_above(trained, untrained, images):
        gain = 100 * (trained - untrained)
        return Standing("gain", f"Its features score {gain:.1f} points above those before training ({score}).")
    if _is_above(untrained, trained, images):
        return Standing("worse", f"Training made the features worse ({score}).")
    return Standing("no gain", f"The features are no better than those before training ({score}).")


def _is_above(one: float, other: float, images: int) -> bool:
    if not images:
        return one > other  # nobody said how many images there were
    variance = (one * (1 - one) + other * (1 - other)) / images
    return one - other > ERRORS * math.sqrt(max(variance, 0.0))
