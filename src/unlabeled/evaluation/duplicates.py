"""Groups of images that are the same picture, and which one of each to keep.

Shapes: N images, k neighbours of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def groups(neighbours: NDArray[np.int64], repeated: NDArray[np.uint8]) -> list[list[int]]:
    """Images joined by being the same picture as a neighbour, each group rising, ordered by their first.

    `repeated` [N, k] is above 0 where a neighbour is (2 pixel by pixel, 1 nearly), see `report.atlas.repeats`.
    """
    image, place = np.nonzero(repeated)
    count = len(neighbours)
    edges = coo_array((np.ones(len(image)), (image, neighbours[image, place])), shape=(count, count))
    _, group = connected_components(edges, directed=False)
    found: dict[int, list[int]] = {}
    for i, number in enumerate(group.tolist()):
        found.setdefault(number, []).append(i)
    return [members for members in found.values() if len(members) > 1]


def to_json(
    found: Sequence[Sequence[int]],
    names: Sequence[str],
    pixels: NDArray[np.int64],
    digests: Sequence[bytes],
    total: int,
) -> dict[str, Any]:
    """The groups with the image to keep, the one with most `pixels` [N] in its file, and of two such the first.

    `same` of another is true where its pixels, as the network gets them, are those of the kept one (`digests`).
    """
    rows: list[dict[str, Any]] = []
    for members in found:
        keep = max(members, key=lambda i: (pixels[i], -i))
        others = [{"path": names[i], "same": digests[i] == digests[keep]} for i in members if i != keep]
        rows.append({"keep": names[keep], "others": others})
    return {"images": total, "looked_at": len(names), "copies": sum(len(row["others"]) for row in rows), "groups": rows}
