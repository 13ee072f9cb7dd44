"""Two gloo processes with unequal parts of a batch give what one process gives with the whole."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from unlabeled.models.sync_batch_norm import BatchNorm1d, BatchNorm2d, convert_sync

SPLIT = (slice(0, 3), slice(3, 8))


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 5), BatchNorm1d(5, momentum=None)
    ).double()


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(2)
    return torch.randn(8, 2, 5, 5, generator=draw).double() * 3 + 7, torch.randn(8, 5, generator=draw).double()


def outcome(model: nn.Sequential, part: slice) -> dict[str, torch.Tensor]:
    """Output of the part, gradients of the summed loss, statistics after two steps."""
    x, weight = batch()
    x = x[part].requires_grad_()
    for _ in range(2):
        model.zero_grad()
        output = model(x)
        x.grad = None
        (output * weight[part]).sum().backward()
    assert x.grad is not None
    result = {"output": output.detach(), "input_grad": x.grad}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        result[f"grad.{name}"] = parameter.grad
    return result | dict(model.named_buffers())


def worker(rank: int, folder: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    together = outcome(network(), SPLIT[rank])
    apart = convert_sync(network(), False)(batch()[0][SPLIT[rank]])
    # Half precision takes the same path with float32 statistics inside.
    with torch.autocast("cpu", torch.bfloat16):
        half = network().float()(batch()[0][SPLIT[rank]].float())
    torch.save([together, apart.detach(), half.float().detach()], Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_two_ranks_are_one() -> None:
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(worker, (folder,), nprocs=2)
        ranks = [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(2)]
    expected = outcome(network(), slice(0, 8))
    for rank, (together, apart, half) in enumerate(ranks):
        for name, tensor in together.items():
            if name.startswith("grad."):
                continue
            reference = expected[name][SPLIT[rank]] if name in ("output", "input_grad") else expected[name]
            torch.testing.assert_close(tensor, reference, atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(apart, network()(batch()[0][SPLIT[rank]]))
        assert not torch.allclose(apart, together["output"])
        torch.testing.assert_close(half.double(), network()(batch()[0])[SPLIT[rank]], atol=0.1, rtol=0.1)
    for name in (name for name in expected if name.startswith("grad.")):
        torch.testing.assert_close(ranks[0][0][name] + ranks[1][0][name], expected[name], atol=1e-9, rtol=1e-9)
