from __future__ import annotations

import base64
import json
from dataclasses import replace

import numpy as np
import pytest

from report_pages import made
from unlabeled.errors import DataError
from unlabeled.visualize import atlas
from unlabeled.visualize.atlas import even_sample, repeats, to_json
from unlabeled.visualize.facts import Colouring


def array_of(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), kind)


def test_what_goes_in_comes_out() -> None:
    one = made(40)
    one = replace(one, colourings=[*one.colourings, Colouring("label", np.array([-1.0, *range(39)]), ["x"] * 39)])
    value = json.loads(to_json(one, "runs/a"))
    assert value["names"] == one.names
    assert (value["count"], value["total"], value["width"], value["run"]) == (40, 40, 12, "runs/a")
    assert np.array_equal(array_of(value["clusters"], "<u2"), one.clusters)
    assert np.array_equal(array_of(value["neighbours"], "<u2").reshape(40, 12), one.neighbours)
    places = array_of(value["positions"], "<u2").reshape(40, 2)
    expected = (one.positions - one.positions.min(0)) / np.ptp(one.positions, 0)
    assert np.abs(places / 65_535 - expected).max() < 1e-4
    assert np.abs(array_of(value["similarities"], "u1").reshape(40, 12) / 250 - one.similarities).max() < 0.003
    brightness, _, label = value["colourings"]
    shown = brightness["low"] + array_of(brightness["values"], "u1") / 255 * (brightness["high"] - brightness["low"])
    inside = (one.colourings[0].values > brightness["low"]) & (one.colourings[0].values < brightness["high"])
    assert np.abs(shown - one.colourings[0].values)[inside].max() < 0.01
    assert array_of(label["values"], "<u2")[0] == 65_535
    assert value["tree"]["pairs"] == one.tree.pairs.tolist()
    assert to_json(one, "runs/a") == to_json(one, "runs/a")


def test_no_name_can_end_the_element() -> None:
    text = to_json(made(10), "<b>")
    assert not set("<>&") & set(text)
    assert json.loads(text)["run"] == "<b>"


def test_pictures_that_cost_too_much_get_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 64, 64, 3), dtype=np.uint8)
    one = replace(made(60), thumbnails=list(noise))
    large = json.loads(to_json(one, "r"))
    assert large["side"] == 48
    monkeypatch.setattr(atlas, "MOST_PICTURE_BYTES", 60_000)
    small = json.loads(to_json(one, "r"))
    assert small["side"] < 48
    assert sum(map(len, small["sheets"])) < 60_000


def test_repeats_tell_the_same_from_nearly_the_same() -> None:
    rng = np.random.default_rng(0)
    first, other = rng.integers(0, 250, (2, 16, 16, 3), dtype=np.uint8)
    found = repeats([first, first, first + 1, other], np.array([[1, 2, 3]] * 4), [b"a", b"a", b"b", b"c"])
    assert found[0].tolist() == [2, 1, 0]
    assert found[3].tolist() == [0, 0, 2]


def test_an_even_sample() -> None:
    assert even_sample(3).tolist() == [0, 1, 2]
    assert even_sample(10, 4).tolist() == [0, 2, 5, 7]
    assert len(np.unique(even_sample(1_234_567))) == 10_000


def test_lists_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(DataError, match="one of everything"):
        to_json(replace(made(10), distances=np.zeros(9)), "r")
