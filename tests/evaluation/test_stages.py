"""Pooled stages: the rule, the published sizes of whole networks, and what is read against plain torch."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from unlabeled.errors import ConfigError
from unlabeled.evaluation.stages import MOST_DIMS, StageFeatures, parse_stages, pool_of
from unlabeled.models import build_backbone


def test_alexnet_has_the_published_sizes():
    backbone = build_backbone("alexnet", stem="sobel", image_size=224)
    features = StageFeatures(backbone, backbone.stages, 3)
    assert list(features.dims.values()) == [9600, 9216, 9600, 9600, 9216]
    pools = [(pool.size, pool.padding) for pool in features.pools.values()]
    assert pools == [(6, 3), (4, 0), (3, 1), (3, 1), (2, 0)]


@pytest.mark.parametrize("channels", [1, 48, 96, 256, 512, 2048, 9999])
def test_the_rule_holds_for_every_map(channels: int):
    for side in range(1, 120):
        pool = pool_of(channels, side)
        assert 0 <= 2 * pool.padding <= pool.size
        assert 1 <= channels * pool.side(side) ** 2 < MOST_DIMS
        assert pool(torch.zeros(1, 1, side, side)).shape[2] == pool.side(side)
        # A smaller window would give too much.
        smaller = pool.size - 1
        assert not smaller or channels * (side // smaller) ** 2 >= MOST_DIMS


@pytest.mark.parametrize("name", ["alexnet_small", "resnet18_small"])
def test_rows_are_the_pooled_maps_in_evaluation_mode(name: str):
    backbone = build_backbone(name, image_size=32, generator=torch.Generator().manual_seed(0))
    features = StageFeatures(backbone, (*backbone.stages, "feature"), 3)
    view = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    features.train()
    rows = features(view)
    assert not backbone.training and not rows.requires_grad
    parts = features.parts(rows)
    with torch.no_grad():
        for stage, x in backbone.forward_stages(view).items():
            pool = features.pools[stage]
            plain = functional.avg_pool2d(functional.pad(x, [pool.padding] * 4), pool.size) if pool.size > 1 else x
            torch.testing.assert_close(parts[stage], plain.flatten(1), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(parts["feature"], backbone(view))
    early = StageFeatures(backbone, backbone.stages[:2], 3)
    torch.testing.assert_close(early(view), torch.cat([parts[stage] for stage in backbone.stages[:2]], 1))


def test_stages_are_named_in_any_order_and_checked():
    backbone = build_backbone("alexnet_small", image_size=32)
    assert parse_stages(None, backbone) == backbone.stages == parse_stages("all", backbone)
    assert parse_stages("conv3, conv1,feature", backbone) == ("conv1", "conv3", "feature")
    assert parse_stages(None, backbone, output=True)[-1] == "feature"
    with pytest.raises(ConfigError, match="unknown stage 'conv6', did you mean 'conv"):
        parse_stages("conv6", backbone)
    with pytest.raises(ConfigError, match="names none"):
        parse_stages(" , ", backbone)
