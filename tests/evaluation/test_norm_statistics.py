"""Frozen batch normalisation: every network gets the same statistics in the VOC protocols, unless it keeps its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import unlabeled
from pictures import Trained
from rectangles import made_pictures
from unlabeled.data.pixels import ValueRange
from unlabeled.data.voc import read_voc
from unlabeled.evaluation.fitting import MEASURED, batches, measured, measuring, squares
from unlabeled.evaluation.result_cache import Partial
from unlabeled.evaluation.voc_classification import VocClassificationProtocol, VocTraining
from unlabeled.evaluation.voc_detection import Detecting, VocDetectionProtocol
from unlabeled.evaluation.voc_segmentation import PixelReader, SegmentationTraining, VocSegmentationProtocol
from unlabeled.models import Backbone, build_backbone
from unlabeled.models.sync_batch_norm import BatchNorm2d, convert_sync
from voc_pictures import write_devkit

CPU = torch.device("cpu")


def network(name: str = "alexnet_small") -> Backbone:
    return build_backbone(name, image_size=32, generator=torch.Generator().manual_seed(0)).eval()


def elsewhere(backbone: Backbone) -> Backbone:
    """The same weights with statistics of other images."""
    for part in backbone.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None and part.running_var is not None
            part.running_mean.add_(0.7)
            part.running_var.mul_(5)
    return backbone


def statistics(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value for name, value in module.state_dict().items() if name.endswith(("_mean", "_var"))}


def test_statistics_are_the_mean_over_batches_layer_by_layer():
    backbone, random = convert_sync(network(), enabled=True), torch.Generator().manual_seed(1)
    assert isinstance(backbone, Backbone)
    views = [torch.randint(0, 256, (4, 3, 32, 32), generator=random, dtype=torch.uint8) for _ in range(3)]
    made = measured(backbone, views)
    first = next(name for name, part in made.named_modules() if isinstance(part, nn.BatchNorm2d))
    seen: list[torch.Tensor] = []
    handle = backbone.get_submodule(first).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        for view in views:
            backbone(view)
    handle.remove()
    norm = made.get_submodule(first)
    assert isinstance(norm, BatchNorm2d) and norm.synchronised and norm.momentum == 0.1 and not made.training
    means = torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0)
    variances = torch.stack([x.var((0, 2, 3)) for x in seen]).mean(0)
    torch.testing.assert_close(norm.running_mean, means, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_var, variances, rtol=1e-4, atol=1e-5)
    # Where it has been makes no difference, and the network that was handed in is left alone.
    there = elsewhere(network())
    assert all(torch.equal(value, statistics(made)[name]) for name, value in statistics(measured(there, views)).items())
    assert all(torch.equal(value, statistics(there)[name]) for name, value in statistics(elsewhere(network())).items())


@pytest.mark.parametrize("count", [1, 2, 9, 17, 63, 64, 65, 5000])
def test_no_batch_is_a_picture_alone(count: int):
    parts = batches(count)
    places = [place for part in parts for place in part]
    assert all(2 <= len(part) <= 8 for part in parts) and places == sorted(places)
    assert len(set(places)) == min(count, MEASURED) and max(places) < count


def test_squares_are_cut_from_the_middle_and_made_one_size():
    wide = torch.arange(8).expand(1, 1, 4, 8).to(torch.uint8)
    assert squares([wide]).tolist() == [[[[2, 3, 4, 5]] * 4]]
    assert squares([wide, wide.mT, wide.repeat_interleave(2, 2).repeat_interleave(2, 3)]).shape == (3, 1, 4, 4)
    assert squares([wide], 10).shape == (1, 1, 10, 10)


def test_fully_connected_layers_are_measured_too():
    backbone = build_backbone("alexnet_nat", image_size=64, generator=torch.Generator().manual_seed(0)).eval()
    norms = {name for name, part in backbone.named_modules() if isinstance(part, nn.BatchNorm1d)}
    made = measured(backbone, [torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)])
    assert norms
    for name in norms:
        norm = made.get_submodule(name)
        assert isinstance(norm, nn.BatchNorm1d) and norm.running_var is not None and bool((norm.running_var != 1).any())


def detection(backbone: Backbone, how: str, _: Trained, __: Path) -> nn.Module:
    settings = replace(Detecting(side=48, steps=1), norm_statistics=how)  # pyright: ignore[reportArgumentType]
    return VocDetectionProtocol(backbone, made_pictures(5, 0, given=False), made_pictures(1, 1), 3, settings).detector


def classification(backbone: Backbone, how: str, trained: Trained, _: Path) -> nn.Module:
    run = unlabeled.load(trained.run)
    store, labels = run.record.open(run.record.data), torch.ones(120, 3)
    settings = VocTraining(norm_statistics=how)  # pyright: ignore[reportArgumentType]
    return VocClassificationProtocol(
        *(backbone, store, labels, store, labels, settings), CPU, Partial()
    ).network()  # fmt: skip


def segmentation(backbone: Backbone, how: str, _: Trained, folder: Path) -> nn.Module:
    split = read_voc(write_devkit(folder), "train", task="Segmentation")
    settings = SegmentationTraining("all", norm_statistics=how)  # pyright: ignore[reportArgumentType]
    pixels = PixelReader(3, ValueRange((0.0,), (255.0,), 0.0))
    return VocSegmentationProtocol(*(backbone, split, split, pixels, settings), CPU, Partial()).network()


Made = Callable[[Backbone, str, Trained, Path], nn.Module]


@pytest.mark.parametrize("made", [detection, classification, segmentation])
def test_both_networks_of_a_comparison_are_treated_alike(made: Made, trained: Trained, tmp_path: Path):
    at_home, away = (
        statistics(made(one, "measured", trained, tmp_path / str(number)))
        for number, one in enumerate((network(), elsewhere(network())))
    )
    assert at_home and all(torch.equal(value, away[name]) for name, value in at_home.items())
    own = {value.mean().item() for value in statistics(elsewhere(network())).values()}
    kept = {value.mean().item() for value in statistics(made(elsewhere(network()), "kept", trained, tmp_path)).values()}
    assert kept == own and not kept & {value.mean().item() for value in at_home.values()}


def test_a_stop_while_measuring_is_an_error_of_the_caller():
    backbone = network()
    with pytest.raises(KeyError), measuring(backbone):
        raise KeyError
