"""State dicts told by their keys: what they are in our terms, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from published import SOBEL
from unlabeled.config import Config
from unlabeled.errors import DataError
from unlabeled.models import _BACKBONES
from unlabeled.weights.importing import DEFAULTS
from unlabeled.weights.reading import Contents
from unlabeled.weights.recognise import RULES, fit, recognise, to_ours, to_theirs

State = dict[str, torch.Tensor]
FILE = Path("some.pth")


@cache
def _resnet18() -> State:
    from torchvision.models import resnet18

    torch.manual_seed(0)
    return dict(resnet18(num_classes=10).state_dict())


def resnet18() -> State:
    return dict(_resnet18())


def shapes(backbone: str, inputs: int = 3) -> State:
    """Empty tensors with the published names and shapes of a network."""
    with torch.device("meta"):
        network = _BACKBONES[backbone](inputs, 224)
    return {
        name: torch.empty(value.shape, device="meta")
        for name, value in to_theirs(network.state_dict(), backbone).items()
    }


def checked(state: State) -> State:
    found = recognise(Contents(state), FILE)
    return fit(found, Config().replace(**(DEFAULTS | found.settings)), FILE, 3)


def refused(state: State, *wanted: str) -> None:
    with pytest.raises(DataError) as error:
        checked(state)
    for part in ("some.pth", *wanted):
        assert part in str(error.value), str(error.value)


@pytest.mark.parametrize("backbone", RULES)
def test_names_go_there_and_back(backbone: str):
    own = to_ours(shapes(backbone), backbone)
    theirs = to_theirs(own, backbone)
    assert len(theirs) == len(own) and list(to_ours(theirs, backbone)) == list(own)


def test_torchvision_names_are_theirs():
    from torchvision import models

    with torch.device("meta"):
        for ours, theirs in (
            ("resnet50", models.resnet50),
            ("resnet101", models.resnet101),
            ("vgg16", models.vgg16_bn),
        ):
            network = theirs().state_dict()
            for name, value in shapes(ours).items():
                assert network[name].shape == value.shape, name


@pytest.mark.parametrize(
    ("make", "kind", "backbone", "stem", "method"),
    [
        (lambda: resnet18(), "torchvision or timm resnet18", "resnet18", "rgb", "supervised"),
        (lambda: {k: v for k, v in resnet18().items() if "fc" not in k}, "torchvision or timm", "resnet18", "rgb", "deepcluster"),
        (lambda: {f"module.{k}": v for k, v in resnet18().items()}, "torchvision", "resnet18", "rgb", "supervised"),
        (lambda: shapes("resnet50") | {"projection_head.0.weight": torch.empty(2), "prototypes.weight": torch.empty(2)},
         "DeepCluster-v2", "resnet50", "rgb", "deepcluster"),
        (lambda: shapes("resnet101") | {"fc.weight": torch.empty(9, 2048)}, "torchvision", "resnet101", "rgb", "supervised"),
        (lambda: shapes("resnet50") | {"fc.weight": torch.empty(128, 2048)}, "instance", "resnet50", "rgb", "instance"),
        (lambda: shapes("alexnet") | {"top_layer.weight": torch.empty(9, 4096)}, "DeepCluster AlexNet", "alexnet", "rgb",
         "deepcluster"),
        (lambda: SOBEL | shapes("alexnet", 2), "DeepCluster AlexNet with Sobel", "alexnet", "sobel", "deepcluster"),
        (lambda: SOBEL | shapes("vgg16", 2), "DeepCluster VGG-16 with Sobel", "vgg16", "sobel", "deepcluster"),
        (lambda: shapes("vgg16") | {"classifier.6.weight": torch.empty(9, 4096)}, "torchvision vgg16_bn", "vgg16", "rgb",
         "supervised"),
    ],
)  # fmt: skip
def test_kinds(make: Callable[[], State], kind: str, backbone: str, stem: str, method: str):
    found = recognise(Contents(make()), FILE)
    assert kind in found.kind
    assert (found.settings["backbone"], found.settings["stem"], found.settings["method"]) == (backbone, stem, method)
    assert (found.settings["image_size"], found.settings["resize"]) == (224, 256)


def test_sobel_is_read_from_the_filters():
    flipped = SOBEL | {"sobel.1.weight": -SOBEL["sobel.1.weight"]}
    assert recognise(Contents(flipped | shapes("alexnet", 2)), FILE).settings["stem"] == "sobel_nat"
    for wrong in (
        {"sobel.1.weight": 2 * SOBEL["sobel.1.weight"]},
        {"sobel.0.weight": torch.ones(1, 3, 1, 1)},
        {"sobel.1.bias": torch.ones(2)},
    ):
        with pytest.raises(DataError, match="Sobel's two gradients"):
            recognise(Contents(SOBEL | wrong | shapes("alexnet", 2)), FILE)


def test_the_bank_and_its_constants():
    generator = torch.Generator().manual_seed(0)
    bank = {"memory": torch.randn(6, 128, generator=generator), "params": torch.tensor([4096.0, 0.07, -1.0, 0.5])}
    state = resnet18() | {"fc.weight": torch.zeros(128, 512), "fc.bias": torch.zeros(128)}
    found = recognise(Contents(state, bank=bank), FILE)
    assert torch.equal(found.memory["bank"], bank["memory"]) and float(found.memory["normaliser"]) == 0
    assert found.settings["objective"] == "nce" and found.settings["num_negatives"] == 4096
    assert (found.settings["temperature"], found.settings["memory_momentum"]) == (0.07, 0.5)
    simple = recognise(Contents(state, bank=bank | {"params": torch.tensor([0.1, 0.5])}), FILE)
    assert (simple.settings["objective"], simple.settings["temperature"]) == ("softmax", 0.1)
    for wrong, sentence in (
        ({"memory": torch.zeros(6, 64)}, "rows of 128"),
        ({"memory": torch.full((6, 128), torch.nan)}, "NaN"),
        ({"params": torch.tensor([4096.0, 0.0, 1.0, 0.5])}, "make no sense"),
    ):
        with pytest.raises(DataError, match=sentence):
            recognise(Contents(state, bank=bank | wrong), FILE)


def test_wrong_state_dicts_are_refused_in_one_sentence():
    state = resnet18()
    refused({}, "no network that is known here", "DeepCluster", "torchvision")
    refused({"patch_embed.proj.weight": torch.zeros(2)}, "patch_embed.proj.weight", "known are")
    refused({k: v for k, v in state.items() if not k.startswith("layer3")}, "2, 2, 0, 2 basic blocks")
    refused({k: v for k, v in state.items() if k != "bn1.running_mean"}, "lacks bn1.running_mean")
    refused(state | {"layer1.0.se.fc.weight": torch.zeros(2)}, "1 tensors that resnet18 does not have", "layer1.0.se")
    refused(state | {"conv1.weight": torch.zeros(64, 4, 7, 7)}, "[64, 4, 7, 7]", "[64, 3, 7, 7]")
    refused(state | {"layer4.1.bn2.weight": torch.full((512,), torch.nan)}, "512 values that are NaN", "layer4.1.bn2")
    refused(state | {"bn1.running_var": -torch.ones(64)}, "variances below 0")
    refused(state | {"bn1.weight": torch.ones(64, dtype=torch.int64)}, "torch.int64")
    refused(
        {"features.0.weight": torch.zeros(64, 3, 11, 11), "features.3.weight": torch.zeros(2)}, "without batch norm"
    )
    refused(shapes("alexnet", 4), "takes 4 channels")
    refused({"method.backbone.conv1.weight": torch.zeros(2)}, "checkpoint of a run")
    with pytest.raises(DataError, match="what cannot be understood"):
        recognise(Contents({}, {"unlabeled": "{]"}), FILE)


def test_half_precision_becomes_float32_and_old_files_lack_counters():
    state = {k: v.half() if v.is_floating_point() else v for k, v in resnet18().items()}
    found = checked({k: v for k, v in state.items() if "num_batches" not in k})
    assert found["conv1.weight"].dtype == torch.float32
    assert torch.equal(found["conv1.weight"], state["conv1.weight"].float())
