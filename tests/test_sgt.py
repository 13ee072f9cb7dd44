"""The benchmark of the restricted loss: what it times is what it says."""

from __future__ import annotations

import inspect

import pytest
import torch
from benchmarks import sgt


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"BATCH": 12, "DIMS": 8, "CHUNK": 7, "SUBSETS": (16, 64)}.items():
        monkeypatch.setattr(sgt, name, value)


def variables(step: object) -> dict[str, torch.Tensor]:
    inner = inspect.unwrap(step)
    code, cells = inner.__code__.co_freevars, inner.__closure__
    return {name: cell.cell_contents for name, cell in zip(code, cells, strict=True)}


def test_the_chunked_step_is_the_whole_one() -> None:
    whole, parts = sgt.full(40), sgt.chunked(40)
    for _ in range(3):
        whole()
        parts()
    one, two = variables(whole), variables(parts)
    for name in ("weight", "bias"):
        torch.testing.assert_close(two[name], one[name])
    torch.testing.assert_close(two["features"].grad, one["features"].grad)


def test_a_subset_of_all_classes_is_the_whole_loss() -> None:
    whole, all_of_them = sgt.full(40), sgt.restricted(40, 40)
    whole()
    all_of_them()
    torch.testing.assert_close(variables(all_of_them)["weight"], variables(whole)["weight"])


def test_rows_of_other_classes_stay() -> None:
    step = sgt.restricted(400, 16)
    before = variables(step)["weight"].detach().clone()
    step()
    moved = (variables(step)["weight"].detach() != before).any(dim=1)
    assert 12 <= int(moved.sum()) <= 16


def test_every_way_has_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sgt, "time_in_turn", lambda works, turns: dict.fromkeys(works, 0.5))
    names = [row["name"] for row in sgt.run(quick=True)]
    assert len(names) == 3
    assert all("2,000 classes" in name for name in names)
