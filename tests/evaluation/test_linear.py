"""Linear probes: all classifiers at once against each alone, a choice that is right, stops, and the command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

import unlabeled
from pictures import Trained
from unlabeled.errors import ConfigError
from unlabeled.evaluation import fitting
from unlabeled.evaluation.frozen_features import Central, FrozenRows, Part, validation_accuracy
from unlabeled.evaluation.linear import MOMENTUM, Classifiers, LinearProbe, Remembering, Setting, summed_cross_entropy
from unlabeled.evaluation.result_cache import Partial

LABELS = torch.arange(120) % 3
DIMS = {"early": 6, "late": 4}


@dataclass(frozen=True)
class Vectors:
    """Stands for `RowViews`: an image is a row of numbers, its crops are that row with a little noise."""

    rows: torch.Tensor
    device: str = "cpu"

    def crops(self, rows: torch.Tensor, batch_size: int, crops: str = "one") -> Iterator[torch.Tensor]:
        for part in rows.split(batch_size) if len(rows) else ():
            count = 1 if crops == "one" else 10
            noise = torch.randn(len(part), count, 10, generator=torch.Generator().manual_seed(int(part[0]))) / 50
            yield self.rows[part][:, None] + noise * (count > 1)


class Same(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def data() -> FrozenRows:
    """The last four columns tell the class, the first six hardly do."""
    random = torch.Generator().manual_seed(0)
    rows = torch.randn(120, 10, generator=random)
    rows[:, 6:9] += 2 * functional.one_hot(LABELS, 3)
    views = Vectors(rows)
    part = Part(torch.arange(0, 80), torch.arange(80, 100))
    central = Central(Same(), views, torch.arange(100))  # type: ignore[arg-type]
    return FrozenRows(Same(), views, LABELS, part, central, cached=True, seed=0)  # type: ignore[arg-type]


def probe(partial: Partial | None = None, **changes: object) -> LinearProbe:
    arguments: dict[str, object] = {"epochs": 8, "rates": (0.1,), "decays": (1e-4,)}
    arguments |= changes
    return LinearProbe(data(), DIMS, torch.arange(100, 120), 3, partial=partial or Partial(), **arguments)  # type: ignore[arg-type]


def test_together_each_learns_what_it_learns_alone():
    own, settings = data(), [Setting(0.1, 1e-2), Setting(0.01, 0.0)]
    both = Classifiers(DIMS, ["early", "late"], 3, 0)
    alone = [nn.Linear(6, 3), nn.Linear(4, 3)]
    for layer, plain in zip(both.layers, alone, strict=True):
        plain.load_state_dict(layer.state_dict())
    mover = fitting.Sgd(both.groups(settings), MOMENTUM)
    fitting.fit(
        both, own.batches, summed_cross_entropy, fitting.Fit(4, own.steps, settings[0].rate), title="", mover=mover
    )
    for plain, layer, columns, setting in zip(alone, both.layers, (slice(0, 6), slice(6, 10)), settings, strict=True):
        optimizer, step = torch.optim.SGD(plain.parameters(), lr=1, momentum=0.9, weight_decay=setting.weight_decay), 0
        for epoch in range(4):
            for rows, target in own.batches(epoch):
                optimizer.param_groups[0]["lr"] = setting.lr / (1 + setting.lr * setting.weight_decay * step) ** 0.5
                optimizer.zero_grad()
                functional.cross_entropy(plain(rows[:, columns]), target).backward()
                optimizer.step()
                step += 1
        torch.testing.assert_close(layer.weight, plain.weight)


def test_batches_cover_an_epoch_once_and_small_sets_make_small_batches():
    own = data()
    assert (own.batch_size, own.steps) == (8, 10)
    rows = torch.cat([rows for rows, _ in own.batches(0)])
    assert torch.equal(rows.unique(dim=0), own.central.at(torch.arange(80)).unique(dim=0))
    assert not torch.equal(rows, torch.cat([rows for rows, _ in own.batches(1)]))


def test_every_stage_is_scored_and_the_best_epoch_is_remembered():
    scores = probe(crops="ten").scores()
    assert scores["late"].top1 > 0.7 > scores["early"].top1
    assert scores["late"].top5 is None and 1 <= scores["late"].best_epoch <= 8
    found = dict(probe(crops="ten").run())
    assert found == {f"{stage}/{m}": getattr(scores[stage], m) for stage in DIMS for m in ("top1", "best_top1")}


def test_what_was_best_is_kept_for_each_classifier_alone():
    module = Remembering(Classifiers(DIMS, list(DIMS), 3, 0))
    first = [layer.weight.clone() for layer in module.now.layers]
    module.remember(0, torch.tensor([0.5, 0.2]))
    with torch.no_grad():
        for layer in module.now.layers:
            layer.weight += 1
    module.remember(1, torch.tensor([0.5, 0.6]))
    assert module.epoch.tolist() == [0, 1] and module.accuracy.tolist() == pytest.approx([0.5, 0.6])
    assert torch.equal(module.best.layers[0].weight, first[0])
    assert torch.equal(module.best.layers[1].weight, first[1] + 1)


@pytest.mark.parametrize("folds", [1, 3])
def test_a_rate_that_learns_is_chosen(folds: int):
    chosen = probe(rates=(1e-9, 0.1, 1e30), decays=(1e-4, 0.0), folds=folds).choose()
    assert chosen["late"].lr == 0.1


def test_what_diverged_counts_as_wrong():
    own, module = data(), Classifiers(DIMS, ["early", "late"], 3, 0)
    with torch.no_grad():
        module.layers[0].weight.fill_(torch.nan)
    assert validation_accuracy(module, own)[0] == 0


def test_a_stopped_probe_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fitting, "SAVE_SECONDS", -1.0)
    whole = probe(rates=(0.01, 0.1)).scores()
    seen, epochs = Remembering.seen, list[int]()

    def stop(self: Remembering, epoch: int, data: FrozenRows) -> None:
        epochs.append(epoch)
        if epochs == [0, 1, 2, 3, 4]:
            raise KeyboardInterrupt
        seen(self, epoch, data)

    monkeypatch.setattr(Remembering, "seen", stop)
    partial = Partial(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        probe(partial, rates=(0.01, 0.1)).scores()
    assert probe(partial, rates=(0.01, 0.1)).scores() == whole
    assert epochs == [0, 1, 2, 3, 4, 4, 5, 6, 7]
    assert probe(partial, rates=(0.01, 0.1)).scores() == whole and len(epochs) == 9


# Through the run


@pytest.fixture
def run(trained: Trained, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained.run, tmp_path / "run"))


def test_the_verb_on_pictures(run: Path, trained: Trained):
    opened = unlabeled.load(run)
    found = opened.evaluate(
        "linear",
        trained.photos,
        test=trained.new,
        stages="conv1,conv5",
        epochs=3,
        lr=0.01,
        weight_decay=1e-4,
        crops="ten",
    )
    assert list(found["stages"]) == ["conv1", "conv5"] and found["stage"] in found["stages"]
    assert found["top1"] == found["stages"][found["stage"]]["top1"] > 0.4
    assert (found["train_images"], found["validation_images"], found["test_images"]) == (108, 12, 40)
    assert found["chance"] == 0.25 and not list((run / "evaluation").glob("*"))
    quick = opened.evaluate("linear", trained.photos, quick=True, stages="conv5", epochs=2, compare=[run])
    assert quick["compared"][str(run)]["top1"] == quick["top1"]
    assert json.loads((run / "scores.json").read_text())["linear"]["stages"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"stages": "conv9"}, "unknown stage 'conv9'"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"lr": 0.0}, "lr must be above 0"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0"),
        ({"crops": "random"}, "one or ten crops"),
        ({"folds": 0}, "folds must be at least 1"),
        ({"neighbors": 3}, "no option 'neighbors'"),
    ],
)
def test_wrong_options_are_said(trained: Trained, options: dict[str, object], said: str):
    with pytest.raises(ConfigError, match=said):
        unlabeled.load(trained.run).evaluate("linear", trained.photos, **options)
