"""VOC segmentation: the geometry of FCN-32s against the published numbers, and what a training does."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import unlabeled
from pictures import Trained
from unlabeled.data.pixels import ValueRange
from unlabeled.data.voc import read_voc
from unlabeled.errors import ConfigError, DataError
from unlabeled.evaluation.result_cache import Partial
from unlabeled.evaluation.voc_segmentation import (
    PixelReader,
    SegmentationTraining,
    VocSegmentationProtocol,
    pixel_loss,
)
from unlabeled.models import build_backbone
from unlabeled.models.alexnet import AlexNet
from unlabeled.models.backbone import Backbone
from unlabeled.models.fc import Fcn, FcnHead, geometry, last_pool, placement, pool_size
from unlabeled.models.vgg import Vgg16
from unlabeled.randomness import seed_from
from unlabeled.run import Run
from voc_pictures import write_devkit


@pytest.fixture(scope="module")
def devkit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_devkit(tmp_path_factory.mktemp("devkit"))


def head_of(backbone: Backbone) -> FcnHead:
    return FcnHead(backbone, 5, torch.Generator().manual_seed(0), fresh=False)


def test_units_lie_where_the_published_networks_have_them():
    with torch.device("meta"):
        assert placement(AlexNet(3, 224), 6) == (98, 63, 18)
        assert placement(Vgg16(3, 224), 7) == (99, 64, 19)


@pytest.mark.parametrize(("name", "side", "unit"), [("alexnet", 420, 5), ("alexnet_small", 48, 5)])
def test_geometry_is_what_gradients_say(name: str, side: int, unit: int):
    """The pixels that a unit depends on lie around the pixel it is said to look at."""
    backbone = build_backbone(name, image_size=63).eval()
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)).requires_grad_()
    last = backbone.forward_stages(image)["conv5"]
    pooled = last_pool(last, pool_size(backbone))
    pooled[0, :, unit, unit].sum().backward()
    assert image.grad is not None
    for axis in (0, 1):
        seen = image.grad[0].abs().sum((0, 1 + axis)).nonzero()[:, 0]
        stride, first = geometry(backbone)
        assert float(seen[0] + seen[-1]) / 2 == pytest.approx(first + unit * stride, abs=1.5)


def test_layers_slide_as_the_network_computes():
    backbone = build_backbone("alexnet", image_size=95, generator=torch.Generator().manual_seed(1)).eval()
    head = head_of(backbone).eval()
    view = torch.rand(2, 3, 95, 95)
    with torch.no_grad():
        x = last_pool(backbone.forward_stages(view)["conv5"], 3)
        for layer in head.layers:
            x = functional.relu(layer(x))
        torch.testing.assert_close(x[:, :, 0, 0], functional.relu(backbone(view)), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["alexnet_small", "resnet18_small"])
@pytest.mark.parametrize("size", [(33, 50), (37, 39), (64, 41)])
def test_every_pixel_has_scores(name: str, size: tuple[int, int]):
    backbone = build_backbone(name, image_size=32).eval()
    head = head_of(backbone)
    nn.init.constant_(head.score.bias, 1.0)
    fcn = Fcn(backbone, head).eval()
    with torch.no_grad():
        scores = fcn(torch.zeros(1, 3, *size))
        shrunk = Fcn(backbone, head, 2.0).eval()(torch.zeros(1, 3, *size))
    assert scores.shape == (1, 5, *size) == shrunk.shape
    assert float(scores.min()) > 0.1  # between units everywhere, also at the edges
    inside = scores[:, :, 8:-8, 8:-8]
    torch.testing.assert_close(inside, torch.ones_like(inside))


def test_loss_is_the_mean_over_decided_pixels():
    scores = torch.randn(1, 3, 4, 5)
    mask = torch.randint(0, 3, (1, 4, 5))
    mask[0, 1] = 255
    kept = (mask != 255)[0]
    wanted = functional.cross_entropy(scores[0][:, kept].T, mask[0][kept])
    torch.testing.assert_close(pixel_loss(scores, mask), wanted)
    assert float(pixel_loss(scores, torch.full_like(mask, 255))) == 0


def protocol(run: Run, devkit: Path, **how: object) -> VocSegmentationProtocol:
    learned, scored = (read_voc(devkit, split, task="Segmentation") for split in ("train", "val"))
    settings = SegmentationTraining(**({"steps": 3, "batch_size": 4, "lr": 0.01} | how))  # pyright: ignore
    pixels = PixelReader(3, ValueRange((0.0,), (255.0,), 0.0))
    return VocSegmentationProtocol(*(run.backbone, learned, scored, pixels, settings), torch.device("cpu"), Partial())


def test_steps_are_those_of_torch(trained: Trained, devkit: Path):
    """Four pictures of their own size to a step, in the order the protocol says."""
    ours = protocol(unlabeled.load(trained.run), devkit, train="all")
    plain = ours.network()
    plain.train()
    weights = [weight for weight in plain.parameters() if weight.requires_grad]
    optimizer = torch.optim.SGD(weights, lr=0.01, momentum=0.9, weight_decay=5e-4)
    for step in range(3):
        torch.manual_seed(seed_from(0, "fit", 0, step, 0))
        optimizer.zero_grad()
        for place in range(4 * step, 4 * step + 4):
            view, mask = ours._example(ours.picture(place))  # pyright: ignore[reportPrivateUsage]
            (pixel_loss(plain(view), mask) / 4).backward()
        optimizer.step()
    fitted = ours.fitted().state_dict()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(value, fitted[name], rtol=1e-4, atol=1e-6)


def test_what_is_frozen_stays(trained: Trained, devkit: Path):
    run = unlabeled.load(trained.run)
    before = run.backbone.state_dict()
    for train in ("fc", "all"):
        after = protocol(run, devkit, train=train, norm_statistics="kept").fitted().backbone.state_dict()
        moved = {name for name in before if not torch.equal(before[name], after[name])}
        assert moved == (set() if train == "fc" else {name for name, _ in run.backbone.named_parameters()})


def test_every_shuffle_has_every_picture(trained: Trained, devkit: Path):
    ours = protocol(unlabeled.load(trained.run), devkit)
    count = len(ours.train.images)
    names = [ours.picture(place).name for place in range(3 * count)]
    rounds = [names[i * count : (i + 1) * count] for i in range(3)]
    assert all(sorted(one) == sorted(rounds[0]) for one in rounds) and rounds[0] != rounds[1]


def test_the_verb_finds_squares(trained: Trained, tmp_path: Path):
    shutil.copytree(trained.run, tmp_path / "run")
    run = unlabeled.load(tmp_path / "run")
    devkit = write_devkit(tmp_path / "devkit", train=16, test=4, side=200)
    damaged = devkit / "VOC2007" / "SegmentationClass" / "002.png"
    damaged.write_bytes(damaged.read_bytes()[:-30])
    scores = run.evaluate("voc-segmentation", devkit, steps=40, lr=0.05, batch_size=2)
    assert "002.png" in scores["skipped"]["002"]
    assert (scores["train_images"], scores["test_images"], scores["steps"]) == (7, 8, 40)
    # Calling everything background, which most of each picture is, gets less than 0.2.
    assert scores["mean_iou"] > 0.25 and np.isfinite(scores["untrained"])
    assert set(scores["per_class"]) == {"background", "cat", "dog", "sheep"}


def test_mistakes_are_sentences(trained: Trained, devkit: Path):
    run = unlabeled.load(trained.run)
    with pytest.raises(ConfigError, match="batch_size must be at least 1, got 0"):
        run.evaluate("voc-segmentation", devkit, batch_size=0)
    with pytest.raises(DataError, match="there is no split 'train'"):
        run.evaluate("voc-segmentation", _without_lists(devkit))


def _without_lists(devkit: Path) -> Path:
    copy = devkit.parent / "without"
    shutil.copytree(devkit, copy)
    shutil.rmtree(copy / "VOC2007" / "ImageSets" / "Segmentation")
    return copy
