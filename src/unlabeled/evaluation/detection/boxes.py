"""Arithmetic of boxes: overlap, regression targets, sampling of regions, and what is left of many scored boxes.

Shapes: n boxes [n, 4] as (x1, y1, x2, y2) **intervals** in pixels: x2 - x1 is the width. VOC's boxes, whose corners both
belong to the box, become intervals by adding 1 to x2 and y2. C classes without background.
"""

from __future__ import annotations

import math

import torch

SCALE = (10.0, 10.0, 5.0, 5.0)
"""Regression targets are multiplied by these, so that each varies by about 1 over training regions."""
_LARGEST = math.log(1000 / 16)
"""A box grows at most by this factor's exponential: an untrained layer must not overflow."""


def overlap(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Intersection over union [n, m] of boxes [n, 4] and [m, 4]; 0 where both have no area."""
    sides = (torch.minimum(a[:, None, 2:], b[:, 2:]) - torch.maximum(a[:, None, :2], b[:, :2])).clamp(min=0)
    shared = sides.prod(2)
    union = area(a)[:, None] + area(b) - shared
    return torch.where(union > 0, shared / union, 0)


def area(boxes: torch.Tensor) -> torch.Tensor:
    """Square pixels [n]; 0 for a box turned inside out."""
    return (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1)


def encode(regions: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """What the box layer should say [n, 4] to move each region [n, 4] onto `wanted` [n, 4].

    Shift of the centre in widths and heights, logarithm of the change of size (Girshick et al. 2014, appendix C), times
    `SCALE`. Both must have an area.
    """
    centre, size = _centre_size(regions)
    wanted_centre, wanted_size = _centre_size(wanted)
    moved = torch.cat([(wanted_centre - centre) / size, (wanted_size / size).log()], dim=1)
    return moved * moved.new_tensor(SCALE)


def decode(moved: torch.Tensor, regions: torch.Tensor) -> torch.Tensor:
    """Inverse of `encode`: [n, 4] and regions [n, 4] to boxes [n, 4]; `moved` [n, C, 4] gives [n, C, 4]."""
    centre, size = _centre_size(regions)
    if moved.ndim == 3:
        centre, size = centre[:, None], size[:, None]
    shift = moved / moved.new_tensor(SCALE)
    middle = centre + shift[..., :2] * size
    half = size * shift[..., 2:].clamp(max=_LARGEST).exp() / 2
    return torch.cat([middle - half, middle + half], dim=-1)


def clip(boxes: torch.Tensor, height: float, width: float) -> torch.Tensor:
    """Boxes [..., 4] cut at the border of a picture."""
    x, y = boxes[..., 0::2].clamp(0, width), boxes[..., 1::2].clamp(0, height)
    return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], dim=-1)


def mirror(boxes: torch.Tensor, width: float) -> torch.Tensor:
    """Boxes [n, 4] of a picture that was mirrored left to right."""
    return torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], dim=1)


def match(regions: torch.Tensor, objects: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Largest overlap of each region [n, 4] with an object [m, 4], and which: float [n], int64 [n]; 0, 0 without objects."""
    if not len(objects):
        return regions.new_zeros(len(regions)), torch.zeros(len(regions), dtype=torch.int64, device=regions.device)
    best, which = overlap(regions, objects).max(1)
    return best, which


def sample(
    best: torch.Tensor, count: int, generator: torch.Generator, *, background_from: float = 0.1
) -> tuple[torch.Tensor, torch.Tensor]:
    """Regions to learn from: rows of foreground and of background, at most `count` together.

    `best` [n] is each region's overlap with an object: at least .5 is foreground, of which at most a quarter of `count`
    is drawn; `background_from` to .5 is background, which fills the rest (Fast R-CNN, section 2.3). Where no region is
    such a background, all below .5 are: a picture without objects has no other.
    """
    # On the CPU, where the generator is: one draw gives the same regions on every device.
    best = best.cpu()
    foreground = torch.nonzero(best >= 0.5)[:, 0]
    background = torch.nonzero((best < 0.5) & (best >= background_from))[:, 0]
    if not len(background):
        background = torch.nonzero(best < 0.5)[:, 0]
    foreground = _draw(foreground, count // 4, generator)
    return foreground, _draw(background, count - len(foreground), generator)


def keep_best(
    scores: torch.Tensor, boxes: torch.Tensor, *, least: float = 0.05, suppress: float = 0.3, limit: int = 100
) -> torch.Tensor:
    """Detections [m, 6] of one picture (class, score, box), best first, of scores [n, C] and boxes [n, C, 4].

    Scores above `least`; in each class a box that overlaps a better one by more than `suppress` goes; `limit` remain.
    """
    from torchvision.ops import batched_nms

    region, kind = torch.nonzero(scores > least, as_tuple=True)
    score, box = scores[region, kind], boxes[region, kind]
    has_area = area(box) > 0
    kind, score, box = kind[has_area], score[has_area], box[has_area]
    kept = batched_nms(box, score, kind, suppress)[:limit]
    return torch.cat([kind[kept, None].to(box.dtype), score[kept, None].to(box.dtype), box[kept]], dim=1)


def _draw(rows: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    return rows[torch.randperm(len(rows), generator=generator)[:count]]


def _centre_size(boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
