"""Whose weights a state dict holds, told by its keys and shapes, and what they are in our terms.

Shapes: N images of a memory bank, D feature dimensions, K outputs of a head.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch

from unlabeled.config import Config
from unlabeled.errors import ConfigError, DataError
from unlabeled.methods import build_network
from unlabeled.weights.reading import Contents

KNOWN: Final = (
    "DeepCluster's AlexNet and VGG-16 (with and without Sobel), instance discrimination's ResNet-18 and ResNet-50, "
    "DeepCluster-v2's ResNet-50, resnet18, resnet50 and resnet101 of torchvision and timm, torchvision's vgg16_bn, "
    "EfficientNet-Lite0, and what `unlabeled export --format safetensors` wrote"
)

METADATA_KEY: Final = "unlabeled"
"""Entry of a safetensors header under which an export of ours says what it is, as JSON."""

# (bottlenecks, blocks of each level) -> network
_RESNETS: Final[dict[tuple[bool, tuple[int, ...]], str]] = {
    (False, (2, 2, 2, 2)): "resnet18",
    (True, (3, 4, 6, 3)): "resnet50",
    (True, (3, 4, 23, 3)): "resnet101",
}
_HEADS: Final = ("fc", "linear", "top_layer", "classifier.6", "classifier.7", "_fc", "classifier")
"""Last layers of the known kinds."""
_PROJECTION: Final = ("projection_head.", "prototypes")
_INSTANCE_DIMS: Final = 128

_PHOTOGRAPHS: Final = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
# The released multi-crop programs have 0.228 where everybody else has 0.229.
_MULTI_CROP: Final = {"mean": (0.485, 0.456, 0.406), "std": (0.228, 0.224, 0.225)}
# Its input is (value - 127) / 128 of values from 0 to 255.
_LITE0: Final = {"mean": (127 / 255,) * 3, "std": (128 / 255,) * 3}
_CIFAR: Final = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010)}


@dataclass(frozen=True)
class Recognised:
    """Weights in our terms."""

    kind: str
    """Whose they are, for people."""
    settings: dict[str, Any]
    """Fields of `Config` that follow from the kind."""
    backbone: dict[str, torch.Tensor]
    """By our names; the stem's buffers follow from the settings."""
    head: dict[str, torch.Tensor] = field(default_factory=dict[str, torch.Tensor])
    """`linear.weight` [K, D] and `linear.bias` [K] where the last layer is of a kind we have."""
    memory: dict[str, torch.Tensor] = field(default_factory=dict[str, torch.Tensor])
    """`bank` [N, K] and `normaliser` of instance discrimination."""
    left_out: tuple[str, ...] = ()
    """Keys of heads that have no place here."""
    images: dict[str, Any] = field(default_factory=dict[str, Any])
    """Fields of `DataRecord` other than those of 8-bit photographs."""


def recognise(contents: Contents, path: Path) -> Recognised:
    """What a file holds.

    Raises:
        DataError: no network that is known here, or keys in it that this network does not have.
    """
    if METADATA_KEY in contents.metadata:
        return _exported(contents, path)
    tensors = {plain_key(key): tensor for key, tensor in contents.tensors.items()}
    if any(key.startswith(("method.backbone.", "backbone.stem.")) for key in tensors):
        raise DataError(f"{path} is a checkpoint of a run of this program: give the folder of the run to any verb.")
    network = _network(tensors, path)
    head_name = next((name for name in _HEADS if f"{name}.weight" in tensors), None)
    body: dict[str, torch.Tensor] = {}
    head: dict[str, torch.Tensor] = {}
    left_out: list[str] = []
    for key, tensor in tensors.items():
        if head_name and key in (f"{head_name}.weight", f"{head_name}.bias"):
            head[f"linear.{key.rpartition('.')[2]}"] = tensor
        elif key.startswith(_PROJECTION):
            left_out.append(key)
        elif not key.startswith("sobel."):
            body[key] = tensor
    kind, settings = _kind(network, tensors, head_name, contents, path)
    memory, constants = _memory(contents.bank, head, path)
    if set(head) != {"linear.weight", "linear.bias"}:
        left_out += [f"{head_name}.{name.rpartition('.')[2]}" for name in head]
        head = {}
    settings = {"backbone": network, **settings, **constants}
    return Recognised(kind, settings, to_ours(body, network), head, memory, tuple(left_out))


