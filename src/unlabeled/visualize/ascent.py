"""Activation maximisation: an image that a filter answers to (thesis section 5.3 and figure 5.4, spec V03).

As the released code of DeepCluster does it: begin with N(128, 20) in units of 0..255, which the network is given as they
are, without its normalisation. The objective is -CE(m, f) - wd |x|², where m are the spatial means of the layer's maps
after the ReLU, CE the cross-entropy and f the filter wanted: f is to answer, and no other filter more. A step goes `lr`
along the gradient divided by its length; steps 0, 5, 10, … are followed by a slight Gaussian blur. While a filter
gives zero everywhere after the ReLU there is nothing to climb: the maps of the convolution itself take their place.
For display, the image is brought to mean 0.5 and standard deviation 0.1 and cut off at 0 and 1.

Every image of a batch belongs to a filter of its own, so a whole layer is made in a few batches; evaluation mode keeps
them independent. Shapes: B filters, F filters of the layer, C channels, S × S an image, h × w a map.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from unlabeled.errors import ConfigError, unknown_name
from unlabeled.models import Backbone
from unlabeled.models.stem import Normalize
from unlabeled.randomness import generator

STEPS = 1000
"""At 224 pixels."""
LEAST_STEPS = 500
LEARNING_RATE, WEIGHT_DECAY, SIGMA, BLUR_EVERY = 3.0, 1e-5, 0.3, 5
START_MEAN, START_STD = 128.0, 20.0
SHOWN_MEAN, SHOWN_STD = 0.5, 0.1

Maps = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""Images [B, C, S, S] in 0..255 to a layer's maps after its ReLU and those of its convolution, both [B, F, h, w]."""


@dataclass(frozen=True)
class Ascent:
    """Images that were climbed to."""

    images: torch.Tensor
    """[B, C, S, S] in units of 0..255, not cut off."""
    objective: torch.Tensor
    """[steps, B] before each step."""
    dead: torch.Tensor
    """Whether the filter gave zero everywhere at the end, after the ReLU; bool [B]."""


def ascend(
    maps: Maps,
    units: torch.Tensor,
    start: torch.Tensor,
    *,
    steps: int = STEPS,
    lr: float = LEARNING_RATE,
    weight_decay: float = WEIGHT_DECAY,
    sigma: float = SIGMA,
    blur_every: int = BLUR_EVERY,
    after_step: Callable[[int], None] = lambda _step: None,
) -> Ascent:
    """Climb from the images `start` [B, C, S, S], each for its filter of `units` (int64 [B]).

    Raises ConfigError if there is no step to make or the layer lacks a filter.
    """
    if steps < 1:
        raise ConfigError(f"steps must be at least 1, got {steps}; the papers take 1,000 at 224 pixels.")
    x = start.clone()
    objective = torch.zeros(steps, len(units))
    dead = torch.zeros(len(units), dtype=torch.bool)
    rows = torch.arange(len(units), device=x.device)
    units = units.to(x.device)
    for step in range(steps):
        x = x.detach().requires_grad_()
        after, before = maps(x)
        if not 0 <= int(units.min()) <= int(units.max()) < after.shape[1]:
            raise ConfigError(f"the layer has the filters 0 to {after.shape[1] - 1}, asked for {units.tolist()}.")
        silent = after.detach()[rows, units].amax((1, 2)) <= 0
        means = torch.where(silent[:, None], before.mean((2, 3)), after.mean((2, 3)))
        value = -functional.cross_entropy(means, units, reduction="none") - weight_decay * x.square().sum((1, 2, 3))
        (gradient,) = torch.autograd.grad(value.sum(), x)
        length = gradient.flatten(1).norm(dim=1).clamp(min=torch.finfo(x.dtype).tiny)
        x = x.detach() + lr * gradient / length[:, None, None, None]
        if step % blur_every == 0:
            x = blurred(x, sigma)
        objective[step] = value.detach().cpu()
        dead = silent.cpu()
        after_step(step + 1)
    return Ascent(x.detach(), objective, dead)


