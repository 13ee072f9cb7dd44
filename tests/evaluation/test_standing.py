"""Words of a score beside its baselines, and consistency against a loop."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from unlabeled.errors import DataError
from unlabeled.evaluation.consistency import consistency
from unlabeled.evaluation.standing import standing


@pytest.mark.parametrize(
    ("trained", "untrained", "raw", "level", "words"),
    [
        (0.80, 0.60, 0.40, "gain", "20.0 points above"),
        (0.496, 0.40, 0.519, "raw pixels", "as well as the network (49.6 % by the labels folder"),
        (0.30, 0.25, 0.60, "raw pixels", "better than the network"),
        (1.0, 1.0, 0.995, "saturated", "cannot tell them apart"),
        (0.50, 0.505, 0.3, "no gain", "no better than"),
        (0.30, 0.50, 0.2, "worse", "made the features worse"),
        (0.80, 0.60, None, "gain", "above"),
        (0.62, 0.60, 0.61, "raw pixels", "as well as"),
        (1.0, 1.0, 0.93, "saturated", "cannot tell them apart"),
        (0.79, 0.60, 0.789, "raw pixels", "no gain over them"),
    ],
)
def test_what_a_score_says(trained: float, untrained: float, raw: float | None, level: str, words: str):
    found = standing(trained, untrained, raw, 600, "folder")
    assert found.level == level and words in found.sentence


def test_consistency_is_the_share_of_common_neighbors():
    random = torch.Generator().manual_seed(0)
    central = normalize(torch.randn(40, 8, generator=random), dim=1)
    view = normalize(central + 0.4 * torch.randn(40, 8, generator=random), dim=1)
    shares = []
    for i in range(40):
        both = []
        for query in (central[i], view[i]):
            order = (central @ query).argsort(descending=True).tolist()
            both.append(set([j for j in order if j != i][:5]))
        shares.append(len(both[0] & both[1]) / 5)
    assert consistency(central, view, 5) == pytest.approx(sum(shares) / 40)
    assert consistency(central, central, 5) == 1
    unrelated = normalize(torch.randn(40, 8, generator=random), dim=1)
    assert consistency(central, unrelated, 5) < 0.3
    with pytest.raises(DataError, match="at least 3"):
        consistency(central[:2], view[:2])
