"""Low-shot: the draws, the interval by hand, who sees what, and that good features help."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import unlabeled
from few_labels import Separating, contest
from pictures import Trained
from unlabeled.errors import ConfigError, DataError
from unlabeled.evaluation import few_labels
from unlabeled.evaluation.few_labels import Contest, compared, draw, spread, summary
from unlabeled.evaluation.fine_tuning import FineTuning
from unlabeled.evaluation.low_shot import LowShotProtocol, largest_shots
from unlabeled.evaluation.result_cache import Partial

LABELS = torch.tensor([0, 1, 2, -1] * 10)
ROWS = torch.tensor([row for row in range(40) if LABELS[row] >= 0 and row % 5])


def test_draws_are_stratified_nested_and_keyed_by_seed():
    one, four = ({0: n, 1: n, 2: n} for n in (1, 4))
    drawn = draw(LABELS, ROWS, four, 0, 0)
    assert torch.bincount(LABELS[drawn]).tolist() == [4, 4, 4]
    assert set(drawn.tolist()) <= set(ROWS.tolist()) and len(set(drawn.tolist())) == 12
    assert set(draw(LABELS, ROWS, one, 0, 0).tolist()) <= set(drawn.tolist())
    assert torch.equal(drawn, draw(LABELS, ROWS, four, 0, 0))
    assert not torch.equal(drawn, draw(LABELS, ROWS, four, 0, 1))
    assert not torch.equal(drawn, draw(LABELS, ROWS, four, 1, 0))
    with pytest.raises(DataError, match="class 0 has 8 labelled images, 9 were asked for"):
        draw(LABELS, ROWS, {0: 9, 1: 9, 2: 9}, 0, 0)


def test_the_interval_by_hand():
    # t of 2 degrees of freedom at 97.5 %, from any printed table: 4.303.
    found = spread([0.5, 0.6, 0.7])
    assert found["mean"] == pytest.approx(0.6) and found["std"] == pytest.approx(0.1)
    assert found["ci95"] == pytest.approx(4.3027 * 0.1 / math.sqrt(3), rel=1e-4)
    assert spread([0.5]) == {"mean": 0.5, "values": [0.5]}
    # Nine degrees of freedom, the ten draws of the thesis: 2.262.
    values = list(np.linspace(0.3, 0.5, 10))
    assert spread(values)["ci95"] == pytest.approx(2.2622 * float(np.std(values, ddof=1)) / math.sqrt(10), rel=1e-4)


def test_the_gain_is_paired():
    trials = {"trained": [{"top1": 0.5}, {"top1": 0.9}], "scratch": [{"top1": 0.3}, {"top1": 0.7}]}
    table = compared(trials)
    assert table["gain"]["top1"]["mean"] == pytest.approx(0.2)
    assert table["gain"]["top1"]["ci95"] == pytest.approx(0, abs=1e-9)  # both draws gained the same
    row = summary(8, table)
    assert list(row) == ["images", "top1", "ci95", "scratch", "scratch_ci95", "gain", "gain_ci95"]
    assert row["scratch"] == pytest.approx(0.5)


def test_good_features_beat_scratch_and_both_see_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    torch.set_num_threads(1)
    made = contest(tmp_path)
    seen: dict[str, list[tuple[list[int], int]]] = {}
    really = few_labels.fine_tune

    def spy(network: Any, loader: Any, rows: torch.Tensor, target: Any, how: FineTuning, **others: Any) -> Any:
        name = others["name"].removesuffix("-training")
        seen[name] = [(rows.tolist(), how.seed)]
        return really(network, loader, rows, target, how, **others)

    monkeypatch.setattr(few_labels, "fine_tune", spy)
    protocol = LowShotProtocol(made, [1, 4], draws=3, grid=(0.01,), steps=12, how=FineTuning(batch_size=16))
    scores = dict(protocol.run())
    for n in ("1", "4"):
        row = scores["shots"][n]
        assert row["top1"] == 1.0, "the backbone separates the classes"
        assert row["scratch"] < 0.9 and row["gain"] == pytest.approx(row["top1"] - row["scratch"])
    assert scores["shots"]["4"]["images"] == 16
    assert scores["spread"]["4"]["trained"]["top1"]["values"] == [1.0] * 3
    for name, calls in seen.items():
        if name.endswith("trained"):
            assert calls == seen[name.replace("trained", "scratch")]
    assert not {row for calls in seen.values() for rows, _ in calls for row in rows} & set(made.test.rows.tolist())


def test_cross_validation_takes_the_better_rate_and_never_sees_the_test_images(tmp_path: Path):
    torch.set_num_threads(1)
    made = contest(tmp_path)
    # Labels of the test images are not even readable.
    blind = replace(made, test=replace(made.test, rows=torch.arange(10_000, 10_010)))
    how = FineTuning(epochs=4, batch_size=16)
    ways = [replace(how, lr=0.0), replace(how, lr=0.02)]
    rows = draw(made.train.labels, made.train.rows, dict.fromkeys(range(4), 4), 0, 0)
    assert blind.choose("trained", rows, ways, 2, "x").lr == 0.02
    single = draw(made.train.labels, made.train.rows, dict.fromkeys(range(4), 1), 0, 0)
    assert blind.choose("trained", single, ways, 2, "y").lr == 0.0  # one image a class: nothing to hold out


def test_a_trial_that_was_done_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    torch.set_num_threads(1)
    made = replace(contest(tmp_path), partial=Partial(tmp_path / "parts"))
    protocol = LowShotProtocol(made, [1], draws=2, grid=(0.01,), steps=2)
    first = dict(protocol.run())

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(Contest, "_trained", never)
    assert dict(protocol.run()) == first


def test_numbers_of_images_that_a_class_lacks():
    assert largest_shots(torch.tensor([0, 0, 0, 1, 1, -1]), [1, 2, 3]) == ([1, 2], 2)


def test_from_a_run(trained: Trained):
    run = unlabeled.load(trained.run, device="cpu")
    before = {name: value.clone() for name, value in run.backbone.state_dict().items()}
    scores = run.evaluate("low-shot", trained.photos, test=trained.new, quick=True, shots="1, 500", draws=1)
    assert list(scores["shots"]) == ["1"] and scores["shots"]["1"]["images"] == 4
    assert set(scores["shots"]["1"]) == {"images", "top1", "scratch", "gain"}
    assert scores["test_images"] == 40 and scores["train_images"] == 120 and scores["draws"] == 1
    assert all(torch.equal(value, before[name]) for name, value in run.backbone.state_dict().items())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"shots": "one"},
            "--shots must be whole numbers of at least 1, with commas between, got 'one'; give for example 1,10",
        ),
        ({"shots": "0,4"}, "--shots must be whole numbers of at least 1"),
        ({"shots": "-1"}, "got '-1'"),
        ({"draws": 0}, "--draws must be at least 1, got 0"),
        ({"shots": [500]}, "the smallest has 24; give --shots 24 or label more"),
    ],
)
def test_wrong_input_is_a_sentence(trained: Trained, options: dict[str, Any], sentence: str):
    run = unlabeled.load(trained.run, device="cpu")
    with pytest.raises((ConfigError, DataError), match=sentence.replace(",", ".").replace("-", ".")):
        run.evaluate("low-shot", trained.photos, quick=True, **options)


def test_separating_backbone_separates():
    """The constructed set is what the tests above say it is."""
    view = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    for kind in range(4):
        view[kind, :, :, :] = 60 * kind
    feature = Separating()(view)
    assert feature.argmax(1).tolist() == [0, 1, 2, 3]
