"""Data-dependent initialisation and rescaling (Krähenbühl et al. 2016; spec M23), and folding of batch normalisation.

Shapes: views [B, C, S, S]. Three pure steps on copies of a backbone:

    fold         conv -> norm becomes one convolution; the function stays the same
    initialise   layer by layer, every output channel of the data gets mean 0 and variance 1; the function changes
    rescale      of a trained chain of layers: the same by moving factors between layers; the function stays the same

`equalise` then makes layers learn equally fast, in a trained chain (`rescale`) or an untrained network (`start_from_data`):
C_k is the ratio of the norms of gradient and weights of layer k. Multiply layer k by r_k with the product of all r_k one:
activations and biases scale along, the output stays, the gradient of layer k is divided by r_k, so C_k becomes C_k / r_k².
With r_k = sqrt(C_k / geometric mean) all are equal. This needs layers that scale with their input (ReLU, max-pool).

Batch normalisation, which Krähenbühl et al. do not treat, undoes the scale of the layer before it. A layer that feeds one
can therefore be multiplied by any r_k alone: the output stays, and C_k becomes C_k / r_k² all the same. Such layers are
given the ratio that the others have among themselves, or where there are no others their own geometric mean; the running
statistics are multiplied along, so the network computes the same in evaluation too. In `rescale` it has to be folded first,
a step the papers leave out.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from contextlib import ExitStack
from typing import TypeVar

import torch
from torch import nn

from unlabeled.errors import ConfigError
from unlabeled.models.backbone import Backbone
from unlabeled.models.sync_batch_norm import convert_sync
from unlabeled.randomness import generator

Affine = nn.Conv2d | nn.Linear
Network = TypeVar("Network", bound=nn.Module)

ROUNDS = 10
"""Rounds of equalisation at most."""
CLOSE = 0.01
"""Largest deviation of a log-ratio from their mean that counts as equal."""
UNCHANGED = 1e-3
"""Largest change of an output, as a share of the largest output, that is rounding: ten rounds in float32."""

GRADIENT_VIEWS = 64
"""Views on which the gradients of `start_from_data` are taken: a backward pass needs many times the memory of a look."""

_LEAST = 1e-6


def fold_pair(layer: Affine, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> Affine:
    """One layer that does what `layer` and then `norm`, in evaluation, do: γ (W x + b - mean) / sqrt(var + ε) + β."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    folded = copy.deepcopy(layer)
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    shift = torch.zeros_like(scale)
    if norm.affine:
        scale, shift = scale * norm.weight.detach().double(), norm.bias.detach().double()
    bias = norm.running_mean.new_zeros(len(scale)) if layer.bias is None else layer.bias.detach()
    rows = scale.view(-1, *[1] * (layer.weight.ndim - 1))
    folded.weight = nn.Parameter((layer.weight.detach().double() * rows).to(layer.weight.dtype))
    shifted = (bias.double() - norm.running_mean.double()) * scale + shift
    folded.bias = nn.Parameter(shifted.to(layer.weight.dtype))
    return folded


@torch.no_grad()
def fold(network: Network, view: torch.Tensor) -> Network:
    """A copy of `network` without batch normalisation that gives the same outputs in evaluation mode.

    Which layer feeds which normalisation is seen on `view`, a batch of views. Raises ConfigError if a normalisation
    follows something other than a convolution or linear layer.
    """
    folded = copy.deepcopy(network).eval()
    pairs = _feeding(folded, view)
    for norm, layer in pairs.items():
        if layer is None:
            raise ConfigError(
                f"the batch normalisation '{norm}' does not follow a convolution, so it cannot be folded."
            )
        _replace(folded, layer, fold_pair(_affine(folded, layer), folded.get_submodule(norm)))  # pyright: ignore
        _replace(folded, norm, nn.Identity())
    return folded


