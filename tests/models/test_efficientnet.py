"""EfficientNet-Lite0 against timm's network with the same weights, and its padding against TensorFlow's rule."""

from __future__ import annotations

import pytest
import torch

from unlabeled.models import build_backbone
from unlabeled.models.efficientnet import EfficientNetLite0, SameConv2d


@pytest.mark.parametrize("side", [32, 63, 96, 97])
def test_features_equal_those_of_timm(side: int):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    theirs = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0).eval()
    with torch.no_grad():
        for name, value in theirs.named_buffers():
            if name.endswith("running_mean"):
                value.normal_(0, 0.1)
            if name.endswith("running_var"):
                value.uniform_(0.5, 1.5)
    ours = build_backbone("efficientnet_lite0", image_size=side, mean=(0.0,) * 3, std=(1.0,) * 3).eval()
    state = theirs.state_dict()
    assert set(ours.state_dict()) - set(state) == {"stem.normalize.mean", "stem.normalize.std"}
    ours.load_state_dict(state, strict=False)
    view = torch.rand(2, 3, side, side)
    with torch.inference_mode():
        expected, features = theirs(view), ours(view)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("side", "stride", "kernel"), [(7, 2, 3), (8, 2, 3), (9, 2, 5), (10, 2, 5), (5, 1, 5)])
def test_padding_gives_as_many_positions_as_tensorflow(side: int, stride: int, kernel: int):
    conv = SameConv2d(1, 1, kernel, stride)
    torch.nn.init.ones_(conv.weight)
    output = conv(torch.ones(1, 1, side, side))[0, 0]
    assert output.shape == (-(-side // stride),) * 2
    # A window of ones counts how much of it lies inside: the first padding is the smaller half.
    missing = max(0, (-(-side // stride) - 1) * stride + kernel - side)
    first = [min(side, kernel - missing // 2)]
    assert output[0, 0].item() == first[0] ** 2


def test_groups_are_stages_with_the_published_widths():
    backbone = build_backbone("efficientnet_lite0", image_size=64).eval()
    assert isinstance(backbone, EfficientNetLite0)
    with torch.inference_mode():
        maps = backbone.forward_stages(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    assert [maps[name].shape[1] for name in backbone.stages] == [32, 16, 24, 40, 80, 112, 192, 320, 1280]
    assert [maps[name].shape[2] for name in backbone.stages] == [32, 32, 16, 8, 4, 4, 2, 2, 2]
    assert sum(p.numel() for p in backbone.parameters()) == 4_652_008 - 1_281_000  # published, less the classifier
