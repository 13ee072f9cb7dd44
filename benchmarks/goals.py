"""The factor each comparison is to reach, by what stands in the name of its row (design, section "Speed")."""

from __future__ import annotations

import re

# The first pattern found in the name counts. No entry means that the row is there for information.
_GOALS = (
    (r"training step, alexnet, as shipped", 3),
    (r"training step, resnet18_small, as shipped", 2.5),
    (r"feature pass, alexnet, as shipped", 3.6),
    (r"feature pass, resnet18_small, as shipped", 2.3),
    (r"k-means .* k = \d{4,},.* its default of", 2.5),
    (r"PCA-whitening .* faiss", 10),
    (r"-NN graph .* faiss", 2.2),
    (r"PIC of a given", 15),
    (r"uniform draw, 1,281,167", 100),
    (r"exact softmax over 50,000 rows, against gather-NCE", 6),
    (r"weighted kNN.* 10 classes", 2),
    (r"weighted kNN.* 1,000 classes", 5),
    (r"224 px, (12-megapixel files, )?first epoch", 3),
    (r"224 px, cached", 15),
    (r"32 px, full colour jitter", 10),
)


def goal_of(name: str) -> float | None:
    """Least ratio wanted for the row of this name."""
    return next((goal for pattern, goal in _GOALS if re.search(pattern, name)), None)