def blurred(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian blur of [B, C, S, S], the kernel cut off at four standard deviations, images mirrored at their edges."""
    radius = int(4 * sigma + 0.5)
    if radius == 0:
        return x
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    weights = torch.exp(-offsets.square() / (2 * sigma**2))
    kernel = (weights / weights.sum()).to(x)
    index = torch.arange(-radius, x.shape[2] + radius), torch.arange(-radius, x.shape[3] + radius)
    rows, columns = (_mirrored(i, side).to(x.device) for i, side in zip(index, x.shape[2:], strict=True))
    planes = x[:, :, rows][:, :, :, columns].flatten(0, 1)[:, None]
    planes = functional.conv2d(functional.conv2d(planes, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))
    return planes.view(x.shape)


def _mirrored(index: torch.Tensor, side: int) -> torch.Tensor:
    # … 1 0 | 0 1 … side-1 | side-1 … : the outermost pixel is repeated.
    index = index % (2 * side)
    return torch.where(index < side, index, 2 * side - 1 - index)


def shown(images: torch.Tensor) -> torch.Tensor:
    """Images [B, C, S, S] as uint8 of the same shape: mean 0.5, standard deviation 0.1, cut off at 0 and 1."""
    flat = images.double().flatten(1)
    std, mean = torch.std_mean(flat, 1, correction=0, keepdim=True)
    unit = (flat - mean) / std.clamp(min=1e-5) * SHOWN_STD + SHOWN_MEAN
    return (255 * unit.clamp(0, 1)).floor().to(torch.uint8).view(images.shape)


def starting_images(units: torch.Tensor, channels: int, side: int, seed: int) -> torch.Tensor:
    """N(128, 20) for every filter of `units`, [B, channels, side, side]: the same whatever is made in the same batch."""
    noise = [
        torch.randn(channels, side, side, generator=generator(seed, "ascent", int(unit))) for unit in units.tolist()
    ]
    return torch.stack(noise) * START_STD + START_MEAN


def default_steps(side: int) -> int:
    """1,000 at 224 pixels, in proportion to the side and never fewer than 500.

    A step is of fixed length, and images are as long as they are wide. But the first hundreds only clear the noise away: of
    24 filters of a network for 32 pixels, 2 were among the first five of the 256 that answer to the image shown after 143
    steps, 11 after 300, 14 after 500 and 15 after 1,000.
    """
    return max(LEAST_STEPS, round(STEPS * side / 224))


def batch_size(side: int) -> int:
    """Images climbed together: what fits easily into the memory of a desk computer."""
    return min(256, max(1, math.ceil(32 * (224 / side) ** 2)))


@contextmanager
def stage_maps(backbone: Backbone, stage: str) -> Generator[Maps]:
    """The maps of one stage as `ascend` wants them, from a copy of the network that takes 0..255 as they are.

    Raises ConfigError for a stage this network does not have.
    """
    if stage not in backbone.stages:
        raise ConfigError(unknown_name("stage", stage, backbone.stages))
    network = deepcopy(backbone).float().eval().requires_grad_(False)
    normalize = network.stem.normalize
    assert isinstance(normalize, Normalize)
    channels = len(normalize.mean)
    # The stem stays what it is, Sobel or not; only the normalisation in front of it goes.
    network.stem.normalize = Normalize((0.0,) * channels, (1.0,) * channels).to(normalize.mean.device)
    last: list[torch.Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        last[:] = [output]

    hooks = [module.register_forward_hook(keep) for module in network.modules() if isinstance(module, nn.Conv2d)]

    def maps(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        for name, found in network.trunk(network.stem(x)):
            if name == stage:
                # The convolution that ran last before a stage ends is the one behind its map.
                return found, last[0]
        raise AssertionError("every stage is passed")

    try:
        yield maps
    finally:
        for hook in hooks:
            hook.remove()
