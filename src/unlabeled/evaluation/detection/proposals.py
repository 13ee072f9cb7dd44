"""Boxes that may hold an object, from the picture alone: hierarchical grouping as in selective search.

Uijlings et al., "Selective Search for Object Recognition" (2013), section 3: small segments are joined step by step, most
similar neighbours first, and the box around every segment that ever existed is a proposal. Similarity is of colour,
texture, size and fill (equations 2 to 6). As in the paper's fast mode the grouping is repeated over two colour spaces,
two sizes of the first segments, and with and without colour.

Ours differs where it saves time: pictures are shrunk to `SIDE` first, and the first segments (Felzenszwalb and
Huttenlocher 2004) come from the edges of the minimum spanning tree alone, which is nearly the same forest. NumPy and
SciPy only; deterministic. docs/evaluation-detection.md has the recall measured.

Shapes: picture [h, w, 3], n segments, boxes [m, 4] as intervals (x1, y1, x2, y2) in pixels.
"""

from __future__ import annotations

import heapq
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unlabeled.data.voc import VocImage
from unlabeled.errors import DataError
from unlabeled.randomness import numpy_generator

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

SIDE = 200
"""Longest side at which pictures are segmented, pixels."""
SIZES = (50.0, 100.0)
"""Felzenszwalb's k: larger values prefer larger first segments."""
LEAST = 8
"""Narrower or lower boxes are no proposals, pixels of the shrunken picture."""
LIMIT = 2000
"""Most proposals of a picture (Fast R-CNN, section 4.1)."""
_COLOUR_BINS, _TEXTURE_BINS, _ANGLES = 25, 10, 8


def propose(picture: NDArray[np.uint8], *, seed: int = 0, limit: int = LIMIT) -> Floats:
    """Proposals [m, 4] of a picture [h, w, C], the likelier ones first, at most `limit`.

    The order is the paper's (section 3.3): by place in the hierarchy, the whole picture first, times a random number.
    Pictures that are not of three channels are grouped by the mean of their channels.
    """
    height, width = picture.shape[:2]
    small = _shrunk(picture)
    found: list[Ints] = []
    order: list[NDArray[np.float64]] = []
    random = numpy_generator(seed, "proposals", height, width)
    for planes in _colour_spaces(small):
        for k in SIZES:
            first = _Segments.of(planes, segment(planes, k))
            for with_colour in (True, False):
                boxes = group(first, with_colour=with_colour)[::-1]
                found.append(boxes)
                order.append((1 + np.arange(len(boxes))) * random.random(len(boxes)))
    boxes = np.concatenate(found)[np.argsort(np.concatenate(order), kind="stable")]
    boxes = boxes[((boxes[:, 2:] - boxes[:, :2]) >= min(LEAST, *small.shape[:2])).all(1)]
    _, first_seen = np.unique(boxes, axis=0, return_index=True)
    kept = boxes[np.sort(first_seen)][:limit]
    scale = np.array([width / small.shape[1], height / small.shape[0]] * 2)
    return (kept * scale).astype(np.float32)


def segment(planes: Floats, k: float, *, least: int = 20) -> Ints:
    """First segments of a picture [h, w, c], values around 0 to 255: numbers 0 to n-1 [h, w].

    Two segments are joined if the edge between them is no heavier than every edge inside either, plus k over its number
    of pixels (Felzenszwalb and Huttenlocher 2004, section 3); segments under `least` pixels are joined afterwards.
    """
    from scipy.ndimage import gaussian_filter
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import minimum_spanning_tree

    height, width = planes.shape[:2]
    smooth = gaussian_filter(planes, (0.8, 0.8, 0))
    number = np.arange(height * width).reshape(height, width)
    starts, ends, weights = [], [], []
    for a, b in _neighbours(height, width):
        starts.append(number[a].ravel())
        ends.append(number[b].ravel())
        weights.append(np.sqrt(((smooth[a] - smooth[b]) ** 2).sum(2)).ravel())
    # A weight of nothing would be no edge to SciPy.
    values = np.concatenate(weights).astype(np.float64) + 1e-6
    rows, columns = np.concatenate(starts), np.concatenate(ends)
    tree = minimum_spanning_tree(coo_array((values, (rows, columns)), shape=(number.size, number.size)).tocsr()).tocoo()
    order = np.lexsort((tree.col, tree.row, tree.data))
    roots = _joined(
        tree.row[order].tolist(), tree.col[order].tolist(), tree.data[order].tolist(), number.size, k, least
    )
    return np.unique(roots, return_inverse=True)[1].reshape(height, width).astype(np.int64)


