from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from unlabeled import losses
from unlabeled.losses import bank_softmax
from unlabeled.memory import MemoryBank, alias_table


def load(path: Path) -> dict[str, torch.Tensor]:
    with np.load(path) as data:
        return {key: torch.from_numpy(np.asarray(data[key])) for key in data.files}


def test_three_steps_of_nce(golden: Path) -> None:
    data = load(golden / "nce.npz")
    n, temperature, epsilon = int(data["n"]), float(data["T"]), float(data["eps"])
    memory = MemoryBank(n, 16, seed=0, momentum=float(data["momentum"]))
    memory.bank.copy_(data["memory_0"])
    for step in range(3):
        raw, index = data[f"raw_{step}"].requires_grad_(), data[f"y_{step}"]
        z = F.normalize(raw, dim=1)
        z.retain_grad()
        positive = losses.similarities(z, memory.rows(index)[:, None])[:, 0]
        negative = losses.similarities(z, memory.rows(data[f"idx_{step}"][:, 1:]))
        constant = memory.observe_normaliser(positive.detach(), negative.detach(), temperature)
        assert float(constant) == pytest.approx(float(data[f"Z_{step}"]), rel=1e-6)
        loss = losses.nce(
            positive, negative, num_images=n, temperature=temperature, normaliser=constant, epsilon=epsilon
        )
        loss.backward()
        assert loss.item() == pytest.approx(float(data[f"loss64_{step}"]), rel=1e-5)
        torch.testing.assert_close(z.grad, data[f"grad_feat_{step}"], atol=1e-5, rtol=0)
        torch.testing.assert_close(raw.grad, data[f"grad_raw_{step}"], atol=1e-5, rtol=0)
        memory.update(index, z.detach())
        torch.testing.assert_close(memory.bank, data[f"memory_after_{step}"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("loss", [losses.nonparametric_softmax, bank_softmax])
def test_two_steps_of_the_full_softmax(golden: Path, loss) -> None:
    data = load(golden / "nonparam_softmax.npz")
    temperature = float(data["T"])
    memory = MemoryBank(int(data["n"]), 16, seed=0, momentum=float(data["momentum"]))
    memory.bank.copy_(data["memory_0"])
    named = {"precision": "float32"} if loss is bank_softmax else {}
    for step in range(2):
        raw, index = data[f"raw_{step}"].requires_grad_(), data[f"y_{step}"]
        z = F.normalize(raw, dim=1)
        z.retain_grad()
        value = loss(z, memory.bank, index, temperature, **named)
        value.backward()
        assert value.item() == pytest.approx(float(data[f"loss_{step}"]), rel=1e-5)
        logits = z.detach() @ memory.bank.T / temperature
        torch.testing.assert_close(logits, data[f"logits_{step}"], atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(z.grad, data[f"grad_feat_{step}"], atol=1e-5, rtol=0)
        torch.testing.assert_close(raw.grad, data[f"grad_raw_{step}"], atol=1e-5, rtol=0)
        memory.update(index, z.detach())
        torch.testing.assert_close(memory.bank, data[f"memory_after_{step}"], atol=1e-6, rtol=0)


def test_nce_with_the_proximal_term(golden: Path) -> None:
    data = load(golden / "nce_proximal.npz")
    memory, index = data["memory"], data["y"]
    for weight in data["lambdas"].tolist():
        z = F.normalize(data["raw"], dim=1).requires_grad_()
        positive = losses.similarities(z, memory[index][:, None])[:, 0]
        negative = losses.similarities(z, memory[data["neg"]])
        nce = losses.nce(
            positive, negative, num_images=len(memory), temperature=float(data["T"]), normaliser=data["Z"], epsilon=0
        )
        proximal = losses.proximal(z, memory[index])
        loss = nce + weight * proximal
        loss.backward()
        for name, value in (("nce", nce), ("prox", proximal), ("loss", loss)):
            assert value.item() == pytest.approx(float(data[f"{name}_{weight}"]), abs=1e-9)
        torch.testing.assert_close(z.grad, data[f"grad_feat_{weight}"], atol=1e-9, rtol=0)


def test_softmax_restricted_to_a_subset_of_classes(golden: Path) -> None:
    data = load(golden / "sgt_loss.npz")
    for size in data["totals"].tolist():
        logits = data["logits"].clone().requires_grad_()
        loss = losses.restricted_cross_entropy(logits, data["targets"], data[f"subset_{size}"].sort().values)
        loss.backward()
        assert loss.item() == pytest.approx(float(data[f"loss_{size}"]), abs=1e-9)
        torch.testing.assert_close(logits.grad, data[f"grad_logits_{size}"], atol=1e-9, rtol=0)
    assert losses.cross_entropy(data["logits"], data["targets"]).item() == pytest.approx(
        float(data["loss_full"]), abs=1e-9
    )


def test_alias_table(golden: Path) -> None:
    data = load(golden / "alias_table.npz")
    for keep, alias in (alias_table(data["weights"]), (data["prob"].double(), data["alias"])):
        implied = keep.clone().scatter_add_(0, alias, 1 - keep) / len(keep)
        torch.testing.assert_close(implied, data["weights"] / data["weights"].sum(), atol=1e-6, rtol=0)
        torch.testing.assert_close(implied, data["implied_distribution"], atol=1e-6, rtol=0)
