"""Arithmetic of boxes: by hand, and against torchvision."""

from __future__ import annotations

import math

import pytest
import torch
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import batched_nms, box_iou

from unlabeled.evaluation.detection import boxes as arithmetic


def some(count: int, seed: int) -> torch.Tensor:
    corners = 100 * torch.rand(count, 2, 2, generator=torch.Generator().manual_seed(seed))
    return torch.cat([corners.amin(1), corners.amax(1) + 1], dim=1)


def test_overlap():
    a = torch.tensor([[0.0, 0, 10, 10], [0, 0, 0, 5]])
    b = torch.tensor([[5.0, 0, 15, 10], [20, 20, 30, 30], [0, 0, 0, 5]])
    # 50 shared of 150; nothing shared; boxes without area overlap nothing, themselves neither.
    torch.testing.assert_close(arithmetic.overlap(a, b), torch.tensor([[1 / 3, 0, 0], [0, 0, 0]]))
    torch.testing.assert_close(arithmetic.overlap(some(30, 0), some(20, 1)), box_iou(some(30, 0), some(20, 1)))


def test_moves_by_hand_and_as_torchvision_has_them():
    region, wanted = torch.tensor([[0.0, 0, 10, 20]]), torch.tensor([[5.0, 10, 25, 30]])
    # The centre goes from (5, 10) to (15, 20), the size from 10 × 20 to 20 × 20.
    expected = torch.tensor([[10 * 1.0, 10 * 0.5, 5 * math.log(2), 0.0]])
    torch.testing.assert_close(arithmetic.encode(region, wanted), expected)
    torch.testing.assert_close(arithmetic.decode(expected, region), wanted)
    coder, regions, objects = BoxCoder(arithmetic.SCALE), some(40, 2), some(40, 3)
    moves = arithmetic.encode(regions, objects)
    torch.testing.assert_close(moves, coder.encode([objects], [regions])[0])
    torch.testing.assert_close(arithmetic.decode(moves, regions), objects, atol=1e-3, rtol=1e-4)
    # One box a class, and absurd moves stay finite as in torchvision.
    wild = 100 * torch.randn(40, 3, 4, generator=torch.Generator().manual_seed(4))
    theirs = coder.decode(wild.reshape(40, 12), [regions])
    torch.testing.assert_close(arithmetic.decode(wild, regions), theirs.view(40, 3, 4))


def test_boxes_are_cut_and_mirrored():
    box = torch.tensor([[-5.0, 2, 30, 50]])
    assert arithmetic.clip(box, 40, 20).tolist() == [[0, 2, 20, 40]]
    assert arithmetic.mirror(torch.tensor([[1.0, 2, 5, 6]]), 20).tolist() == [[15, 2, 19, 6]]
    assert torch.equal(arithmetic.mirror(arithmetic.mirror(box, 20), 20), box)


def test_matching():
    regions, objects = (
        torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60]]),
        torch.tensor([[40.0, 40, 60, 60], [0, 0, 10, 9]]),
    )
    best, which = arithmetic.match(regions, objects)
    torch.testing.assert_close(best, torch.tensor([0.9, 0.25]))
    assert which.tolist() == [1, 0]
    best, which = arithmetic.match(regions, objects[:0])
    assert best.tolist() == [0, 0] and which.tolist() == [0, 0]


def test_sampling_keeps_the_shares_of_the_paper():
    best = torch.cat([torch.full((50,), 0.7), torch.full((100,), 0.3), torch.full((30,), 0.05)])
    random = torch.Generator().manual_seed(0)
    front, back = arithmetic.sample(best, 64, random)
    assert len(front) == 16 and len(back) == 48
    assert (best[front] == 0.7).all() and (best[back] == 0.3).all()
    assert len(set(front.tolist())) == 16 and len(set(back.tolist())) == 48
    again = arithmetic.sample(best, 64, torch.Generator().manual_seed(0))
    assert torch.equal(front, again[0]) and torch.equal(back, again[1])
    # Few objects: background fills the rest. Lower limit zero: everything below half is background.
    front, back = arithmetic.sample(best[48:], 64, random, background_from=0.0)
    assert len(front) == 2 and len(back) == 62 and (best[48:][back] < 0.1).any()
    # A picture without objects has no background from .1 on and takes what there is; one without regions has nothing.
    front, back = arithmetic.sample(torch.zeros(9), 64, random)
    assert len(front) == 0 and len(back) == 9
    assert [len(rows) for rows in arithmetic.sample(torch.zeros(0), 64, random)] == [0, 0]


@pytest.mark.parametrize("limit", [5, 100])
def test_what_is_kept_of_many_boxes(limit: int):
    random = torch.Generator().manual_seed(5)
    scores, boxes = torch.rand(60, 2, generator=random), some(120, 6).view(60, 2, 4)
    boxes[0, 0] = torch.tensor([3.0, 3, 3, 9])  # without area
    found = arithmetic.keep_best(scores, boxes, least=0.2, limit=limit)
    region, kind = torch.nonzero((scores > 0.2) & (arithmetic.area(boxes.view(-1, 4)).view(60, 2) > 0), as_tuple=True)
    kept = batched_nms(boxes[region, kind], scores[region, kind], kind, 0.3)[:limit]
    expected = torch.cat([kind[kept, None], scores[region, kind][kept, None], boxes[region, kind][kept]], dim=1)
    assert torch.equal(found, expected) and len(found) <= limit
    assert (found[1:, 1] <= found[:-1, 1]).all()
    for label in (0, 1):
        own = found[found[:, 0] == label, 2:]
        assert (box_iou(own, own).fill_diagonal_(0) <= 0.3).all()
    assert arithmetic.keep_best(torch.zeros(3, 2), torch.zeros(3, 2, 4)).shape == (0, 6)
