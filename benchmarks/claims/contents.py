"""Table of contents: the fourteen claims in the order of their priority (tables.md), and which of them run on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.claims import deepcluster, few_labels, instance, nat, thesis
from benchmarks.claims.claim import Claim
from benchmarks.claims.sizes import Size
from unlabeled.errors import ConfigError, unknown_name

CLAIMS: tuple[Callable[[Size], Claim], ...] = (
    instance.non_parametric,  # 1
    instance.negatives,  # 2
    nat.permutation,  # 3
    nat.continuous,  # 4
    deepcluster.over_segmentation,  # 5
    thesis.before_relu,  # 6
    deepcluster.sobel,  # 7
    deepcluster.uniform_sampling,  # 8
    deepcluster.agreement,  # 9
    thesis.sized_crops,  # 10
    few_labels.few_labels,  # 11
    thesis.reassign,  # 12
    deepcluster.skew,  # 13
    instance.embedding_and_data,  # 14
)
ON_CPU = (1, 2, 3, 7, 8, 11)
"""Numbers of those that fit an hour on two cores, all together ("a" in tables.md)."""


def chosen(names: Sequence[str], size: Size) -> list[Claim]:
    """Claims by name or number; `a` for those meant for a CPU, `all` for all; each once, in order.

    Raises:
        ConfigError: there is none of that name.
    """
    claims = [make(size) for make in CLAIMS]
    wanted: set[int] = set()
    for name in names:
        if name == "all":
            wanted |= {claim.number for claim in claims}
        elif name == "a":
            wanted |= set(ON_CPU)
        else:
            found = [claim.number for claim in claims if name in (claim.name, str(claim.number))]
            if not found:
                raise ConfigError(unknown_name("claim", name, [claim.name for claim in claims]))
            wanted |= set(found)
    return [claim for claim in claims if claim.number in wanted]