def _network(tensors: Mapping[str, torch.Tensor], path: Path) -> str:
    """Name of the backbone."""
    first = tensors.get("conv1.weight")
    if first is not None and first.ndim == 4 and any(key.startswith("layer1.0.") for key in tensors):
        numbers = [{key.split(".")[1] for key in tensors if key.startswith(f"layer{level}.")} for level in (1, 2, 3, 4)]
        depths = tuple(len(blocks) for blocks in numbers)
        bottleneck = "layer1.0.conv3.weight" in tensors
        name = _RESNETS.get((bottleneck, depths))
        if name == "resnet18" and first.shape[-1] == 3:
            name = "resnet18_small"
        if name is None or (first.shape[-1] == 3 and name != "resnet18_small"):
            raise DataError(
                f"{path} holds a residual network of {', '.join(map(str, depths))} "
                f"{'bottlenecks' if bottleneck else 'basic blocks'} behind a "
                f"{first.shape[-1]}×{first.shape[-1]} convolution, which is none of those known here: {KNOWN}."
            )
        return name
    if "_conv_stem.weight" in tensors or {"conv_stem.weight", "blocks.0.0.conv_dw.weight"} <= tensors.keys():
        if any("_se_" in key or ".se." in key for key in tensors):
            raise DataError(
                f"{path} holds an EfficientNet with squeeze-and-excitation, and of that family only Lite0, which has none, is "
                f"known here; known are {KNOWN}."
            )
        return "efficientnet_lite0"
    first, norm = tensors.get("features.0.weight"), tensors.get("features.1.weight")
    if first is not None and first.ndim == 4:
        if norm is None or norm.ndim != 1:
            raise DataError(
                f"{path} holds a network without batch normalisation (torchvision's alexnet or vgg16, for example), and ours have "
                f"it; known here are {KNOWN}."
            )
        return "alexnet" if first.shape[-1] == 11 else "vgg16"
    shown = ", ".join(list(tensors)[:6])
    raise DataError(f"{path} holds no network that is known here (its keys begin {shown}); known are {KNOWN}.")


def _kind(
    network: str, tensors: Mapping[str, torch.Tensor], head_name: str | None, contents: Contents, path: Path
) -> tuple[str, dict[str, Any]]:
    """Whose weights they are, and the settings that follow."""
    if network in ("alexnet", "vgg16"):
        name = "AlexNet" if network == "alexnet" else "VGG-16"
        stem = _stem(tensors, path)
        if head_name == "classifier.6":
            return "torchvision vgg16_bn", _settings("supervised", stem)
        return f"DeepCluster {name}{' with Sobel' if stem != 'rgb' else ''}", _settings("deepcluster", stem)
    if any(key.startswith(_PROJECTION) for key in tensors):
        return f"DeepCluster-v2 or SwAV {network}", _settings("deepcluster", "rgb") | _MULTI_CROP
    if network == "efficientnet_lite0":
        return "EfficientNet-Lite0, trained with ImageNet labels", _settings("supervised", "rgb") | _LITE0
    outputs = len(tensors[f"{head_name}.weight"]) if head_name else 0
    if contents.bank or outputs == _INSTANCE_DIMS:
        small: dict[str, Any] = {"image_size": 32, "resize": 32, "store_size": 32, **_CIFAR}
        settings = _settings("instance", "rgb") | (small if network == "resnet18_small" else {})
        return f"instance discrimination {network.removesuffix('_small')}", settings
    if network == "resnet18_small":
        return "ResNet-18 with a 3×3 stem", _settings("supervised", "rgb") | {
            "image_size": 32, "resize": 32, "store_size": 32, **_CIFAR
        }  # fmt: skip
    return f"torchvision or timm {network}", _settings("supervised" if head_name else "deepcluster", "rgb")


def _settings(method: str, stem: str) -> dict[str, Any]:
    # Resize 256, central crop 224: what all of these were tested with (DeepCluster section 3.4).
    return {"method": method, "stem": stem, "image_size": 224, "resize": 256, "store_size": 256, **_PHOTOGRAPHS}


def _stem(tensors: Mapping[str, torch.Tensor], path: Path) -> str:
    """`sobel` where the first convolution takes two channels; the filters in the file must be those of spec P01."""
    channels = tensors["features.0.weight"].shape[1]
    if channels == 3:
        return "rgb"
    if channels != 2:
        raise DataError(f"{path}: the first convolution takes {channels} channels, and 3 (RGB) or 2 (Sobel) are known.")
    grey, filters = tensors.get("sobel.0.weight"), tensors.get("sobel.1.weight")
    if grey is None and filters is None:
        return "sobel"
    smooth, difference = torch.tensor([1.0, 2.0, 1.0]), torch.tensor([1.0, 0.0, -1.0])
    expected = torch.stack((torch.outer(smooth, difference), torch.outer(difference, smooth)))[:, None]
    biases = [tensors[key] for key in ("sobel.0.bias", "sobel.1.bias") if key in tensors]
    is_plain = not any(bool(bias.any()) for bias in biases)
    if grey is not None and filters is not None and is_plain and filters.shape == expected.shape:
        is_mean = bool(torch.allclose(grey.float(), torch.tensor(1 / 3), atol=1e-4)) and grey.shape == (1, 3, 1, 1)
        for name, sign in (("sobel", 1), ("sobel_nat", -1)):
            if is_mean and torch.allclose(filters.float(), sign * expected, atol=1e-4):
                return name
    raise DataError(f"{path}: its filters sobel.0 and sobel.1 are not the mean of RGB and Sobel's two gradients.")


