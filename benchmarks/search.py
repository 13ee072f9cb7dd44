"""Exhaustive search among the features of ImageNet's size: 1,281,167 × 128 float32, the 200 nearest of each query.

Wu et al. (CVPR 2018, section 4.2) state about 600 MB for these features and 20 ms for one query on a Titan X. Here one
thread searches, ours (bfloat16 where the hardware has it, then float32 among the candidates: the same neighbors)
against one float32 product and `topk`, the two in turn, CPU time, medians. A query alone reads the whole table; in a batch many
share one reading.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import normalize

from benchmarks.timing import time_in_turn
from unlabeled.cluster.neighbors import nearest_neighbors
from unlabeled.randomness import generator

IMAGENET, DIMS, NEIGHBORS = 1_281_167, 128, 200


def run(quick: bool) -> list[dict[str, Any]]:
    """A row for one query alone and one for 64 at once, milliseconds a query."""
    total = 100_000 if quick else IMAGENET
    table = normalize(torch.randn(total, DIMS, generator=generator(0, "table")), dim=1)
    return [measure(table, queries, 3) for queries in (1, 64)]


def measure(table: torch.Tensor, count: int, turns: int) -> dict[str, Any]:
    """Time both on the same queries, which lie near rows of the table."""
    near = table[torch.randint(len(table), (count,), generator=generator(0, "rows"))]
    queries = normalize(near + 0.05 * torch.randn(count, DIMS, generator=generator(0, "queries")), dim=1)
    found: dict[str, torch.Tensor] = {}

    def ours() -> None:
        found["ours"] = nearest_neighbors(table, queries, NEIGHBORS).index

    def plain() -> None:
        found["plain"] = (queries @ table.T).topk(NEIGHBORS, dim=1).indices

    seconds = time_in_turn({"ours": ours, "plain": plain}, turns)
    same = sum(len(set(a) & set(b)) for a, b in zip(*(found[key].tolist() for key in ("ours", "plain")), strict=True))
    return {
        "name": f"search of {count} {'query' if count == 1 else 'queries at once'} among {len(table):,} x {DIMS}",
        "ours": 1e3 * seconds["ours"] / count,
        "reference": 1e3 * seconds["plain"] / count,
        "ratio": seconds["plain"] / seconds["ours"],
        "unit": "ms a query",
        "detail": f"table of {table.nbytes / 1e6:,.0f} MB; {same:,} of {count * NEIGHBORS:,} neighbors are the same",
    }
