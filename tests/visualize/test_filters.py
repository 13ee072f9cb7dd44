from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from unlabeled.errors import ConfigError
from unlabeled.models import build_backbone
from unlabeled.visualize.network import Filters, compose, first_convolution, first_filters


@pytest.mark.parametrize("stem", ["sobel", "sobel_nat", "highpass"])
@pytest.mark.parametrize(("name", "side"), [("alexnet", 95), ("resnet18_small", 40), ("alexnet_small", 40)])
def test_the_composition_is_what_stem_and_first_layer_do_inside_the_borders(stem: str, name: str, side: int):
    """Far from the borders, conv1(stem(x)) is one correlation of the normalised grey image with the composed kernel."""
    backbone = build_backbone(
        name,
        stem=stem,
        image_size=side,
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.3, 0.4),
        generator=torch.Generator().manual_seed(1),
    ).eval()
    view = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(2))
    layer = first_convolution(backbone)
    with torch.no_grad():
        wanted = layer(backbone.stem(view))
        grey = backbone.stem.normalize.grey(view)[:, None]
        found = first_filters(backbone)
        assert found.composed
        # The kernel begins as far before the filter's place as half a stem kernel reaches.
        reach = (found.kernels.shape[-1] - layer.kernel_size[0]) // 2
        padding = int(layer.padding[0]) + reach
        bias = None if layer.bias is None else layer.bias
        got = functional.conv2d(grey, found.kernels, bias, layer.stride, padding)
    stride = int(layer.stride[0])
    border = -(-padding // stride)
    inside = slice(border, wanted.shape[-1] - border)
    assert wanted[..., inside, inside].numel()
    torch.testing.assert_close(got[..., inside, inside], wanted[..., inside, inside], atol=1e-4, rtol=1e-4)


def test_the_papers_sizes():
    assert first_filters(build_backbone("alexnet", stem="sobel", image_size=95)).kernels.shape == (96, 1, 13, 13)
    plain = first_filters(build_backbone("alexnet", image_size=95))
    assert plain.kernels.shape == (96, 3, 11, 11) and not plain.composed


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_a_network_of_any_channels_has_tiles(channels: int):
    found = first_filters(build_backbone("alexnet_small", channels=channels, image_size=32))
    tiles = found.tiles()
    assert tiles.shape == (48, 3, 3, 3) and not found.composed
    assert (tiles.reshape(48, -1).min(1) == 0).all() and (tiles.reshape(48, -1).max(1) == 255).all()
    if channels != 3:
        assert (tiles[..., 0] == tiles[..., 1]).all()


def test_a_full_convolution_by_hand():
    filters, kernel = torch.tensor([[[[1.0, 0.0], [0.0, 2.0]]]]), torch.tensor([[[3.0, 4.0], [5.0, 6.0]]])
    assert compose(filters, kernel)[0, 0].tolist() == [[3.0, 4.0, 0.0], [5.0, 12.0, 8.0], [0.0, 10.0, 12.0]]


def test_a_flat_filter_is_grey():
    assert (Filters(torch.ones(2, 3, 4, 4), composed=False).tiles() == 128).all()


def test_channels_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="3 channels cannot follow a stem of 2"):
        compose(torch.zeros(1, 3, 3, 3), torch.zeros(2, 3, 3))
