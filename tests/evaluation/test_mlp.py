"""The perceptron: its two forms, what it reads, and the verb."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

import unlabeled
from pictures import Trained
from unlabeled.errors import ConfigError
from unlabeled.evaluation.mlp import LastMap, perceptron
from unlabeled.models import build_backbone
from unlabeled.models.sync_batch_norm import BatchNorm1d
from unlabeled.protocols import probes


def test_forms_are_the_papers():
    nat, krizhevsky = perceptron("nat", 12, 5, 8, 0), perceptron("deepcluster", 12, 5, 8, 0)
    kinds = [type(part) for part in nat]
    assert kinds == [nn.Linear, BatchNorm1d, nn.ReLU, nn.Dropout, nn.Linear, BatchNorm1d, nn.ReLU, nn.Linear]
    assert [type(part) for part in krizhevsky] == [nn.Dropout, nn.Linear, nn.ReLU] * 2 + [nn.Linear]
    weights = torch.cat([p.flatten() for p in perceptron("deepcluster", 200, 5, 300, 0).parameters() if p.ndim > 1])
    assert weights.std().item() == pytest.approx(0.01, rel=0.05)
    same = perceptron("nat", 12, 5, 8, 0)
    assert all(torch.equal(a, b) for a, b in zip(nat.parameters(), same.parameters(), strict=True))


def test_the_last_map_is_the_one_the_networks_own_perceptron_sees():
    view = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    backbone = build_backbone("alexnet", image_size=64, generator=torch.Generator().manual_seed(0)).eval()
    reader = LastMap(backbone)
    with torch.no_grad():
        maps = backbone.forward_stages(view)["conv5"]
    torch.testing.assert_close(reader(view), functional.max_pool2d(maps, 3, 2).flatten(1))
    assert reader.inputs(3) == backbone.fc6.in_features
    small = LastMap(build_backbone("alexnet_small", image_size=32))
    assert small.inputs(3) == 6400


@pytest.mark.parametrize(("form", "epochs"), [("nat", 100), ("deepcluster", 90)])
def test_without_a_wish_each_form_is_trained_as_long_as_published(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, form: str, epochs: int
):
    lengths: list[int] = []

    class Asked(Exception):
        pass

    def probe(*_: object, epochs: int, **__: object) -> None:
        lengths.append(epochs)
        raise Asked

    monkeypatch.setattr(probes, "MlpProbe", probe)
    with pytest.raises(Asked):
        unlabeled.load(trained.run).evaluate("mlp", trained.photos, test=trained.new, form=form)
    assert lengths == [epochs]


@pytest.mark.parametrize("form", ["nat", "deepcluster"])
def test_the_verb_on_pictures(trained: Trained, tmp_path: Path, form: str):
    run = unlabeled.load(Path(shutil.copytree(trained.run, tmp_path / "run")))
    quick = form == "nat"
    found = run.evaluate(
        "mlp", trained.photos, test=trained.new, form=form, epochs=4, width=32, quick=quick, crops="ten"
    )
    assert 0.2 < found["top1"] <= 1 and found["chance"] == 0.25
    assert 1 <= found["best_epoch"] <= 4 and found["untrained"] == found["untrained_network"]["top1"]
    assert "top5" not in found
    with pytest.raises(ConfigError, match="width must be at least 1"):
        run.evaluate("mlp", trained.photos, width=0)
