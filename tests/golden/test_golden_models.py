"""Networks, preprocessing and optimisers against the released code's numbers (tests/golden/README.md)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from unlabeled.config import Config
from unlabeled.models import build_backbone, l2_head, linear_head
from unlabeled.models.stem import Normalize, Sobel, build_stem
from unlabeled.training.optim import DampedSGD, Optimizer, inverse_decay, learning_rate, step_decay

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
            u = 0.1 * u + (1 if name.endswith("weight") else 0)
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


def test_two_optimizers(golden: Path) -> None:
    """Body with momentum over two epochs, its top layer replaced in between and trained without."""
    data = np.load(golden / "dc_two_optimizers.npz")
    body, relu = nn.Linear(5, 4).double(), nn.ReLU()
    with torch.no_grad():
        body.weight.copy_(torch.from_numpy(data["body_w0"]))
        body.bias.copy_(torch.from_numpy(data["body_b0"]))
    config = Config(lr=float(data["lr"]), momentum=float(data["momentum"]), weight_decay=float(data["weight_decay"]))
    optimizer = Optimizer(body, config)
    losses: list[float] = []
    for epoch in range(2):
        head = nn.Linear(4, 3).double()
        with torch.no_grad():
            head.weight.copy_(torch.from_numpy(data[f"top_init_epoch{epoch}"]))
            head.bias.zero_()
        optimizer.adopt(head)
        for x, y in zip(torch.from_numpy(data["x"][epoch]), torch.from_numpy(data["y"][epoch]), strict=True):
            loss = functional.cross_entropy(head(relu(body(x))), y)
            losses.append(loss.item())
            optimizer.step(loss)
        for name, tensor in {
            "body_w": body.weight,
            "body_b": body.bias,
            "top_w": head.weight,
            "top_b": head.bias,
        }.items():
            np.testing.assert_allclose(tensor.detach(), data[f"{name}_epoch{epoch}"], atol=1e-9, rtol=0)
    np.testing.assert_allclose(losses, data["loss"], atol=1e-9, rtol=0)


def test_lr_schedules(golden: Path) -> None:
    data = np.load(golden / "lr_schedules.npz")
    epochs = [int(epoch) for epoch in data["epoch"]]
    steps = [step_decay(0.03, epoch, (120, 160)) for epoch in epochs]
    np.testing.assert_allclose(steps, data["lemniscate_imagenet"], rtol=1e-12)
    np.testing.assert_allclose(steps, data["lemniscate_cifar"], rtol=1e-12)
    config = Config(lr=0.03, epochs=200, schedule="steps", schedule_steps=(120, 160))
    np.testing.assert_allclose([learning_rate(config, epoch) for epoch in epochs], steps, rtol=1e-12)
    np.testing.assert_allclose(
        [inverse_decay(0.1, epoch, 20, 0.3) for epoch in epochs], data["nat_transfer_epoch"], rtol=1e-12
    )
    config = Config(lr=0.1, epochs=200, schedule="inverse", inverse_start=20.0, inverse_gamma=0.3)
    np.testing.assert_allclose(
        [learning_rate(config, epoch) for epoch in epochs], data["nat_transfer_epoch"], rtol=1e-12
    )


def test_nat_transfer_optimizer(golden: Path) -> None:
    data = np.load(golden / "nat_transfer_optimizer.npz")
    weight, bias = nn.Parameter(torch.from_numpy(data["w"][0])), nn.Parameter(torch.from_numpy(data["b"][0]))
    optimizer = DampedSGD([weight, bias], float(data["lr"]), float(data["momentum"]), float(data["decay"]))
    for step, (grad_w, grad_b) in enumerate(zip(data["grads_w"], data["grads_b"], strict=True), start=1):
        weight.grad, bias.grad = torch.from_numpy(grad_w), torch.from_numpy(grad_b)
        optimizer.step()
        np.testing.assert_allclose(weight.detach(), data["w"][step], atol=1e-12, rtol=0)
        np.testing.assert_allclose(bias.detach(), data["b"][step], atol=1e-12, rtol=0)
