"""Controls: the true labels, every image its own class with learned weights, and the network before its first step."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import unlabeled
from pictures import pictures
from runs import SMALL, assert_same_run, knn_gain, photograph_crops, train_with_stops
from unlabeled import losses
from unlabeled.config import Config
from unlabeled.errors import ConfigError, DataError
from unlabeled.methods import build_method
from unlabeled.methods.supervised import ParametricInstance, Supervised
from unlabeled.models import LinearHead

SUPERVISED: dict[str, Any] = SMALL | {
    "method": "supervised", "lr": 0.03, "head_lr": 0.03, "head_momentum": 0.9, "image_size": 24, "resize": 24,
}  # fmt: skip
LABELS = torch.tensor([0, 1, 2, -1, 1, 1, 0, 2, 1, -1])


def make(labels: torch.Tensor | None = LABELS, **changes: Any) -> Supervised:
    config = Config(
        backbone="alexnet_small", image_size=16, resize=16, store_size=16, method="supervised", embedding_dims=8
    ).replace(**changes)
    method = build_method(config, 10 if labels is None else len(labels), 3, labels)
    assert isinstance(method, Supervised)
    return method


def test_only_labelled_images_are_drawn_each_once() -> None:
    method = make()
    order = method.draw(0)
    assert sorted(order.tolist()) == [0, 1, 2, 4, 5, 6, 7, 8]
    assert not torch.equal(order, method.draw(1))
    assert torch.equal(method.targets(order, torch.zeros(8, 3)), LABELS[order])


def test_losses_are_the_formulas_in_float64() -> None:
    draw = torch.Generator().manual_seed(0)
    z, target = torch.randn(6, 3, generator=draw), torch.tensor([0, 2, 1, 1, 0, 2])
    shares = np.exp(z.double().numpy())
    shares /= shares.sum(axis=1, keepdims=True)
    expected = -np.log(shares[np.arange(6), target.numpy()]).mean()
    assert float(make().loss(z, target)) == pytest.approx(expected, rel=1e-6)
    unit = F.normalize(z, dim=1)
    square = ((unit.double().numpy() - np.eye(3)[target.numpy()]) ** 2).sum()
    assert float(make(supervised_loss="square").loss(unit, target)) == pytest.approx(square, rel=1e-6)
    mean = make(supervised_loss="square", loss_reduction="mean").loss(unit, target)
    assert float(mean) == pytest.approx(square / 6, rel=1e-6)


def test_a_restricted_softmax_looks_at_the_classes_of_the_batch_and_others() -> None:
    """The thesis' "SGT" with labels (table 4.2): the formula over the chosen classes, no gradient in other rows."""
    labels = torch.arange(10) % 9
    method = make(labels, loss_subset=5)
    index = torch.tensor([0, 3, 9])
    view = torch.randint(256, (3, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    network = method.network().eval()
    everything = network(view)
    method.before_step(index)
    head = method.head
    assert isinstance(head, LinearHead)
    assert head.classes is not None
    assert len(head.classes) == 5
    assert {0, 3} <= set(head.classes.tolist()), "labels of the batch: 0, 3 and again 0"
    z = network(view)
    loss = method.loss(z, method.targets(index, z))
    expected = losses.restricted_cross_entropy(everything.double(), labels[index], head.classes)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert float(loss.detach()) < float(F.cross_entropy(everything.detach(), labels[index]))
    loss.backward()
    assert head.linear.weight.grad is not None
    moved = head.linear.weight.grad.abs().sum(dim=1) > 0
    assert moved.nonzero()[:, 0].tolist() == head.classes.tolist()
    method.after_step(index, z.detach())
    right = everything[:, head.classes].argmax(1)
    assert method.summary()["top1"] == pytest.approx(float((head.classes[right] == labels[index]).double().mean()))
    assert method.summary()["chance_loss"] == pytest.approx(math.log(5))
    method.before_step(torch.tensor([1, 2]))
    assert {1, 2} <= set(head.classes.tolist())
    assert make(labels, loss_subset=9).restricts is False
    assert make(labels, loss_subset=5, supervised_loss="square").restricts is False


def test_a_restricted_softmax_is_the_golden_one(golden: Path) -> None:
    data = np.load(golden / "sgt_loss.npz")
    logits, targets = torch.from_numpy(data["logits"]).double(), torch.from_numpy(data["targets"])
    for size in (9, 20, 35):
        method = make(torch.arange(50), loss_subset=size)
        head = LinearHead(50, 50, relu=False).double()
        head.linear.weight.data.copy_(torch.eye(50))
        head.classes = torch.from_numpy(np.sort(data[f"subset_{size}"]))
        method.head = head
        given = logits.clone().requires_grad_()
        loss = method.loss(head(given), targets)
        (gradient,) = torch.autograd.grad(loss, given)
        assert float(loss.detach()) == pytest.approx(float(data[f"loss_{size}"]), abs=1e-9)
        np.testing.assert_allclose(gradient, data[f"grad_logits_{size}"], atol=1e-9, rtol=0)


def test_the_square_loss_goes_with_outputs_of_length_one() -> None:
    method = make(supervised_loss="square")
    view = torch.randint(256, (4, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(method.network()(view).norm(dim=1), torch.ones(4))


def test_summary_counts_right_answers() -> None:
    method = make()
    z = torch.eye(3)[torch.tensor([0, 1, 1, 2])]
    method.after_step(torch.tensor([0, 1, 2, 7]), z)
    summary = method.summary()
    assert summary["top1"] == 0.75
    shares = np.array([2, 4, 2]) / 8
    assert summary["chance_loss"] == pytest.approx(float(-(shares * np.log(shares)).sum()))


def test_labels_are_asked_for_and_must_tell_two_things_apart() -> None:
    with pytest.raises(ConfigError, match="add `--labels folder`"):
        make(labels=None)
    with pytest.raises(DataError, match="at least 2 classes"):
        make(labels=torch.zeros(10, dtype=torch.int64))


def test_every_image_its_own_class() -> None:
    method = make(labels=None, method="instance", objective="parametric")
    assert isinstance(method, ParametricInstance)
    assert torch.equal(method.labels, torch.arange(10))
    assert [tuple(weight.shape) for weight in method.head.parameters()] == [(8, 256), (8,), (10, 8)]
    assert method.summary()["chance_loss"] == pytest.approx(math.log(10))
    z = torch.randn(4, 10, generator=torch.Generator().manual_seed(0))
    assert float(method.loss(z, method.targets(torch.arange(4), z))) == pytest.approx(
        float(F.cross_entropy(z.double(), torch.arange(4))), rel=1e-6
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("data")
    images, kinds = pictures(76, side=20)
    np.save(folder / "stripes.npy", images)
    np.save(folder / "kinds.npy", kinds)
    return folder / "stripes.npy", str(folder / "kinds.npy")


def test_stopped_and_resumed_is_the_same_run(
    data: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = data
    settings = SUPERVISED | {"epochs": 2}
    unlabeled.train(images, tmp_path / "whole", labels=labels, cache=tmp_path / "cache", **settings)
    train_with_stops(images, tmp_path / "stopped", 2, monkeypatch, settings, labels)
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")
    assert "knn" not in unlabeled.load(tmp_path / "whole").history[-1], "what was trained on cannot be held out"


def test_without_labels_the_error_says_what_to_add(data: tuple[Path, str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--labels folder"):
        unlabeled.train(data[0], tmp_path / "run", cache=tmp_path / "cache", **SUPERVISED)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"supervised_loss": "square", "lr": 0.01, "head_lr": 0.01, "momentum": 0.0, "head_momentum": 0.0},
        {"method": "instance", "objective": "parametric", "embedding_dims": 64},
    ],
)
def test_learns_on_photographs(tmp_path: Path, changes: dict[str, Any]) -> None:
    data, labels = photograph_crops(tmp_path)
    settings = SUPERVISED | {"epochs": 4, "batch_size": 36} | changes
    run = unlabeled.train(data, tmp_path / "run", cache=tmp_path / "cache", labels=labels, **settings)
    assert knn_gain(run, labels) > 0.03
    assert run.history[-1]["top1"] > run.history[0]["top1"] or "objective" in changes
    assert not [record for record in run.history if record["status"] in ("unstable", "collapsing", "not learning")]


def test_no_epochs_leave_the_random_network(data: tuple[Path, str], tmp_path: Path) -> None:
    run = unlabeled.train(data[0], tmp_path / "run", cache=tmp_path / "cache", **SMALL | {"epochs": 0})
    assert run.history == []
    ours, theirs = run.backbone.state_dict(), run.untrained_backbone().state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert run.folder.report.is_file()
    assert {row.cluster for row in run.cluster()} == set(range(6))
