"""Detectors: they learn, they go on after a stop bit for bit, odd annotations do no harm, every kind of network fits."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rectangles import made_pictures, rectangles
from unlabeled import metrics
from unlabeled.errors import ConfigError, DataError
from unlabeled.evaluation import fitting, voc_detection
from unlabeled.evaluation.detection.rcnn import FastRcnn, Objects, RegionNetwork
from unlabeled.evaluation.result_cache import Partial
from unlabeled.evaluation.voc_detection import Detecting, DetectionImages, VocDetectionProtocol, average_precisions
from unlabeled.models import Backbone, build_backbone

HOW = Detecting(side=48, steps=80, lr=0.01, regions=32, images_per_step=1)


@pytest.fixture(scope="module")
def made() -> tuple[DetectionImages, DetectionImages]:
    return made_pictures(10, 0), made_pictures(8, 1)


def backbone(name: str = "alexnet_small", size: int = 32) -> Backbone:
    return build_backbone(name, image_size=size, generator=torch.Generator().manual_seed(0)).eval()


def protocol(
    made: tuple[DetectionImages, DetectionImages], how: Detecting, partial: Partial | None = None
) -> VocDetectionProtocol:
    return VocDetectionProtocol(backbone(), *made, 3, how, partial=partial)


def without_regions(made: tuple[DetectionImages, DetectionImages]) -> tuple[DetectionImages, DetectionImages]:
    return replace(made[0], regions=None), replace(made[1], regions=None)


def test_fast_rcnn_learns_coloured_rectangles(made: tuple[DetectionImages, DetectionImages]):
    before = dict(protocol(made, replace(HOW, steps=1, lr=1e-9)).run())
    after = dict(protocol(made, HOW).run())
    assert before["map_11_point"] < 0.3 and after["map_11_point"] > 0.8 and after["map_area"] > 0.8


def test_faster_rcnn_learns_coloured_rectangles(made: tuple[DetectionImages, DetectionImages]):
    how = replace(HOW, detector="faster", steps=100)
    after = dict(protocol(without_regions(made), how).run())
    assert after["map_11_point"] > 0.7


def test_a_detector_that_was_stopped_goes_on_bit_for_bit(
    made: tuple[DetectionImages, DetectionImages], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(fitting, "SAVE_SECONDS", -1.0)
    monkeypatch.setattr(voc_detection, "SAVE_SECONDS", -1.0)
    how = replace(HOW, steps=6)
    whole = protocol(made, how)
    expected = whole.scores
    learnt = whole.detector.state_dict()

    class Stopped(Exception):
        pass

    def stop_at(place: str, when: int) -> None:
        count = 0
        original = getattr(FastRcnn, place)

        def counted(self: FastRcnn, *arguments: object) -> object:
            nonlocal count
            count += 1
            if count > when:
                raise Stopped
            return original(self, *arguments)

        with monkeypatch.context() as patch, pytest.raises(Stopped):
            patch.setattr(FastRcnn, place, counted)
            _ = protocol(made, how, Partial(tmp_path)).scores

    stop_at("loss", 4)
    stop_at("detect", 5)
    again = protocol(made, how, Partial(tmp_path))
    np.testing.assert_array_equal(again.scores.eleven_point, expected.eleven_point)
    np.testing.assert_array_equal(again.scores.area, expected.area)
    kept = again.detector.state_dict()
    assert all(torch.equal(learnt[name], kept[name]) for name in learnt)
    # The pictures that had been looked at are not looked at again, and a finished part trains nothing.
    with monkeypatch.context() as patch:
        patch.setattr(FastRcnn, "loss", None)
        patch.setattr(FastRcnn, "detect", None)
        np.testing.assert_array_equal(protocol(made, how, Partial(tmp_path)).scores.area, expected.area)


@pytest.mark.parametrize("detector", ["fast", "faster"])
def test_odd_annotations_break_nothing(detector: voc_detection.DetectorName):
    images, pixels = rectangles(4, 3)
    nothing = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool)
    images[0] = replace(images[0], boxes=nothing[0], labels=nothing[1], difficult=nothing[2])
    images[1] = replace(images[1], difficult=torch.ones_like(images[1].difficult))
    flat = images[2].boxes.clone()
    flat[:, 3] = flat[:, 1] - 1  # no pixel high, as no reader of ours would give it
    images[2] = replace(images[2], boxes=flat)
    # Proposals: some, none, one of a single pixel, and none where there is nothing to see.
    regions = [torch.tensor([[0.0, 0, 20, 20]]), torch.zeros(0, 4), torch.tensor([[3.0, 3, 4, 4]]), torch.zeros(0, 4)]
    images.append(replace(images[0], name=images[0].name))
    regions.append(torch.zeros(0, 4))
    odd = DetectionImages(images, lambda image: pixels[image.name], regions if detector == "fast" else None)
    how = replace(HOW, detector=detector, steps=6)
    scores = VocDetectionProtocol(backbone(), odd, odd, 3, how).scores
    assert all(math.isnan(value) or 0 <= value <= 1 for value in scores.area)


@pytest.mark.parametrize(
    ("name", "size", "stride", "pooled", "dims"),
    [
        ("alexnet", 96, 16, 2, 4096),
        ("alexnet_fc6", 96, 16, 2, 4096),
        ("alexnet_nat", 96, 16, 2, 4096),
        ("vgg16", 32, 16, 1, 4096),
        ("alexnet_small", 32, 4, 4, 512),
        ("resnet18", 64, 16, 14, 512),
        ("resnet50", 64, 16, 14, 2048),
        ("resnet18_small", 32, 4, 8, 512),
    ],
)
def test_every_backbone_is_a_body(name: str, size: int, stride: int, pooled: int, dims: int):
    network = RegionNetwork(backbone(name, size), "all", 0).train()
    assert (network.stride, network.pooled, network.region_dim) == (stride, pooled, dims)
    view = torch.randint(0, 255, (1, 3, 96, 128), dtype=torch.uint8)
    found = network.regions(network.map(view), torch.tensor([[0.0, 0, 60, 50], [10, 10, 12, 12]]))
    assert found.shape == (2, dims) and (found >= 0).all()
    # O12: what is below stays as it is, and no normalisation moves.
    learns = {name for name, weight in network.backbone.named_parameters() if weight.requires_grad}
    assert learns and not any("norm" in own or "bn" in own for own in learns)
    if network.is_residual:
        assert {own.split(".")[0] for own in learns} == {"layer3", "layer4"}
    else:
        assert not any(own.startswith("conv1.") for own in learns) and any(own.startswith("conv2.") for own in learns)
    frozen = RegionNetwork(network.backbone, "fc", 0)
    left = {own for own, weight in frozen.backbone.named_parameters() if weight.requires_grad}
    assert not any("conv" in own or "downsample" in own for own in left)
    assert {own.split(".")[0] for own in left} <= {"fc6", "fc7"}


def test_the_loss_by_hand():
    """One region on the object, one beside it: cross-entropy of both, smooth L1 of the first over two regions."""

    class Fixed(RegionNetwork):
        def map(self, view: torch.Tensor) -> torch.Tensor:
            return torch.zeros(1, 1, 1, 1)

        def regions(self, features: torch.Tensor, *boxes: torch.Tensor) -> torch.Tensor:
            return boxes[0] / 10

    detector = FastRcnn(Fixed(backbone(), "all", 0), 2, 0, count=8)
    detector.classes, detector.moves = torch.nn.Linear(4, 3), torch.nn.Linear(4, 8)
    truth = torch.tensor([[0.0, 0, 10, 10]])
    given = torch.tensor([[0.0, 0, 10, 8], [5.0, 0, 15, 10]])
    loss = detector.loss(torch.zeros(1, 3, 20, 20), Objects(truth, torch.tensor([1])), given, torch.Generator())
    # The object itself is a region too; a quarter of eight may be foreground, so all three are drawn.
    regions = torch.cat([given, truth])
    scores = detector.classes(regions / 10).log_softmax(1)
    entropy = -(scores[0, 1] + scores[2, 1] + scores[1, 2]) / 3
    moves = detector.moves(regions[[0, 2]] / 10)[:, 4:]
    aim = torch.tensor([[0, 10 * 0.125, 0, 5 * math.log(1.25)], [0.0, 0, 0, 0]])
    off = (moves - aim).abs()
    shift = torch.where(off < 1, off**2 / 2, off - 0.5).sum() / 3
    torch.testing.assert_close(loss, entropy + shift)


def test_average_precision_reads_intervals_as_voc_boxes():
    """A detection of exactly the object's pixels has overlap 1, also for an object of a single pixel."""
    images, _ = rectangles(2, 5)
    images[0] = replace(images[0], boxes=torch.tensor([[4.0, 5, 4, 5]]), labels=torch.tensor([0]))
    intervals = [image.boxes + torch.tensor([0.0, 0, 1, 1]) for image in images]
    rows = [
        torch.cat([torch.full((len(box), 1), float(i)), image.labels[:, None], torch.ones(len(box), 1), box], dim=1)
        for i, (image, box) in enumerate(zip(images, intervals, strict=True))
    ]
    found = average_precisions(images, torch.cat(rows), 4)
    present = {0, *images[1].labels.tolist()}
    for kind in range(4):
        assert found.eleven_point[kind] == 1.0 if kind in present else math.isnan(found.eleven_point[kind])
    truth, image = images[1].boxes.double().numpy(), np.zeros(len(images[1].boxes))
    direct = metrics.detection_ap(truth, image, image, truth, image, image + 1)
    assert direct.average_precision == 1.0
    assert (average_precisions(images, torch.zeros(0, 7), 4).area[sorted(present)] == 0).all()


def test_a_rate_that_is_too_high_and_a_side_that_is_too_small_are_sentences(
    made: tuple[DetectionImages, DetectionImages],
):
    with pytest.raises(ConfigError, match="give a lower --lr"):
        protocol(made, replace(HOW, lr=1e9)).scores  # noqa: B018
    with pytest.raises(DataError, match="give a larger --side"):
        RegionNetwork(backbone("vgg16", 32), "all", 0).map(torch.zeros(1, 3, 20, 20))