@torch.no_grad()
def initialise(network: Network, view: torch.Tensor) -> Network:
    """A copy of an untrained `network` whose layers give every channel mean 0 and variance 1 on `view`, one after another.

    Convolutions without a bias are divided only. Layers without gradient stay as they are; a channel that is constant
    on the data is centred and not divided.
    """
    made = copy.deepcopy(network).eval()

    def hook(module: nn.Module, _: object, output: torch.Tensor) -> torch.Tensor:
        assert isinstance(module, Affine)
        others = [axis for axis in range(output.ndim) if axis != 1]
        std, mean = torch.std_mean(output.double(), others, correction=0)
        scale = torch.where(std > _LEAST, 1 / std.clamp(min=_LEAST), 1.0)
        module.weight.mul_(scale.view(-1, *[1] * (module.weight.ndim - 1)).to(module.weight.dtype))
        shape = [1, -1] + [1] * (output.ndim - 2)
        if module.bias is None:
            return output * scale.view(shape).to(output.dtype)
        module.bias.copy_((module.bias.double() - mean) * scale)
        return ((output.double() - mean.view(shape)) * scale.view(shape)).to(output.dtype)

    with ExitStack() as stack:
        for module in made.modules():
            if isinstance(module, Affine):
                stack.callback(module.register_forward_hook(hook).remove)
        made(view)
    return made


def rescale(network: Network, view: torch.Tensor, seed: int = 0) -> Network:
    """A copy of a trained chain of layers, rescaled and equalised by `view`; its outputs are those of `network`.

    Every channel but those of the last layer gets standard deviation 1: its weights and bias are divided by that
    deviation and the weights of the next layer that read it are multiplied. Then `equalise`.

    Raises ConfigError where that would change the function: with batch normalisation (fold it first) or with branches.
    """
    made = copy.deepcopy(network).eval()
    with torch.no_grad():
        before = made(view)
        deviations = _deviations(made, view)
        for name, after in zip(list(deviations)[:-1], list(deviations)[1:], strict=True):
            layer, reader, std = _affine(made, name), _affine(made, after), deviations[name]
            scale = torch.where(std > _LEAST, std.clamp(min=_LEAST), 1.0).to(layer.weight.dtype)
            if reader.weight.shape[1] % len(scale):
                raise _no_chain(name, after)
            layer.weight.div_(scale.view(-1, *[1] * (layer.weight.ndim - 1)))
            if layer.bias is not None:
                layer.bias.div_(scale)
            # A linear layer reads a flattened map: all positions of the first channel, then those of the next.
            read = scale.repeat_interleave(reader.weight.shape[1] // len(scale))
            reader.weight.mul_(read.view(1, -1, *[1] * (reader.weight.ndim - 2)))
    _check_same(before, made, view)
    return equalise(made, view, seed)


def equalise(network: Network, view: torch.Tensor, seed: int = 0) -> Network:
    """A copy of a network in which all layers have the same ratio of gradient to weights, with the same outputs.

    Layers that feed no batch normalisation must be a chain. At most `ROUNDS` rounds, until all log-ratios are within
    `CLOSE`. Raises ConfigError where the outputs would change.
    """
    made = copy.deepcopy(network).eval()
    norms = {layer: norm for norm, layer in _feeding(made, view).items() if layer is not None}
    with torch.no_grad():
        before = made(view)
    for _ in range(ROUNDS):
        ratios = gradient_ratios(made, view, seed)
        logs = torch.tensor(list(ratios.values()), dtype=torch.float64).log()
        in_chain = torch.tensor([name not in norms for name in ratios])
        goal = logs[in_chain].mean() if bool(in_chain.any()) else logs.mean()
        steps = (logs - goal) / 2
        if float(2 * steps.abs().max()) <= CLOSE:
            break
        total = 0.0
        with torch.no_grad():
            for name, step in zip(ratios, steps.tolist(), strict=True):
                layer = _affine(made, name)
                layer.weight.mul_(math.exp(step))
                if name in norms:
                    # What comes in has grown by the factors of the chain before, which end here with its own.
                    _grow(made.get_submodule(norms[name]), layer, total, step)
                    total = 0.0
                    continue
                total += step
                if layer.bias is not None:
                    # Everything a bias is added to has grown by all factors so far.
                    layer.bias.mul_(math.exp(total))
        _check_same(before, made, view)
    return made


def gradient_ratios(network: nn.Module, view: torch.Tensor, seed: int = 0) -> dict[str, float]:
    """Norm of the gradient over norm of the weights, of each layer in the order of use; the network stays as it is.

    The gradient is that of a random linear function of the outputs, a direction of its own for every view: its expected
    square is that of the Jacobian, whatever loss comes later. Batch normalisation takes its statistics from the views, as
    in training; dropout is off.
    """
    # Every rank is given the same views, so there is nothing to share.
    network = convert_sync(copy.deepcopy(network).eval(), enabled=False)
    order = _order(network, view)
    for part in network.modules():
        if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)):
            part.train()
    output = network(view)
    direction = torch.randn(output.shape, generator=generator(seed, "equalise")).to(output.device)
    weights = [_affine(network, name).weight for name in order]
    gradients = torch.autograd.grad((output * direction).sum(), weights)
    return {
        name: float(gradient.norm() / weight.detach().norm())
        for name, gradient, weight in zip(order, gradients, weights, strict=True)
    }


