"""Folding and rescaling keep what a network computes; initialisation makes every layer equally strong."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from unlabeled.errors import ConfigError
from unlabeled.models import Backbone, build_backbone
from unlabeled.models.data_init import (
    CLOSE,
    equalise,
    fold,
    fold_pair,
    gradient_ratios,
    initialise,
    rescale,
    start_from_data,
)
from unlabeled.randomness import generator


def trained(name: str, size: int) -> tuple[Backbone, torch.Tensor]:
    """A network whose statistics and affine parameters are not those of a fresh one."""
    random = generator(0, name)
    backbone = build_backbone(name, image_size=size, generator=random).eval()
    for part in backbone.modules():
        if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)):
            assert part.running_mean is not None
            assert part.running_var is not None
            part.running_mean.uniform_(-0.5, 0.5, generator=random)
            part.running_var.uniform_(0.5, 2, generator=random)
            nn.init.uniform_(part.weight, 0.5, 1.5, generator=random)
            nn.init.uniform_(part.bias, -0.3, 0.3, generator=random)
    return backbone, torch.rand(16, 3, size, size, generator=random)


@pytest.mark.parametrize("name", ["alexnet_small", "resnet18_small"])
def test_folding_keeps_the_outputs_and_leaves_no_normalisation(name: str):
    backbone, view = trained(name, 16)
    folded = fold(backbone, view)
    assert not any(isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)) for part in folded.modules())
    with torch.no_grad():
        wanted = backbone(view)
        assert torch.allclose(folded(view), wanted, atol=1e-5 * float(wanted.abs().max()))
    assert any(isinstance(part, nn.BatchNorm2d) for part in backbone.modules()), "the original is not touched"


@pytest.mark.parametrize("bias", [False, True])
def test_one_folded_pair_is_the_formula(bias: bool):
    layer, norm = nn.Linear(5, 3, bias=bias), nn.BatchNorm1d(3).eval()
    norm.running_mean, norm.running_var = torch.tensor([1.0, -2, 0]), torch.tensor([4.0, 1, 0.25])
    nn.init.constant_(norm.weight, 3.0)
    x = torch.randn(7, 5)
    assert torch.allclose(fold_pair(layer, norm)(x), norm(layer(x)), atol=1e-5)


def test_a_normalisation_that_follows_no_layer_is_refused():
    with pytest.raises(ConfigError, match="does not follow a convolution"):
        fold(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)), torch.rand(2, 3, 4, 4))


def test_rescaling_a_trained_chain_keeps_the_outputs_and_equalises():
    backbone, view = trained("alexnet_small", 16)
    folded = fold(backbone, view)
    made = rescale(folded, view)
    with torch.no_grad():
        wanted = folded(view)
        assert torch.allclose(made(view), wanted, atol=1e-4 * float(wanted.abs().max()))
    before, after = (torch.tensor(list(gradient_ratios(part, view).values())).log() for part in (folded, made))
    assert float((before - before.mean()).abs().max()) > 0.1
    assert float((after - after.mean()).abs().max()) <= 0.01
    # The geometric mean of the ratios is what all of them become.
    assert float(equal_ratio(equalise(folded, view), view)) == pytest.approx(float(before.mean().exp()), rel=0.01)


def equal_ratio(network: nn.Module, view: torch.Tensor) -> torch.Tensor:
    ratios = torch.tensor(list(gradient_ratios(network, view).values()))
    assert float(ratios.max() / ratios.min()) <= math.exp(0.021)
    return ratios.mean()


def test_fully_connected_layers_follow_their_map():
    """AlexNet: the factor of a channel of conv5 goes to all positions of it that fc6 reads."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 6), nn.ReLU(), nn.Linear(6, 2)
    )
    view = torch.randn(20, 3, 8, 8)
    made = rescale(network, view)
    with torch.no_grad():
        assert torch.allclose(made(view), network(view), atol=1e-5)


@pytest.mark.parametrize("name", ["alexnet_small", "resnet18_small"])
def test_rescaling_what_is_no_chain_is_refused(name: str):
    backbone, view = trained(name, 16)
    with pytest.raises(ConfigError, match="chain of layers without batch normalisation"):
        rescale(backbone if name == "alexnet_small" else fold(backbone, view), view)


def test_initialised_layers_give_channels_of_mean_zero_and_variance_one():
    view = torch.rand(64, 3, 16, 16, generator=generator(1))
    backbone = fold(build_backbone("alexnet_small", image_size=16, generator=generator(2)), view)
    made = initialise(backbone, view)
    seen: list[torch.Tensor] = []
    for part in made.modules():
        if isinstance(part, nn.Conv2d):
            part.register_forward_hook(lambda _, __, output: seen.append(output.clone()))
    with torch.no_grad():
        made(view)
    assert len(seen) == 5
    for output in seen:
        std, mean = torch.std_mean(output, (0, 2, 3), correction=0)
        assert torch.allclose(std, torch.ones_like(std), atol=1e-3)
        assert torch.allclose(mean, torch.zeros_like(mean), atol=1e-3)


def spread_of_ratios(network: nn.Module, view: torch.Tensor, seed: int = 0) -> float:
    """Largest deviation of a log-ratio of gradient to weights from the mean of all."""
    logs = torch.tensor(list(gradient_ratios(network, view, seed).values())).log()
    return float((logs - logs.mean()).abs().max())


@pytest.mark.parametrize(
    ("name", "size", "layers"), [("alexnet_small", 16, 5), ("resnet18_small", 8, 20), ("alexnet", 63, 7)]
)
def test_a_start_from_data_makes_layers_learn_equally_fast(name: str, size: int, layers: int):
    """With batch normalisation everywhere, with branches too, and with two layers at the end that have none."""
    view = torch.rand(12, 3, size, size, generator=generator(1))
    backbone = build_backbone(name, image_size=size, generator=generator(2))
    before = spread_of_ratios(backbone, view)
    first = initialise(backbone, view).eval()
    start_from_data(backbone, view)
    assert len(gradient_ratios(backbone, view)) == layers
    assert spread_of_ratios(backbone, view) <= CLOSE * 1.01
    # Of gradients in other directions the ratios are equal too, but for chance.
    assert spread_of_ratios(backbone, view, seed=5) < 0.3 * before
    with torch.no_grad():
        wanted = first(view)
        assert torch.allclose(backbone.eval()(view), wanted, atol=2e-3 * float(wanted.abs().max()))


def test_the_ratio_is_that_of_gradients_in_training():
    """Against the gradient of the same loss by hand, with batch normalisation in training mode."""
    view = torch.rand(8, 3, 16, 16, generator=generator(1))
    backbone = build_backbone("alexnet_small", image_size=16, generator=generator(2))
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    found = gradient_ratios(backbone.eval(), view, seed=3)
    assert all(torch.equal(before[name], value) for name, value in backbone.state_dict().items()), "it only looks"
    output = backbone.train()(view)
    (output * torch.randn(output.shape, generator=generator(3, "equalise"))).sum().backward()
    for name, ratio in found.items():
        weight = backbone.get_submodule(name).weight
        assert isinstance(weight, nn.Parameter)
        assert weight.grad is not None
        assert ratio == pytest.approx(float(weight.grad.norm() / weight.detach().norm()), rel=1e-4)


def test_branches_without_normalisation_cannot_start_from_data():
    backbone, view = trained("resnet18_small", 16)
    with pytest.raises(ConfigError, match="chain of layers"):
        start_from_data(fold(backbone, view), view)