def _memory(
    bank: Mapping[str, torch.Tensor], head: Mapping[str, torch.Tensor], path: Path
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The memory bank, and the constants that stand beside it: m, tau, Z and momentum (spec N05), or tau and momentum."""
    rows, weight = bank.get("memory"), head.get("linear.weight")
    if rows is None or weight is None:
        return {}, {}
    if rows.ndim != 2 or rows.shape[1] != len(weight):
        raise DataError(
            f"{path}: its memory bank has the shape {list(rows.shape)}, and rows of {len(weight)} numbers are wanted, as the head "
            "gives."
        )
    rows = _numbers("memory", rows, path)
    params = bank.get("params")
    constants: dict[str, Any] = {"embedding_dims": rows.shape[1], "objective": "softmax"}
    normaliser = torch.zeros(())
    values = params.double().flatten().tolist() if params is not None else []
    if len(values) >= 4:
        negatives, temperature, z, momentum = values[:4]
        constants |= {"objective": "nce", "num_negatives": max(1, round(negatives))}
        # The released program writes -1 until the first batch has set it.
        normaliser = torch.tensor(max(z, 0.0))
    elif len(values) == 2:
        temperature, momentum = values
    else:
        return {"bank": rows, "normaliser": normaliser}, constants
    if not (0 < temperature < 1e3 and 0 <= momentum < 1 and normaliser.isfinite()):
        raise DataError(f"{path}: the constants beside its memory bank make no sense ({values}).")
    # As the authors' programs write them: a float32 0.07 is 0.07.
    constants |= {"temperature": round(temperature, 6), "memory_momentum": round(momentum, 6)}
    return {"bank": rows, "normaliser": normaliser}, constants


def _exported(contents: Contents, path: Path) -> Recognised:
    """What our own safetensors export wrote."""
    try:
        told = json.loads(contents.metadata[METADATA_KEY])
        settings, images = dict(told["settings"]), dict(told["images"])
        kind = str(told["kind"])
        # The head, if any, was not exported.
        Config().replace(**settings)
    except (ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
        raise DataError(f"{path} says of itself what cannot be understood ({error}); export it again.") from None
    return Recognised(kind, settings, dict(contents.tensors), images=images)


def fit(found: Recognised, config: Config, path: Path, channels: int) -> dict[str, torch.Tensor]:
    """The backbone's whole state dict, float32, after every tensor was held against what `config` describes.

    Raises:
        DataError: a tensor is missing, one too many, of another shape, or holds values that are no numbers.
    """
    expected = build_network(config, channels).state_dict()
    result: dict[str, torch.Tensor] = {}
    unknown = [key for key in found.backbone if key not in expected]
    if unknown:
        raise DataError(
            f"{path} has {len(unknown)} tensors that {config.backbone} does not have, for example {_theirs(unknown[0], config)}: "
            f"it is another network, and its features would be wrong; known are {KNOWN}."
        )
    for key, wanted in expected.items():
        tensor = found.backbone.get(key)
        if tensor is None:
            # Fixed filters follow from the settings; counters are younger than the oldest files.
            if not key.startswith("stem.") and not key.endswith("num_batches_tracked"):
                raise DataError(f"{path} lacks {_theirs(key, config)} of {config.backbone}; the file is not whole.")
            result[key] = wanted
            continue
        if tensor.shape != wanted.shape:
            raise DataError(
                f"{path}: {_theirs(key, config)} has the shape {list(tensor.shape)}, and {config.backbone} at {config.image_size} "
                f"pixels wants {list(wanted.shape)}."
            )
        if not wanted.is_floating_point():
            result[key] = tensor.to(wanted.dtype).clone()
            continue
        result[key] = _numbers(_theirs(key, config), tensor, path)
        if key.endswith("running_var") and bool((result[key] < 0).any()):
            raise DataError(f"{path}: {_theirs(key, config)} has variances below 0; the file is damaged.")
    return result


def _numbers(name: str, tensor: torch.Tensor, path: Path) -> torch.Tensor:
    """A float32 copy; DataError where values are no finite numbers."""
    if not tensor.is_floating_point():
        raise DataError(f"{path}: {name} holds {tensor.dtype} values, and floating-point weights are wanted.")
    copy = tensor.to(torch.float32, copy=True).contiguous()
    lost = copy.numel() - int(copy.isfinite().sum())
    if lost:
        raise DataError(
            f"{path}: {name} holds {lost:,} values that are NaN or infinite; the training that made it broke down."
        )
    return copy


def _theirs(key: str, config: Config) -> str:
    known = config.backbone in RULES and not key.startswith("stem.")
    return next(iter(to_theirs({key: torch.empty(0)}, config.backbone))) if known else key


def head_tensors(found: Recognised, path: Path) -> dict[str, torch.Tensor]:
    """The head's tensors as float32, checked as the backbone's are."""
    return {
        name: _numbers(f"the last layer's {name.rpartition('.')[2]}", tensor, path)
        for name, tensor in found.head.items()
    }


Rules = tuple[tuple[str, str], ...]

# Positions of the convolutions in the published `features`; each is followed by its normalisation.
_ALEXNET: Final = (0, 4, 8, 11, 14)
_VGG16: Final = (0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40)


def _sequential(convolutions: tuple[int, ...], fc6: int, fc7: int) -> Rules:
    rules: list[tuple[str, str]] = []
    for number, place in enumerate(convolutions, start=1):
        rules += [(f"conv{number}.conv", f"features.{place}"), (f"conv{number}.norm", f"features.{place + 1}")]
    return (*rules, ("fc6", f"classifier.{fc6}"), ("fc7", f"classifier.{fc7}"))


RULES: Final[dict[str, Rules]] = {
    "alexnet": _sequential(_ALEXNET, 1, 4),
    "vgg16": _sequential(_VGG16, 0, 3),
    # Residual networks bear torchvision's names from the start.
    "resnet18": (),
    "resnet50": (),
    "resnet101": (),
    # timm's names are ours; those of the package are in `_lite0_names`.
    "efficientnet_lite0": (),
    # The 3×3-stem ResNet of the CIFAR programs calls the projection of a block by another name.
    "resnet18_small": ((".downsample.", ".shortcut."),),
}
"""Networks that exist elsewhere, and how they are called there."""


def plain_key(key: str) -> str:
    """A key without what wrappers leave in it: `module` (data-parallel) and `_orig_mod` (torch.compile), in any order."""
    return ".".join(part for part in key.split(".") if part not in ("module", "_orig_mod"))


def to_ours(tensors: Mapping[str, torch.Tensor], backbone: str) -> dict[str, torch.Tensor]:
    """Published tensors under our names; a key that no rule knows keeps its own."""
    if backbone == "efficientnet_lite0" and "_conv_stem.weight" in tensors:
        return {_lite0_name(key): value for key, value in tensors.items()}
    return {
        _renamed(key, [(theirs, ours) for ours, theirs in RULES[backbone]]): value for key, value in tensors.items()
    }


def to_theirs(tensors: Mapping[str, torch.Tensor], backbone: str) -> dict[str, torch.Tensor]:
    """Our tensors, without the stem's, under the published names."""
    own = {key: value for key, value in tensors.items() if not key.startswith("stem.")}
    return {_renamed(key, RULES[backbone]): value for key, value in own.items()}


def _renamed(key: str, rules: Rules | list[tuple[str, str]]) -> str:
    for before, after in rules:
        if before.startswith("."):
            if before in key:
                return key.replace(before, after)
        elif key.startswith(f"{before}."):
            return after + key[len(before) :]
    return key


# Blocks of each group of EfficientNet-B0, and what the parts of a block are called in the package of Lite0 and here.
_LITE0_BLOCKS: Final = (1, 2, 2, 3, 3, 4, 1)
_LITE0_PARTS: Final = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2", "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}  # fmt: skip
_LITE0_FIRST: Final = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_LITE0_ENDS: Final = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}


def _lite0_name(key: str) -> str:
    """`_blocks.3._bn0.weight` as `blocks.2.0.bn1.weight`: blocks are counted through there, and by group here."""
    parts = key.split(".")
    if parts[0] != "_blocks":
        return ".".join([_LITE0_ENDS.get(parts[0], parts[0]), *parts[1:]])
    block = int(parts[1])
    group = next(g for g in range(len(_LITE0_BLOCKS)) if block < sum(_LITE0_BLOCKS[: g + 1]))
    inner = (_LITE0_PARTS if group else _LITE0_FIRST).get(parts[2], parts[2])
    return ".".join(["blocks", str(group), str(block - sum(_LITE0_BLOCKS[:group])), inner, *parts[3:]])
