from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn
from torch.nn import functional

from unlabeled.errors import ConfigError
from unlabeled.models import build_backbone
from unlabeled.models.stem import Normalize
from unlabeled.visualize.ascent import ascend, blurred, default_steps, shown, stage_maps, starting_images


@pytest.mark.parametrize("sigma", [0.1, 0.3, 1.0, 2.0])
def test_the_blur_is_that_of_scipy(sigma: float):
    x = torch.rand(2, 3, 7, 9, generator=torch.Generator().manual_seed(0))
    wanted = gaussian_filter(x.numpy().astype(np.float64), (0, 0, sigma, sigma), mode="reflect")
    np.testing.assert_allclose(blurred(x, sigma), wanted, atol=1e-5)


def small(stem: str = "rgb", name: str = "alexnet_small"):
    return build_backbone(name, stem=stem, image_size=32, generator=torch.Generator().manual_seed(0)).eval()


@pytest.mark.parametrize(
    ("stem", "name"), [("rgb", "alexnet_small"), ("sobel", "alexnet_small"), ("rgb", "resnet18_small")]
)
def test_a_batch_climbs_as_each_would_alone_and_its_filters_answer_more(stem: str, name: str):
    backbone, units = small(stem, name), torch.tensor([3, 11])
    start = starting_images(units, 3, 32, seed=5)
    stage = backbone.stages[1]
    with stage_maps(backbone, stage) as maps:
        together = ascend(maps, units, start, steps=12)
        alone = ascend(maps, units[1:], start[1:], steps=12)
    assert (together.objective[-1] > together.objective[0]).all()
    torch.testing.assert_close(together.images[1:], alone.images, atol=1e-2, rtol=1e-4)
    torch.testing.assert_close(starting_images(units[1:], 3, 32, seed=5), start[1:], atol=0, rtol=0)


def test_the_maps_are_those_of_the_network_without_its_normalisation():
    """Given 0..255 as they are; the network itself is left alone."""
    backbone = small("sobel")
    x = starting_images(torch.tensor([0]), 3, 32, seed=1)
    with stage_maps(backbone, "conv2") as maps, torch.no_grad():
        after, before = maps(x)
        bare = small("sobel")
        bare.stem.normalize = Normalize((0.0,) * 3, (1.0,) * 3)
        torch.testing.assert_close(after, bare.forward_stages(x)["conv2"])
        layer = backbone.get_submodule("conv2")
        torch.testing.assert_close(after, functional.relu(layer.get_submodule("norm")(before)))
    assert not any(module._forward_hooks for module in backbone.modules() if isinstance(module, nn.Conv2d))
    assert all(parameter.requires_grad for parameter in backbone.parameters())


def test_a_filter_that_is_dead_after_the_relu_climbs_before_it():
    def maps(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        before = torch.stack((x.sum(1) - 1e6, x.mean(1)), 1)
        return functional.relu(before), before

    found = ascend(maps, torch.tensor([0, 1]), torch.full((2, 3, 6, 6), 128.0), steps=3, weight_decay=0.0)
    assert found.dead.tolist() == [True, False]
    assert found.objective[-1, 0] > found.objective[0, 0]


def test_the_steps_of_a_small_view_clear_the_noise_away():
    units = torch.tensor([3, 7])
    start = starting_images(units, 3, 32, seed=0)
    with stage_maps(small(), "conv3") as maps:
        images = ascend(maps, units, start, steps=default_steps(32), lr=30.0).images
    for image, noise in zip(images, start, strict=True):
        # In proportion to the side it would be 143 steps, and the picture two thirds of the noise it began with.
        assert abs(float(torch.corrcoef(torch.stack([image.flatten(), noise.flatten()]))[0, 1])) < 0.3


def test_for_display_mean_and_deviation_are_set():
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 40 + 300
    unit = shown(images).double().flatten(1) / 255
    torch.testing.assert_close(unit.mean(1), torch.full((2,), 0.5).double(), atol=0.005, rtol=0)
    torch.testing.assert_close(unit.std(1), torch.full((2,), 0.1).double(), atol=0.005, rtol=0)
    assert (shown(torch.ones(1, 3, 4, 4)) == 127).all()


def test_steps_and_mistakes():
    assert default_steps(224) == 1000 and default_steps(160) == 714 and default_steps(32) == 500
    backbone = small()
    with pytest.raises(ConfigError, match="conv3"), stage_maps(backbone, "conv33"):
        pass
    with stage_maps(backbone, "conv1") as maps:
        start = starting_images(torch.tensor([60]), 3, 32, 0)
        with pytest.raises(ConfigError, match="filters 0 to 47"):
            ascend(maps, torch.tensor([60]), start, steps=1)
        with pytest.raises(ConfigError, match="at least 1"):
            ascend(maps, torch.tensor([0]), start, steps=0)