def start_from_data(backbone: Backbone, view: torch.Tensor, seed: int = 0) -> None:
    """Give `backbone`, in place, the weights that `initialise` and `equalise` find on `view` (the `data_init` of a recipe).

    Gradients are taken on the first `GRADIENT_VIEWS`, evenly spaced. Raises ConfigError for a network with branches that
    has no batch normalisation.
    """
    made = initialise(backbone, view)
    few = view[:: -(-len(view) // GRADIENT_VIEWS)]
    # On the CPU: products that a GPU rounds to ten bits would differ by more than tells a chain from branches.
    backbone.load_state_dict(equalise(made.cpu(), few.cpu(), seed).state_dict())


@torch.no_grad()
def _feeding(network: nn.Module, view: torch.Tensor) -> dict[str, str | None]:
    """The layer whose output each batch normalisation is given, by name; None where it is something else."""
    made_by: dict[int, str] = {}
    kept: list[torch.Tensor] = []
    pairs: dict[str, str | None] = {}

    def watch(name: str, module: nn.Module) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            if isinstance(module, Affine):
                kept.append(output)  # while it lives, no other tensor has its id
                made_by[id(output)] = name
            else:
                pairs[name] = made_by.get(id(inputs[0]))

        return hook

    with ExitStack() as stack:
        for name, module in network.named_modules():
            if isinstance(module, (*Affine.__args__, nn.BatchNorm1d, nn.BatchNorm2d)):
                stack.callback(module.register_forward_hook(watch(name, module)).remove)
        network(view)
    return pairs


def _grow(norm: nn.Module, layer: Affine, before: float, own: float) -> None:
    """Let running statistics follow a layer multiplied by exp(`own`) whose inputs were by exp(`before`)."""
    assert isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d))
    assert norm.running_mean is not None
    assert norm.running_var is not None
    grown = math.exp(before + own)
    if layer.bias is not None:
        layer.bias.mul_(grown)
    norm.running_mean.mul_(grown)
    norm.running_var.mul_(grown * grown)


def _affine(network: nn.Module, name: str) -> Affine:
    layer = network.get_submodule(name)
    assert isinstance(layer, Affine)
    return layer


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(network.get_submodule(parent), own, module)


def _order(network: nn.Module, view: torch.Tensor) -> list[str]:
    return list(_deviations(network, view))


@torch.no_grad()
def _deviations(network: nn.Module, view: torch.Tensor) -> dict[str, torch.Tensor]:
    """Standard deviation of each output channel of each layer, by name in the order of use."""
    found: dict[str, torch.Tensor] = {}

    def watch(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: object, output: torch.Tensor) -> None:
            found[name] = output.double().std([axis for axis in range(output.ndim) if axis != 1], correction=0)

        return hook

    with ExitStack() as stack:
        for name, module in network.named_modules():
            if isinstance(module, Affine):
                stack.callback(module.register_forward_hook(watch(name)).remove)
        network(view)
    return found


@torch.no_grad()
def _check_same(before: torch.Tensor, network: nn.Module, view: torch.Tensor) -> None:
    if float((network(view) - before).abs().max()) > UNCHANGED * float(before.abs().max()):
        raise _no_chain("a layer", "the next")


def _no_chain(layer: str, reader: str) -> ConfigError:
    return ConfigError(
        f"rescaling {layer} and {reader} would change what the network computes: it must be a chain of layers without batch "
        "normalisation, such as a folded AlexNet or VGG-16; use `initialise` for an untrained network with branches."
    )
