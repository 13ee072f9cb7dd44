"""The numbers of the released codes, through the methods themselves: targets, loss and table as the loop calls them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from unlabeled.config import Config
from unlabeled.methods import build_method
from unlabeled.methods.instance import InstanceDiscrimination
from unlabeled.methods.nat import NoiseAsTargets


def load(path: Path) -> dict[str, torch.Tensor]:
    with np.load(path) as data:
        return {key: torch.from_numpy(np.asarray(data[key])) for key in data.files}


def config(**changes: Any) -> Config:
    return Config(backbone="alexnet_small", image_size=16, resize=16, store_size=16, precision="float32", **changes)


def instance(count: int, **changes: Any) -> InstanceDiscrimination:
    method = build_method(config(method="instance", **changes), count, 3)
    assert isinstance(method, InstanceDiscrimination)
    return method


def never(index: torch.Tensor | None = None) -> torch.Tensor:
    raise AssertionError


def test_a_step_of_noise_as_targets(golden: Path) -> None:
    data = load(golden / "nat_step.npz")
    count, dims = data["targets"].shape
    method = build_method(config(method="nat", embedding_dims=dims), count, 3)
    assert isinstance(method, NoiseAsTargets)
    method.codes = data["targets"]
    method.code_index.copy_(data["label_before"])
    method.before_epoch(0, never)
    index, raw = data["batch_index"], data["net_output_before_norm"].requires_grad_()
    z = F.normalize(raw, dim=1)
    before = method.loss(z, method.code_index[index])
    assert before.item() == pytest.approx(float(data["loss_sum_before"]), rel=1e-5)
    target = method.targets(index, z.detach())
    loss = method.loss(z, target)
    loss.backward()
    method.after_step(index, z.detach())
    assert torch.equal(method.code_index, data["label_after"])
    assert loss.item() == pytest.approx(float(data["loss_sum_after"]), rel=1e-5)
    assert raw.grad is not None
    torch.testing.assert_close(raw.grad.double(), data["grad_sum_loss_wrt_output"], atol=1e-5, rtol=0)


def test_three_steps_of_nce(golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load(golden / "nce.npz")
    count = int(data["n"])
    method = instance(
        count, objective="nce", embedding_dims=16, num_negatives=int(data["K"]), temperature=float(data["T"]),
        memory_momentum=float(data["momentum"]),
    )  # fmt: skip
    method.memory.bank.copy_(data["memory_0"])
    for step in range(3):
        monkeypatch.setattr(method, "negatives", lambda _, step=step: data[f"idx_{step}"][:, 1:])
        raw, index = data[f"raw_{step}"].requires_grad_(), data[f"y_{step}"]
        z = F.normalize(raw, dim=1)
        loss = method.loss(z, method.targets(index, z.detach()))
        loss.backward()
        method.after_step(index, z.detach())
        assert float(method.memory.normaliser) == pytest.approx(float(data[f"Z_{step}"]), rel=1e-6)
        assert loss.item() == pytest.approx(float(data[f"loss64_{step}"]), rel=1e-5)
        assert raw.grad is not None
        torch.testing.assert_close(raw.grad, data[f"grad_raw_{step}"], atol=1e-5, rtol=0)
        torch.testing.assert_close(method.memory.bank, data[f"memory_after_{step}"], atol=1e-6, rtol=0)


def test_two_steps_of_the_full_softmax(golden: Path) -> None:
    data = load(golden / "nonparam_softmax.npz")
    method = instance(
        int(data["n"]), objective="softmax", embedding_dims=16, temperature=float(data["T"]),
        memory_momentum=float(data["momentum"]),
    )  # fmt: skip
    method.memory.bank.copy_(data["memory_0"])
    for step in range(2):
        raw, index = data[f"raw_{step}"].requires_grad_(), data[f"y_{step}"]
        z = F.normalize(raw, dim=1)
        loss = method.loss(z, method.targets(index, z.detach()))
        loss.backward()
        method.after_step(index, z.detach())
        assert loss.item() == pytest.approx(float(data[f"loss_{step}"]), rel=1e-5)
        assert raw.grad is not None
        torch.testing.assert_close(raw.grad, data[f"grad_raw_{step}"], atol=1e-5, rtol=0)
        torch.testing.assert_close(method.memory.bank, data[f"memory_after_{step}"], atol=1e-6, rtol=0)


def test_nce_with_the_proximal_term(golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load(golden / "nce_proximal.npz")
    count, dims = data["memory"].shape
    for weight in data["lambdas"].tolist():
        method = instance(
            count, objective="nce", embedding_dims=dims, num_negatives=data["neg"].shape[1],
            temperature=float(data["T"]), memory="proximal", proximal_weight=weight,
        ).double()  # fmt: skip
        method.memory.bank.copy_(data["memory"])
        method.memory.normaliser.copy_(data["Z"])
        method.steps = 1  # the constant is known already
        monkeypatch.setattr(method, "negatives", lambda _: data["neg"])
        z = F.normalize(data["raw"], dim=1).requires_grad_()
        loss = method.loss(z, method.targets(data["y"], z.detach()))
        loss.backward()
        # The released code's 1e-7 in the denominators is not in this file's formulas.
        assert loss.item() == pytest.approx(float(data[f"loss_{weight}"]), rel=1e-5)
        torch.testing.assert_close(z.grad, data[f"grad_feat_{weight}"], atol=1e-5, rtol=0)
        method.after_step(data["y"], z.detach())
        torch.testing.assert_close(method.memory.bank[data["y"]].float(), z.detach().float())
