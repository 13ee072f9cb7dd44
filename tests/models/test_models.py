"""Every backbone by name: shapes, memory format, determinism, errors, and what the stem does to the image."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from unlabeled.errors import ConfigError
from unlabeled.models import build_backbone, known_backbones, l2_head, linear_head

SMALLEST = {
    "alexnet": (63, 4096),
    "alexnet_fc6": (63, 4096),
    "alexnet_nat": (63, 4096),
    "alexnet_small": (8, 256),
    "efficientnet_lite0": (32, 1280),
    "resnet18": (32, 512),
    "resnet18_small": (8, 512),
    "resnet50": (32, 2048),
    "resnet101": (32, 2048),
    "vgg16": (32, 4096),
}


def views(size: int, channels: int = 3, batch: int = 2) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randint(256, (batch, channels, size, size), dtype=torch.uint8, generator=draw)


def test_names_are_the_tested_ones() -> None:
    assert known_backbones() == sorted(SMALLEST)


@pytest.mark.parametrize("name", SMALLEST)
def test_smallest_image_works_and_one_pixel_less_is_refused(name: str) -> None:
    size, dim = SMALLEST[name]
    backbone = build_backbone(name, image_size=size).eval()
    assert backbone.feature_dim == dim
    with torch.inference_mode():
        view = views(size)
        feature, maps = backbone(view), backbone.forward_stages(view)
    assert feature.shape == (2, dim)
    assert feature.isfinite().all()
    assert tuple(maps) == backbone.stages
    assert all(stage.ndim == 4 and stage.shape[-1] >= 1 for stage in maps.values())
    if name != "efficientnet_lite0":  # its groups end with a linear projection
        assert all((stage >= 0).all() for stage in maps.values())
    with pytest.raises(ConfigError, match=f"at least {size}"):
        build_backbone(name, image_size=size - 1)


@pytest.mark.parametrize("name", ["alexnet", "alexnet_nat", "alexnet_small", "resnet18_small", "vgg16"])
def test_every_parameter_learns(name: str) -> None:
    size = SMALLEST[name][0]
    backbone = build_backbone(name, image_size=size, stem="sobel", channels=2)
    head = linear_head(backbone, 5)
    network = nn.Sequential(backbone, head).train()
    network(views(size, channels=2, batch=4)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_weights_follow_the_generator() -> None:
    one, two, other = (
        build_backbone("alexnet_small", generator=torch.Generator().manual_seed(seed)).state_dict()
        for seed in (3, 3, 4)
    )
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["conv1.conv.weight"], other["conv1.conv.weight"])
    torch.manual_seed(5)
    first = linear_head(6, 4).linear.weight
    assert not torch.equal(first, linear_head(6, 4).linear.weight)
    torch.manual_seed(5)
    assert torch.equal(first, linear_head(6, 4).linear.weight)


def test_initialisation_has_the_papers_spread() -> None:
    backbone = build_backbone("alexnet", image_size=63)
    weight = backbone.get_parameter("conv4.conv.weight")
    assert weight.std().item() == pytest.approx((2 / (9 * 384)) ** 0.5, rel=0.01)
    assert backbone.get_parameter("fc7.weight").std().item() == pytest.approx(0.01, rel=0.01)
    assert not backbone.get_parameter("fc7.bias").any()
    assert (backbone.get_parameter("conv4.norm.weight") == 1).all()
    nat = build_backbone("alexnet_nat", image_size=63).get_parameter("fc7.weight")
    assert nat.abs().max().item() == pytest.approx(1 / 64, rel=0.01)


@pytest.mark.parametrize("channels", [1, 3, 6])
@pytest.mark.parametrize("stem", ["rgb", "sobel", "sobel_nat", "highpass"])
@pytest.mark.parametrize("normalize", ["dataset", "image"])
def test_stem_is_the_same_for_bytes_floats_layouts_and_autocast(channels: int, stem: str, normalize: str) -> None:
    statistics = tuple(0.3 + 0.05 * c for c in range(channels)), tuple(0.2 + 0.02 * c for c in range(channels))
    backbone = build_backbone(
        "alexnet_small", channels=channels, stem=stem, mean=statistics[0], std=statistics[1], normalize=normalize
    )
    view = views(12, channels)
    expected = backbone.stem(view)
    assert expected.dtype == torch.float32
    for other in (
        view.to(memory_format=torch.channels_last),
        view / 255,
        (view / 255).to(memory_format=torch.channels_last),
    ):
        torch.testing.assert_close(backbone.stem(other), expected, atol=2e-5, rtol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        half = backbone.stem(view.to(memory_format=torch.channels_last))
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, atol=1e-2, rtol=1e-2)


def test_normalisation_by_hand() -> None:
    view = views(9, channels=2)
    exact = view.double() / 255
    backbone = build_backbone("alexnet_small", channels=2, mean=(0.4, 0.6), std=(0.2, 0.3))
    by_hand = (exact - torch.tensor([0.4, 0.6]).view(2, 1, 1)) / torch.tensor([0.2, 0.3]).view(2, 1, 1)
    torch.testing.assert_close(backbone.stem(view).double(), by_hand, atol=1e-5, rtol=0)
    view[1] = 77
    per_image = build_backbone("alexnet_small", channels=2, normalize="image").stem(view)
    torch.testing.assert_close(per_image[0].double(), (exact[0] - exact[0].mean()) / exact[0].std(correction=0))
    assert per_image[1].abs().max() < 1e-5


def test_constant_image_has_no_high_frequencies() -> None:
    backbone = build_backbone("alexnet_small", stem="highpass")
    assert backbone.stem(torch.full((1, 3, 20, 20), 99, dtype=torch.uint8)).abs().max() < 1e-5


def test_l2_head_rows_have_length_one() -> None:
    head = l2_head(7, 5)
    with torch.autocast("cpu", torch.bfloat16):
        rows = head(torch.randn(4, 7))
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(4))


def test_mistakes_are_one_sentence() -> None:
    with pytest.raises(ConfigError, match="did you mean 'resnet18'"):
        build_backbone("resnet19")
    with pytest.raises(ConfigError, match="unknown stem 'sobol', did you mean 'sobel'"):
        build_backbone("alexnet", stem="sobol")
    with pytest.raises(ConfigError, match="4 channels: give one each"):
        build_backbone("alexnet_small", channels=4, mean=(0.5,) * 3, std=(0.2,) * 3)
    with pytest.raises(ConfigError, match="both or neither"):
        build_backbone("alexnet_small", mean=(0.5,) * 3)
    with pytest.raises(ConfigError, match="above 0"):
        build_backbone("alexnet_small", mean=(0.5,) * 3, std=(0.2, 0.0, 0.2))
    with pytest.raises(ConfigError, match="built for views of 64 pixels"):
        build_backbone("alexnet", image_size=64).eval()(views(96))
