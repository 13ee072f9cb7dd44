"""Networks, preprocessing and optimisers against the released code's numbers (tests/golden/README.md)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from unlabeled.models import build_backbone, l2_head, linear_head
from unlabeled.models.stem import Normalize, Sobel, build_stem

UNIT = (0.0,) * 3, (1.0,) * 3  # mean and std of an image that is normalised already

ARCHITECTURES = {
    "arch_alexnet_sobel": ("alexnet", "sobel"),
    "arch_alexnet_rgb": ("alexnet", "rgb"),
    "arch_vgg16_sobel": ("vgg16", "sobel"),
    "arch_resnet18_cifar": ("resnet18_small", "rgb"),
    "arch_resnet18_imagenet": ("resnet18", "rgb"),
    "arch_resnet50_imagenet": ("resnet50", "rgb"),
}


def hash_uniform(count: int, tag: int, seed: int) -> np.ndarray:
    """The integer hash that fills every tensor, in [−1, 1)."""
    q = np.arange(count, dtype=np.uint32)
    offset = (np.uint64(tag + 1) * np.uint64(2246822519) + np.uint64(seed) * np.uint64(3266489917)) & np.uint64(
        0xFFFFFFFF
    )
    h = q * np.uint32(2654435761) + np.uint32(offset)
    h ^= h >> np.uint32(15)
    h *= np.uint32(2246822519)
    h ^= h >> np.uint32(13)
    h *= np.uint32(3266489917)
    h ^= h >> np.uint32(16)
    return 2.0 * h.astype(np.float64) / 2**32 - 1.0


@torch.no_grad()
def fill(parameters: list[tuple[str, nn.Parameter]], seed: int) -> None:
    for rank, (name, parameter) in enumerate(parameters):
        u = torch.from_numpy(hash_uniform(parameter.numel(), rank, seed)).view(parameter.shape)
        if parameter.ndim >= 2:
            u = u * (6 / parameter[0].numel()) ** 0.5
        else:
            u = 1 + 0.1 * u if name.endswith("weight") else 0.1 * u
        parameter.copy_(u)


def assert_near(actual: torch.Tensor | float, expected: np.ndarray, tolerance: float = 1e-4) -> None:
    expected = torch.as_tensor(expected)
    difference = (torch.as_tensor(actual).double() - expected.double()).abs().max()
    assert difference <= tolerance * expected.abs().max()


@pytest.mark.parametrize("file", ARCHITECTURES)
def test_architecture(file: str, golden: Path) -> None:
    data = np.load(golden / f"{file}.npz")
    name, stem = ARCHITECTURES[file]
    seed, size = int(data["formula_seed"]), int(data["input_size"])
    backbone = build_backbone(name, stem=stem, mean=UNIT[0], std=UNIT[1], image_size=size).eval()
    outputs = data["output"].shape[1]
    head = l2_head(backbone, outputs) if outputs == 128 else linear_head(backbone, outputs)
    parameters = [*backbone.named_parameters(), *head.named_parameters()]
    assert np.array_equal(hash_uniform(8, 0, seed), data["hash_first8_tag0"])
    assert sum(parameter.numel() for _, parameter in parameters) == int(data["n_params"])
    assert [list(parameter.shape) for _, parameter in parameters] == [
        json.loads(shape) for shape in data["param_shapes"]
    ]
    fill(parameters, seed)
    view = torch.from_numpy(2 * hash_uniform(3 * size * size, 999, seed)).float().view(1, 3, size, size)
    with torch.no_grad():
        maps = backbone.forward_stages(view)
        feature = backbone(view)
        output = head(feature)
    for stage in (
        key.removesuffix("_mean") for key in data.files if key.endswith("_mean") and not key.startswith("fc7")
    ):
        assert tuple(maps[stage].shape) == tuple(data[f"{stage}_shape"])
        assert float(maps[stage].double().mean()) == pytest.approx(float(data[f"{stage}_mean"]), rel=1e-4)
        assert float(maps[stage].double().std()) == pytest.approx(float(data[f"{stage}_std"]), rel=1e-4)
        if f"{stage}_first16" in data.files:
            assert_near(maps[stage].flatten()[:16], data[f"{stage}_first16"])
    if "fc7_before_relu_first64" in data.files:
        assert_near(feature[0, :64], data["fc7_before_relu_first64"])
        assert float(feature.mean()) == pytest.approx(
            float(data["fc7_before_relu_mean"]), abs=1e-4 * float(feature.abs().max())
        )
        assert float(feature.std()) == pytest.approx(float(data["fc7_before_relu_std"]), rel=1e-4)
    assert_near(output, data["output"], 1e-3 if name == "vgg16" else 1e-4)


def test_sobel(golden: Path) -> None:
    data = np.load(golden / "sobel.npz")
    normalize = Normalize(*UNIT)
    view = torch.from_numpy(data["x"])
    for layout in (torch.contiguous_format, torch.channels_last):
        x = view.contiguous(memory_format=layout)
        torch.testing.assert_close(normalize.grey(x)[:, None], torch.from_numpy(data["gray"]), atol=1e-5, rtol=0)
        torch.testing.assert_close(Sobel(normalize)(x), torch.from_numpy(data["deepcluster"]), atol=1e-5, rtol=0)
        nat = build_stem("sobel_nat", normalize)(x)
        torch.testing.assert_close(nat, torch.from_numpy(data["nat_nobias"]), atol=1e-5, rtol=0)