def _joined(starts: list[int], ends: list[int], weights: list[float], count: int, k: float, least: int) -> list[int]:
    parent, size, limit = list(range(count)), [1] * count, [k] * count

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    refused: list[tuple[int, int]] = []
    for start, end, weight in zip(starts, ends, weights, strict=True):
        a, b = root(start), root(end)
        if weight <= limit[a] and weight <= limit[b]:
            parent[b] = a
            size[a] += size[b]
            limit[a] = weight + k / size[a]
        else:
            refused.append((a, b))
    for start, end in refused:
        a, b = root(start), root(end)
        if size[a] < least or size[b] < least:
            parent[b] = a
            size[a] += size[b]
    return [root(i) for i in range(count)]


def _neighbours(height: int, width: int) -> list[tuple[tuple[slice, slice], tuple[slice, slice]]]:
    """Pairs of windows whose pixels at the same place are neighbours: right, below, and the two diagonals."""
    all_rows, all_columns = slice(0, height), slice(0, width)
    up, down, left, right = slice(0, height - 1), slice(1, height), slice(0, width - 1), slice(1, width)
    return [
        ((all_rows, left), (all_rows, right)),
        ((up, all_columns), (down, all_columns)),
        ((up, left), (down, right)),
        ((up, right), (down, left)),
    ]


@dataclass(frozen=True)
class _Segments:
    """What grouping knows of n segments."""

    colour: Floats
    """Histograms [n, 75], each of sum 1."""
    texture: Floats
    """Histograms [n, 240], each of sum 1."""
    size: Ints
    """Pixels [n]."""
    box: Ints
    """[n, 4], intervals."""
    pairs: Ints
    """Neighbours [p, 2]."""
    total: int
    """Pixels of the picture."""

    @staticmethod
    def of(planes: Floats, labels: Ints) -> _Segments:
        count, flat = int(labels.max()) + 1, labels.ravel()
        size = np.bincount(flat, minlength=count)
        colour = [_histograms(flat, count, planes[:, :, c], 0, 255, _COLOUR_BINS) for c in range(planes.shape[2])]
        texture = [
            _histograms(flat, count, response, 0, 128, _TEXTURE_BINS)
            for c in range(planes.shape[2])
            for response in _derivatives(planes[:, :, c])
        ]
        shares = [np.concatenate(parts, axis=1) for parts in (colour, texture)]
        colours, textures = ((part / part.sum(1, keepdims=True)).astype(np.float32) for part in shares)
        return _Segments(colours, textures, size, _bounds(labels, count), _pairs(labels), flat.size)


def group(first: _Segments, *, with_colour: bool = True) -> Ints:
    """Box of every segment of the hierarchy [2n - 1, 4]: the first ones, then each as it is made; the last is the whole.

    Segments that touch no other (there are none in a picture) would be left as they are.
    """
    count = len(first.size)
    features = np.concatenate([first.colour, first.texture], axis=1) if with_colour else first.texture
    table = np.zeros((2 * count - 1, features.shape[1]), np.float32)
    size, box = np.zeros(2 * count - 1, np.int64), np.zeros((2 * count - 1, 4), np.int64)
    table[:count], size[:count], box[:count] = features, first.size, first.box
    touching: list[set[int]] = [set() for _ in range(2 * count - 1)]
    for a, b in first.pairs.tolist():
        touching[a].add(b)
        touching[b].add(a)

    def similarity(i: NDArray[np.int64] | int, j: NDArray[np.int64]) -> NDArray[np.float64]:
        alike = np.minimum(table[i], table[j]).sum(-1, dtype=np.float64)
        joined = np.maximum(box[i][..., 2:], box[j][..., 2:]) - np.minimum(box[i][..., :2], box[j][..., :2])
        # Size and fill, equations 4 and 6: 1 - both sizes / picture, and 1 - hole / picture.
        both = size[i] + size[j]
        return alike + 1 - both / first.total + 1 - (joined.prod(-1) - both) / first.total

    queue = [
        (-value, a, b) for value, (a, b) in zip(similarity(*first.pairs.T).tolist(), first.pairs.tolist(), strict=True)
    ]
    heapq.heapify(queue)
    made = count
    while queue:
        _, a, b = heapq.heappop(queue)
        if size[a] == 0 or size[b] == 0:
            continue  # one of them is part of a larger one by now
        total = size[a] + size[b]
        table[made] = (table[a] * size[a] + table[b] * size[b]) / total
        box[made] = [*np.minimum(box[a, :2], box[b, :2]), *np.maximum(box[a, 2:], box[b, 2:])]
        size[made], size[a], size[b] = total, 0, 0
        near = (touching[a] | touching[b]) - {a, b}
        for other in near:
            touching[other] -= {a, b}
            touching[other].add(made)
        touching[made] = near
        if near:
            others = np.array(sorted(near))
            for value, other in zip(similarity(made, others).tolist(), others.tolist(), strict=True):
                heapq.heappush(queue, (-value, other, made))
        made += 1
    return box[:made]


def _histograms(flat: Ints, count: int, values: Floats, low: float, high: float, bins: int) -> NDArray[np.float64]:
    place = np.clip((values.ravel() - low) * (bins / (high - low)), 0, bins - 1).astype(np.int64)
    return np.bincount(flat * bins + place, minlength=count * bins).reshape(count, bins).astype(np.float64)


