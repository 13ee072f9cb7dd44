"""Published files, rebuilt with the golden weights under the published keys, give the fingerprints of the released code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import unlabeled
from published import deepcluster_file, golden_state, golden_view, lemniscate_file
from unlabeled.models import l2_head, linear_head
from unlabeled.run import Run
from unlabeled.runs import checkpoint

# The golden view is normalised already.
AS_IT_IS = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
SLOW = pytest.mark.slow


def head_of(run: Run) -> torch.nn.Module:
    """The head that came with the file."""
    found = checkpoint.load(run.folder.checkpoints)
    assert found is not None
    prefix = "method.head."
    own = {name.removeprefix(prefix): value for name, value in found.tensors.items() if name.startswith(prefix)}
    outputs = len(own["linear.bias"])
    make = l2_head if run.config.method == "instance" else linear_head
    head = make(run.backbone, outputs)
    head.load_state_dict(own, strict=False)
    return head


def near(actual: torch.Tensor, expected: np.ndarray, tolerance: float) -> None:
    wanted = torch.from_numpy(expected).double()
    assert (actual.double() - wanted).abs().max() <= tolerance * wanted.abs().max()


@pytest.mark.parametrize(
    ("file", "arch", "stem"),
    [
        ("arch_alexnet_sobel", "alexnet", "sobel"),
        pytest.param("arch_alexnet_rgb", "alexnet", "rgb", marks=SLOW),
        pytest.param("arch_vgg16_sobel", "vgg16", "sobel", marks=SLOW),
    ],
)
def test_deepcluster(file: str, arch: str, stem: str, golden: Path, tmp_path: Path):
    data = np.load(golden / f"{file}.npz")
    path = deepcluster_file(golden_state(data), tmp_path / "checkpoint.pth.tar", arch)
    run = unlabeled.import_weights(path, tmp_path / "run", **AS_IT_IS)
    path.unlink()
    assert (run.config.backbone, run.config.stem, run.config.method) == (arch, stem, "deepcluster")
    with torch.no_grad():
        feature = run.backbone(golden_view(data))
        output = head_of(run)(feature)
    near(feature[0, :64], data["fc7_before_relu_first64"], 1e-4)
    near(output, data["output"], 1e-3 if arch == "vgg16" else 1e-4)


@pytest.mark.parametrize(
    ("file", "backbone"),
    [
        ("arch_resnet18_imagenet", "resnet18"),
        ("arch_resnet18_cifar", "resnet18_small"),
        pytest.param("arch_resnet50_imagenet", "resnet50", marks=SLOW),
    ],
)
def test_instance_discrimination(file: str, backbone: str, golden: Path, tmp_path: Path):
    data = np.load(golden / f"{file}.npz")
    bank = torch.nn.functional.normalize(torch.randn(9, 128, generator=torch.Generator().manual_seed(0)), dim=1)
    path = lemniscate_file(golden_state(data), tmp_path / "lemniscate.pth.tar", bank)
    run = unlabeled.import_weights(path, tmp_path / "run", **AS_IT_IS)
    assert (run.config.backbone, run.config.method) == (backbone, "instance")
    assert run.config.image_size == int(data["input_size"])
    with torch.no_grad():
        near(head_of(run)(run.backbone(golden_view(data))), data["output"], 1e-4)
    found = checkpoint.load(run.folder.checkpoints)
    assert found is not None and torch.equal(found.tensors["method.memory.bank"], bank)
    assert float(found.tensors["method.memory.normaliser"]) == pytest.approx(2876934.25)
