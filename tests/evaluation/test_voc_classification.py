"""VOC classification: its loss and schedule by hand, what is trained and what is not, stops, and real pictures."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import unlabeled
from pictures import Trained
from unlabeled.data.augment import Views
from unlabeled.data.loading import Loader
from unlabeled.errors import ConfigError, DataError
from unlabeled.evaluation import fitting
from unlabeled.evaluation.result_cache import Partial
from unlabeled.evaluation.voc_classification import (
    VocClassificationProtocol,
    VocTraining,
    coded,
    least_side,
    random_views,
    sigmoid_loss,
)
from unlabeled.models import build_backbone
from unlabeled.models.alexnet import AlexNet
from unlabeled.models.fc import FcHead, fc_side
from unlabeled.models.resnet import ResNet
from unlabeled.models.vgg import Vgg16
from unlabeled.run import Run
from voc_pictures import write_devkit


@pytest.fixture(scope="module")
def devkit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_devkit(tmp_path_factory.mktemp("devkit"))


@pytest.fixture(scope="module")
def run(trained: Trained) -> Run:
    return unlabeled.load(trained.run)


def protocol(run: Run, partial: Partial | None = None, **how: object) -> VocClassificationProtocol:
    store = run.record.open(run.record.data)
    labels = torch.where(torch.arange(120)[:, None] // 30 == torch.arange(4), 1, -1)
    labels[3, 1] = 0
    settings = VocTraining(**({"steps": 4} | how))  # pyright: ignore[reportArgumentType]
    backbone = run.backbone
    return VocClassificationProtocol(
        *(backbone, store, labels, store, labels, settings), torch.device("cpu"), partial or Partial()
    )


def test_loss_is_the_sum_over_classes_that_count():
    logits = torch.tensor([[0.3, -1.0, 2.0], [0.0, 5.0, -0.2]])
    target = coded(torch.tensor([[1, -1, 0], [-1, 1, 1]]))
    assert target.tolist() == [[1, 0, 255], [0, 1, 1]]
    by_hand = sum(
        -np.log(1 / (1 + np.exp(-z)) if y else 1 - 1 / (1 + np.exp(-z)))
        for z, y in [(0.3, 1), (-1.0, 0), (0.0, 0), (5.0, 1), (-0.2, 1)]
    )
    assert float(sigmoid_loss(logits, target.float())) == pytest.approx(by_hand / 2, rel=1e-5)


def test_rate_is_halved_as_published_or_after_each_quarter():
    long = VocTraining("fc", 80_000)
    assert [long.lr_at(step) for step in (0, 4_999, 5_000, 10_000)] == [0.003, 0.003, 0.0015, 0.00075]
    assert VocTraining("all", 150_000).lr_at(20_000) == 0.0005
    short = VocTraining("all", 100, lr=0.1)
    assert [short.lr_at(step) for step in (0, 25, 99)] == [0.1, 0.05, 0.0125]


def test_heads_are_the_published_ones():
    with torch.device("meta"):
        assert (fc_side(AlexNet(3, 224)), fc_side(Vgg16(3, 224))) == (6, 7)
    head = FcHead(build_backbone("alexnet_small", image_size=32), 20, torch.Generator())
    shapes = [tuple(layer.weight.shape) for layer in (head.fc6, head.fc7, head.fc8)]
    assert shapes == [(1024, 256 * 36), (1024, 1024), (20, 1024)]
    assert float(head.fc8.bias.detach().min()) == pytest.approx(0.1)
    assert float(head.fc6.weight.detach().std()) == pytest.approx(0.01, rel=0.02)
    with torch.device("meta"):
        assert fc_side(ResNet("resnet50", 3, 224, depths=(3, 4, 6, 3), bottleneck=True, small=False)) == 2


def test_frozen_convolutions_stay_but_for_their_scales(run: Run):
    before = {name: value.clone() for name, value in run.backbone.state_dict().items()}
    for scales in (False, True):
        after = protocol(run, train_norm_scales=scales, norm_statistics="kept").fitted().backbone.state_dict()
        moved = {name for name in before if not torch.equal(before[name], after[name])}
        affine = {name for name in before if "norm" in name and name.endswith(("weight", "bias"))}
        assert moved == (affine if scales else set())
    assert all(torch.equal(value, before[name]) for name, value in run.backbone.state_dict().items())


def test_all_trains_everything_and_leaves_the_run_alone(run: Run):
    before = {name: value.clone() for name, value in run.backbone.named_parameters()}
    fitted = protocol(run, train="all").fitted()
    after = dict(fitted.backbone.named_parameters())
    assert all(not torch.equal(value, after[name]) for name, value in before.items())
    frozen = protocol(run, train="fc").network()
    assert type(fitted.head) is type(frozen.head) is FcHead, "the gain of fine-tuning compares no architectures"
    start = protocol(run, train="all").network().head.state_dict()
    assert all(torch.equal(value, start[name]) for name, value in frozen.head.state_dict().items())
    assert all(torch.equal(value, before[name]) for name, value in run.backbone.named_parameters())


def test_folded_network_computes_the_same(run: Run):
    ours = protocol(run, fold_norm=True, norm_statistics="kept")
    view = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    folded = ours.without_norm()
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in folded.modules())
    torch.testing.assert_close(folded(view), run.backbone(view), rtol=2e-3, atol=2e-3)
    assert ours.fitted()(view).shape == (4, 4)
    with pytest.raises(ConfigError, match="leave one of them out"):
        protocol(run, fold_norm=True, train_norm_scales=True).network()


def test_scores_are_sums_over_ten_views(run: Run):
    ours = protocol(run)
    network = ours.network().eval()
    loader = Loader(ours.test, ours.views(), device="cpu", seed=0)
    rows = torch.tensor([5, 17])
    (part, views), *_ = list(random_views(loader, 0)(rows, 2))
    assert views.shape == (2, 10, 3, 32, 32) and torch.equal(part, rows)
    by_hand = torch.stack([network(view).sum(0) for view in views])
    torch.testing.assert_close(ours.scores(network)[rows], by_hand, rtol=1e-4, atol=1e-4)
    # What a picture is seen in does not depend on which others are asked about.
    (_, alone), *_ = list(random_views(loader, 0)(rows[1:], 2))
    assert torch.equal(alone[0], views[1])
    assert not torch.equal(protocol(run, crops="ten").scores(network)[rows], by_hand)


def test_views_are_small_parts_of_the_picture(run: Run):
    views = protocol(run).views()
    assert isinstance(views, Views) and views.crop_area == (0.1, 0.5) and views.crop_ratio == (1, 1)
    assert least_side(224) == 709


def test_a_stopped_training_goes_on_bit_for_bit(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fitting, "SAVE_SECONDS", -1.0)
    whole = protocol(run, batch_size=60, steps=8).fitted().state_dict()
    partial, saves = Partial(tmp_path), 0
    save = Partial.save

    def stop_after_two(self: Partial, name: str, tensors: dict[str, torch.Tensor]) -> None:
        nonlocal saves
        save(self, name, tensors)
        saves += 1
        if saves == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Partial, "save", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        protocol(run, partial, batch_size=60, steps=8).fitted()
    again = protocol(run, partial, batch_size=60, steps=8).fitted().state_dict()
    assert all(torch.equal(value, again[name]) for name, value in whole.items())


def test_the_verb_learns_what_squares_there_are(run: Run, devkit: Path, trained: Trained, tmp_path: Path):
    shutil.copytree(trained.run, tmp_path / "run")
    own = unlabeled.load(tmp_path / "run")
    file = tmp_path / "scores.json"
    scores = own.evaluate("voc-classification", devkit, json=file, steps=24, lr=0.01)
    assert scores["map"] > 0.8 > scores["chance"]
    assert (scores["train_images"], scores["test_images"], scores["steps"]) == (24, 12, 24)
    assert set(json.loads(file.read_text())["per_class"]) == {"cat", "dog", "sheep"}
    (devkit / "VOC2007" / "Annotations" / "013.xml").rename(tmp_path / "013.xml")
    try:
        less = own.evaluate("voc-classification", devkit, split="val", steps=2)
        assert "013.xml" in less["skipped"]["013"] and less["test_images"] == 11
    finally:
        (tmp_path / "013.xml").rename(devkit / "VOC2007" / "Annotations" / "013.xml")


@pytest.mark.parametrize(
    ("options", "clause"),
    [
        ({"train": "fc7"}, "unknown train 'fc7'"),
        ({"split": "train"}, "unknown split 'train'"),
        ({"crops": "one"}, "unknown crops 'one'"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"lr": -1.0}, "lr must be above 0, got -1.0"),
    ],
)
def test_mistakes_are_sentences(run: Run, devkit: Path, options: dict[str, object], clause: str):
    with pytest.raises(ConfigError, match=clause):
        run.evaluate("voc-classification", devkit, **options)


def test_the_devkit_says_what_is_scored(run: Run, devkit: Path):
    with pytest.raises(DataError, match="give --split"):
        run.evaluate("voc-classification", devkit, test=devkit)
    with pytest.raises(DataError, match="not in the layout of VOC"):
        run.evaluate("voc-classification")


def test_blood_cells_end_to_end(run: Run, shared_data: Path, tmp_path: Path):
    with zipfile.ZipFile(shared_data / "bccd-voc" / "bccd-voc.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".txt") or int(_number(name)) % 8 == 0]
        archive.extractall(tmp_path, names)
    for split in ("trainval", "test"):
        file = tmp_path / "VOCdevkit" / "BCCD" / "ImageSets" / "Main" / f"{split}.txt"
        kept = [line for line in file.read_text().split() if int(_number(line)) % 8 == 0]
        file.write_text("\n".join(kept))
    scores = run.evaluate("voc-classification", tmp_path, steps=5)
    assert 0 < scores["map"] <= 1 and set(scores["per_class"]) == {"RBC", "WBC", "Platelets"}


def _number(name: str) -> str:
    return "".join(character for character in Path(name).stem if character.isdigit()) or "1"
