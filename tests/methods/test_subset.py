"""A fixed part of the images to train on, for methods that make no clusters: who is drawn, and what the table holds."""

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
from runs import SMALL, assert_same_run, final_tensors, train_with_stops
from unlabeled.config import Config
from unlabeled.errors import ConfigError, DataError
from unlabeled.methods import build_method
from unlabeled.methods.base import Method
from unlabeled.methods.deepcluster import DeepCluster
from unlabeled.methods.instance import InstanceDiscrimination
from unlabeled.methods.nat import NoiseAsTargets

COUNT, SOME = 40, 12
LABELS = torch.arange(COUNT) % 3
METHODS: dict[str, dict[str, Any]] = {
    "nat": {"method": "nat"},
    "instance": {"method": "instance"},
    "nce": {"method": "instance", "objective": "nce", "num_negatives": 9},
    "parametric": {"method": "instance", "objective": "parametric"},
    "supervised": {"method": "supervised"},
}


def make(labels: torch.Tensor = LABELS, **changes: Any) -> Method:
    config = Config(
        backbone="alexnet_small", image_size=16, resize=16, store_size=16, embedding_dims=8, precision="float32",
        num_clusters=4, pca_dims=8, subset=SOME, subset_mode="same",
    ).replace(**changes)  # fmt: skip
    return build_method(config, COUNT, 3, labels)


def features(index: torch.Tensor | None = None, *, as_trained: bool = False) -> torch.Tensor:
    rows = torch.randn(COUNT, 256, generator=torch.Generator().manual_seed(4))
    return rows if index is None else rows[index]


@pytest.mark.parametrize("changes", METHODS.values(), ids=METHODS)
def test_every_epoch_draws_the_same_images_each_once(changes: dict[str, Any]) -> None:
    method = make(**changes)
    clustering = make(method="deepcluster")
    assert isinstance(clustering, DeepCluster)
    clustering.before_epoch(0, features)
    chosen = (clustering.labels >= 0).nonzero()[:, 0].tolist()
    assert method.images_per_epoch == len(chosen) == SOME
    for epoch in range(2):
        assert sorted(method.draw(epoch).tolist()) == chosen, "the images of every method with this seed"
    assert not torch.equal(method.draw(0), method.draw(1))
    assert sorted(make(seed=1, **changes).draw(0).tolist()) != chosen
    assert "trained on: 12 of 40 images (same)" in method.describe()


def test_nat_has_a_code_for_each_image_of_the_subset() -> None:
    method = make(method="nat", permute_every=1)
    assert isinstance(method, NoiseAsTargets)
    assert method.num_codes == SOME
    method.before_epoch(0, features)
    order = method.draw(0)
    z = F.normalize(torch.randn(SOME, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    places = method.targets(order, z)
    assert torch.equal(places.sort().values, torch.arange(SOME))
    assert torch.equal(method.targets(order, z), places), "a table in which an image finds its row again"
    method.after_step(order, z)
    expected = (z - method.rows(places)).square().sum(dim=1).mean()
    assert method.summary()["mean_distance"] == pytest.approx(float(expected), rel=1e-5)
    full = make(method="nat", permute_every=1, assignment="full", num_codes=20)
    assert isinstance(full, NoiseAsTargets)
    full.before_epoch(0, features)
    assert len(full.code_index.unique()) == SOME


@pytest.mark.parametrize("memory_init", ["sphere", "outputs"])
def test_the_bank_holds_the_subset_alone(memory_init: str) -> None:
    """The softmax is over the images trained on, as in a run that is given no others."""
    method = make(method="instance", memory_init=memory_init, temperature=0.2)
    assert isinstance(method, InstanceDiscrimination)
    method.before_epoch(0, features)
    assert len(method.memory) == SOME
    order = method.draw(0)[:5]
    z = F.normalize(torch.randn(5, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    logits = (z @ method.memory.bank.T / 0.2).double()
    own = [sorted(method.draw(0).tolist()).index(image) for image in order.tolist()]
    wanted = -(logits[torch.arange(5), own] - logits.logsumexp(1)).mean()
    assert float(method.loss(z, method.targets(order, z))) == pytest.approx(float(wanted), rel=1e-4)
    method.after_step(order, z)
    bank = method.spaces(features())["bank"]
    assert tuple(bank.shape) == (COUNT, 8)
    assert sorted((bank.norm(dim=1) > 0.5).nonzero()[:, 0].tolist()) == sorted(method.draw(0).tolist())
    mixed = F.normalize(method.memory.bank[own], dim=1)
    torch.testing.assert_close(bank[order], mixed)


def test_nce_draws_its_noise_from_the_subset() -> None:
    method = make(method="instance", objective="nce", num_negatives=200)
    assert isinstance(method, InstanceDiscrimination)
    assert int(method.negatives(3).max()) == SOME - 1


def test_parametric_has_a_class_for_each_image_of_the_subset() -> None:
    method = make(method="instance", objective="parametric")
    order = method.draw(0)
    assert torch.equal(method.targets(order, torch.zeros(SOME, SOME)).sort().values, torch.arange(SOME))
    assert [len(weight) for weight in method.head.parameters()][-1] == SOME
    assert method.summary()["chance_loss"] == pytest.approx(math.log(SOME))


def test_supervised_keeps_all_classes_and_leaves_out_images_without_a_label() -> None:
    labels = torch.where(torch.arange(COUNT) % 4 == 0, -1, LABELS)
    method = make(labels, method="supervised")
    chosen = make(method="nat").draw(0)
    assert set(method.draw(0).tolist()) == {int(i) for i in chosen if labels[i] >= 0}
    assert [len(weight) for weight in method.head.parameters()] == [3, 3]
    with pytest.raises(DataError, match="`--labels` and --subset"):
        make(torch.where(torch.arange(COUNT) == int(chosen[0]), 1, -1), method="supervised")


@pytest.mark.parametrize("mode", ["resampled", "mismatched"])
@pytest.mark.parametrize("method", ["nat", "instance", "supervised"])
def test_modes_that_belong_to_clustering_are_refused(method: str, mode: str) -> None:
    with pytest.raises(ConfigError, match=rf"subset_mode \('{mode}'\) must be 'same' with method '{method}'"):
        make(method=method, subset_mode=mode)
    with pytest.raises(ConfigError, match=r"subset \(41\) must be at most the number of images \(40\)"):
        make(method=method, subset=41)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    np.save(folder / "stripes.npy", pictures(60, side=20)[0])
    return folder / "stripes.npy"


def test_a_run_on_a_subset_is_resumed_and_describes_all_images(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = SMALL | {
        "method": "instance",
        "epochs": 2,
        "subset": 36,
        "batch_size": 12,
        "image_size": 24,
        "resize": 24,
    }
    run = unlabeled.train(data, tmp_path / "whole", cache=tmp_path / "cache", **settings)
    assert run.config.subset_mode == "same"
    assert len(final_tensors(run.path)["method.memory.bank"]) == 36
    assert len(run.cluster()) == 60
    train_with_stops(data, tmp_path / "stopped", 2, monkeypatch, settings)
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")


def test_a_setting_that_nothing_reads_is_named(data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    given = SMALL | {"method": "nat", "epochs": 0, "image_size": 24, "resize": 24, "num_negatives": 9}
    unlabeled.train(data, tmp_path / "run", cache=tmp_path / "cache", **given)
    said = " ".join(capfd.readouterr().err.split())
    assert "nothing here reads the settings reassign_every (needs method deepcluster), num_negatives (needs" in said
