"""kNN in the spaces of a method, and cliques: what is compared is what the docstrings say."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import unlabeled
from pictures import SETTINGS, Trained, write_pictures
from unlabeled.cluster.graph import cliques, knn_graph
from unlabeled.errors import ConfigError, DataError
from unlabeled.evaluation.knn import knn_accuracy, split
from unlabeled.methods.clustering import fit_space
from unlabeled.protocols.neighbors import described
from unlabeled.run import Run


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An instance run on 60 pictures in class folders."""
    folder = tmp_path_factory.mktemp("instance")
    photos = write_pictures(folder / "photos", 60)
    settings: dict[str, Any] = SETTINGS | {
        "method": "instance",
        "embedding_dims": 16,
        "lr": 0.01,
        "epochs": 1,
        "temperature": 0.5,
    }
    return unlabeled.train(photos, folder / "run", cache=folder / "cache", **settings)


def labels_of(run: Run) -> torch.Tensor:
    return torch.tensor([int(Path(name).parts[0].removeprefix("kind")) for name in run.names])


def test_output_and_bank_are_the_heads(instance: Run) -> None:
    labels = labels_of(instance)
    train, test = map(torch.from_numpy, split(labels.numpy(), seed=instance.config.seed))
    outputs = instance.method.outputs(instance.features_of(instance.record.open(instance.record.data)))
    assert outputs.shape == (60, 16)

    def vote(rows: torch.Tensor) -> float:
        return knn_accuracy(rows[train], labels[train], outputs[test], labels[test], k=20, temperature=0.5)

    assert instance.evaluate("knn", space="output")["knn"] == pytest.approx(vote(outputs))
    bank = instance.method.memory.bank
    assert not torch.equal(bank, outputs)
    scores = instance.evaluate("knn", space="bank")
    assert scores["knn"] == pytest.approx(vote(bank))
    assert scores["space"] == "bank"
    assert scores["untrained"] == instance.evaluate("knn", space="output")["untrained"]


def test_the_bank_of_a_subset_has_the_labels_of_its_images(instance: Run, tmp_path: Path) -> None:
    photos, own = Path(instance.record.data), {"method": "instance", "embedding_dims": 16, "lr": 0.01, "epochs": 1}
    settings = SETTINGS | own | {"subset": 20, "batch_size": 10, "temperature": 0.5}
    run = unlabeled.train(photos, tmp_path / "run", cache=tmp_path / "cache", **settings)
    method, labels = run.method, labels_of(run)
    outputs = method.outputs(run.features_of(run.record.open(photos)))
    voters = method.memory.bank, labels[method.chosen]
    scores = run.evaluate("knn-bank", photos, test=photos, neighbors=5)
    assert scores["knn_bank"] == pytest.approx(knn_accuracy(*voters, outputs, labels, k=5, temperature=0.5))
    assert scores["train_images"] == 20


def test_the_untrained_output_is_that_of_the_head_before_its_first_step(instance: Run) -> None:
    assert not torch.equal(instance.method.head.linear.weight, instance.untrained_method().head.linear.weight)
    assert torch.equal(instance.untrained_method().head.linear.weight, instance.untrained_method().head.linear.weight)


def test_pca_is_for_every_method(trained: Trained, tmp_path: Path) -> None:
    shutil.copytree(trained.run, tmp_path / "run")
    scores = Run(tmp_path / "run").evaluate("knn", space="pca")
    assert 0 <= scores["knn"] <= 1
    assert scores["space"] == "pca"


def test_what_cannot_be_compared_is_said(instance: Run, trained: Trained) -> None:
    with pytest.raises(ConfigError, match="deepcluster has no space 'output', it has backbone, pca"):
        Run(trained.run).evaluate("knn", space="output")
    with pytest.raises(ConfigError, match="did you mean 'output'"):
        instance.evaluate("knn", space="outputs")
    with pytest.raises(DataError, match="memory bank holds the 60 training images"):
        instance.evaluate("knn", trained.photos, space="bank")


def test_cliques_are_those_of_the_graph(trained: Trained, tmp_path: Path) -> None:
    shutil.copytree(trained.run, tmp_path / "run")
    run = Run(tmp_path / "run")
    scores = run.evaluate("cliques", neighbors=6)
    rows = described(run, run.record.data, run.record.open(run.record.data), run.backbone, "trained")
    found = cliques(knn_graph(rows, 6)[0])
    assert scores["in_clique_of_4"] == pytest.approx(found.coverage(4))
    assert scores["coverage"]["2"] == 1
    values = list(scores["coverage"].values())
    assert values == sorted(values, reverse=True)
    assert scores["largest"] == int(found.sizes.max())
    with pytest.raises(DataError, match="no --test"):
        run.evaluate("cliques", test=trained.photos)


def test_other_images_are_described_in_the_space_of_the_training_images(trained: Trained) -> None:
    run = unlabeled.load(trained.run)
    store = run.record.open(trained.new)
    rows = described(run, trained.new, store, run.backbone, "trained")
    space = fit_space(run.features_of(run.record.open(run.record.data)), run.config, run.config.seed)
    features = run.features_of(store)
    assert torch.allclose(rows, space.apply(features, normalize_rows=run.config.normalize_rows), atol=1e-6)
    own = fit_space(features, run.config, run.config.seed)
    assert not torch.allclose(rows, own.apply(features, normalize_rows=run.config.normalize_rows), atol=1e-2)


@pytest.mark.parametrize("objective", ["softmax", "parametric"])
def test_svm_and_knn_read_the_output_of_every_objective(tmp_path: Path, objective: str) -> None:
    photos = write_pictures(tmp_path / "photos", 60)
    settings: dict[str, Any] = SETTINGS | {
        "method": "instance",
        "objective": objective,
        "embedding_dims": 16,
        "lr": 0.01,
    }
    for name in ("head_lr", "num_clusters", "pca_dims", "reassign_every"):
        settings.pop(name)
    run = unlabeled.train(photos, tmp_path / "run", cache=tmp_path / "cache", **settings)
    outputs = run.method.outputs(run.features_of(run.record.open(photos)))
    assert outputs.shape == (60, 16)
    found = run.evaluate("svm", space="output")
    assert list(found["stages"]) == ["output"] and 0 <= found["untrained"] <= 1
    assert 0 <= run.evaluate("knn", space="output", neighbors=5)["knn"] <= 1
    with pytest.raises(ConfigError, match="stages are of the backbone"):
        run.evaluate("svm", space="output", stages="conv1")


def test_a_method_without_outputs_says_so(trained: Trained) -> None:
    with pytest.raises(ConfigError, match="outputs of its head stand for classes"):
        unlabeled.load(trained.run).evaluate("svm", space="output")
