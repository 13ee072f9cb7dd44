"""Crops of the probes against torchvision's, and rows of several sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pictures import pictures
from unlabeled.data.augment import Views
from unlabeled.data.loading import Loader
from unlabeled.data.sources import open_source
from unlabeled.data.store import open_store
from unlabeled.errors import DataError
from unlabeled.evaluation.crops import RowViews, central_views, random_crops, ten_crop_views, ten_crops

VIEWS = Views(image_size=28, resize=32)


def loader(path: Path, count: int, views: Views = VIEWS, side: int = 32) -> Loader:
    np.save(path, pictures(count, side)[0])
    return Loader(open_store(open_source(path), short_side=side, cache=None), views, device="cpu", seed=0)


def test_ten_crops_are_torchvisions(tmp_path: Path):
    from torchvision.transforms.functional import ten_crop

    made = loader(tmp_path / "a.npy", 3)
    (rows, views), *_ = ten_crop_views(made)(torch.tensor([2, 0]), 8)
    assert rows.tolist() == [2, 0] and views.shape == (2, 10, 3, 28, 28)
    for row, own in zip([2, 0], views, strict=True):
        wanted = torch.stack(ten_crop(made.store.pixels(row).permute(2, 0, 1), [28]))
        torch.testing.assert_close(own, wanted)


def test_crops_lie_in_the_central_square_and_reach_its_corners():
    sizes = torch.tensor([[40, 64]]).repeat(4000, 1)
    drawn = random_crops(VIEWS, sizes, torch.Generator().manual_seed(0))
    top, left, height, width = drawn.box.long().T
    assert set(height.tolist()) == set(width.tolist()) == {35}  # 40 * 28 / 32
    assert (int(top.min()), int(top.max())) == (0, 5)
    assert (int(left.min()), int(left.max())) == (12, 17)
    counts = torch.bincount(top).double() / len(top)
    assert counts.sub(1 / 6).abs().max() < 0.03 and 0.45 < drawn.flip[:, 0].double().mean() < 0.55
    assert not drawn.flip[:, 1].any() and drawn.only_geometry


def test_small_views_are_cut_from_seven_eighths():
    assert ten_crops(Views(image_size=32, resize=32), torch.tensor([[32, 32]])).box[4].tolist() == [2, 2, 28, 28]


def test_rows_count_through_sets(tmp_path: Path):
    first, second = loader(tmp_path / "a.npy", 3), loader(tmp_path / "b.npy", 5)
    rows = RowViews((first, second))
    (_, wanted), *_ = central_views(second)(torch.tensor([1, 4]), 2)
    torch.testing.assert_close(torch.cat(list(rows.crops(torch.tensor([4, 7]), 2))), wanted)
    keyed = (torch.tensor([3, 6, 5]), torch.Generator().manual_seed(1), slice(1, 3))
    (index, views), *_ = rows.training([keyed])
    whole, *_ = rows.training([(keyed[0], torch.Generator().manual_seed(1), slice(0, 3))])
    assert index.tolist() == [6, 5]
    torch.testing.assert_close(views, whole[1][1:])
    assert list(rows.crops(torch.tensor([], dtype=torch.int64), 2)) == [] == list(rows.training([]))
    with pytest.raises(DataError, match="row 8"):
        list(rows.crops(torch.tensor([8]), 2))