def _derivatives(plane: Floats) -> list[Floats]:
    """Gaussian derivatives (standard deviation 1) in eight directions, positive parts, strengthened to use the bins."""
    from scipy.ndimage import gaussian_filter

    # SciPy takes one order for each axis, whatever its annotation says.
    across, down = (gaussian_filter(plane, 1, order=order) for order in ((0, 1), (1, 0)))  # pyright: ignore[reportArgumentType]
    angles = 2 * np.pi * np.arange(_ANGLES) / _ANGLES
    return [np.maximum(4 * (np.cos(angle) * across + np.sin(angle) * down), 0) for angle in angles]


def _bounds(labels: Ints, count: int) -> Ints:
    from scipy.ndimage import find_objects

    found = find_objects(labels + 1, max_label=count)
    return np.array([[s[1].start, s[0].start, s[1].stop, s[0].stop] for s in found if s is not None], np.int64)


def _pairs(labels: Ints) -> Ints:
    sides = [(labels[a].ravel(), labels[b].ravel()) for a, b in _neighbours(*labels.shape)[:2]]
    joined = np.concatenate([np.stack(side, axis=1) for side in sides])
    joined = np.sort(joined[joined[:, 0] != joined[:, 1]], axis=1)
    return np.unique(joined, axis=0).reshape(-1, 2)


def _shrunk(picture: NDArray[np.uint8]) -> Floats:
    """[h, w, 3] in 0…255, at most `SIDE` pixels long."""
    from PIL import Image

    if picture.shape[2] != 3:
        picture = np.repeat(np.rint(picture.mean(2, keepdims=True)), 3, axis=2).astype(np.uint8)
    height, width = picture.shape[:2]
    scale = min(1.0, SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR), np.float32)


def _colour_spaces(rgb: Floats) -> list[Floats]:
    """The picture as hue, saturation, value and as CIE Lab, each plane spread over 0…255."""
    from PIL import Image

    hsv = np.asarray(Image.fromarray(rgb.astype(np.uint8)).convert("HSV"), np.float32)
    return [hsv, _lab(rgb)]


def _lab(rgb: Floats) -> Floats:
    """CIE 1976 L*a*b* of sRGB (IEC 61966-2-1, white D65); L over 0…255, a and b moved by 128."""
    share = rgb / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ to_xyz.T / [0.9505, 1.0, 1.089]
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([(116 * y - 16) * 2.55, 500 * (x - y) + 128, 200 * (y - z) + 128], axis=2).astype(np.float32)


def read_proposals(path: str | Path, images: Sequence[VocImage], *, limit: int = LIMIT) -> list[torch.Tensor]:
    """Intervals float32 [m, 4] for each picture, cut at its border; at most `limit`, in the file's order.

    Raises:
        DataError: the file is not there, not of either format, or has no boxes for a picture.
    """
    file = Path(path)
    table = _table(file)
    result: list[torch.Tensor] = []
    for image in images:
        if image.name not in table:
            raise DataError(
                f"{file} has no proposals for {image.name} (it has {len(table):,} pictures, the split needs {len(images):,}): "
                "compute them for every picture, or leave --proposals out."
            )
        result.append(_boxes(file, image, table[image.name])[:limit])
    return result


def _table(file: Path) -> dict[str, Any]:
    if file.suffix not in (".npz", ".json"):
        raise DataError(f"proposals are read from .npz or .json files, {file} is neither.")
    try:
        if file.suffix == ".json":
            found = json.loads(file.read_text())
            if isinstance(found, dict):
                return {str(name): rows for name, rows in found.items()}
            raise DataError(
                f"{file} must hold one object, picture's name to boxes, and it holds a {type(found).__name__}."
            )
        # Without pickle: a file of proposals runs no code.
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise DataError(f"there is no file of proposals {file}.") from None
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{file} cannot be read as proposals: {' '.join(str(error).split())[:120]}.") from None


def _boxes(file: Path, image: VocImage, rows: Any) -> torch.Tensor:
    try:
        boxes = np.asarray(rows, dtype=np.float64)
        boxes = boxes.reshape(len(boxes), -1) if boxes.size else np.zeros((0, 4))
    except (TypeError, ValueError):
        boxes = np.full((1, 1), np.nan)
    if boxes.size and (boxes.shape[1] != 4 or not np.isfinite(boxes).all()):
        raise DataError(f"{file}: the proposals of {image.name} must be rows of four finite numbers x1, y1, x2, y2.")
    height, width = image.size
    intervals = boxes.reshape(-1, 4) - [1, 1, 0, 0]
    intervals = np.clip(intervals, 0, [width, height, width, height])
    has_area = ((intervals[:, 2:] - intervals[:, :2]) > 0).all(1)
    return torch.from_numpy(intervals[has_area].astype(np.float32))
