"""Loss of instance discrimination, forward and backward: the exact softmax over the bank against what is done instead.

B = 128, D = 128, temperature 0.07. The rivals: noise-contrastive estimation with m = 4,096 negatives gathered for each
image (Wu et al., CVPR 2018, section 3.2, written down directly), and the full softmax left to autograd. One thread,
process CPU time, in turn in one process with the allocator as it comes, medians. Peak extra memory is the growth of
the largest resident size over one forward and backward pass, each in a process of its own.
"""

from __future__ import annotations

import json
import math
import resource
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import cross_entropy, normalize

from benchmarks.timing import time_in_turn
from unlabeled.losses import bank_softmax

BATCH, DIMS, TEMPERATURE, NEGATIVES = 128, 128, 0.07, 4096
OURS = "exact softmax"
RIVALS = ("gather-NCE m=4096", "autograd softmax")
AUTOGRAD_LIMIT = 200_000
"""Rows of the bank up to which autograd is asked: beyond, its scores take gigabytes."""


def run(quick: bool) -> list[dict[str, Any]]:
    """A row for each size of the bank and each rival; the detail tells memory."""
    rows: list[dict[str, Any]] = []
    for count in (10_000, 50_000) if quick else (50_000, 200_000, 500_000, 1_281_167):
        names = [OURS, *(name for name in RIVALS if name != "autograd softmax" or count <= AUTOGRAD_LIMIT)]
        seconds = time_in_turn({name: work(count, name) for name in names}, 3 if quick else 7)
        extra = {name: memory_in_new_process(count, name) for name in names}
        rows += [row(count, rival, seconds, extra) for rival in names[1:]]
    return rows


def row(count: int, rival: str, seconds: dict[str, float], extra: dict[str, float]) -> dict[str, Any]:
    """Milliseconds of both, and their ratio."""
    return {
        "name": f"{OURS} over {count:,} rows, against {rival}",
        "ours": 1e3 * seconds[OURS],
        "reference": 1e3 * seconds[rival],
        "ratio": seconds[rival] / seconds[OURS],
        "unit": "ms",
        "detail": f"peak extra memory {extra[OURS]:.0f} MB against {extra[rival]:.0f} MB",
    }


def work(count: int, name: str) -> Callable[[], None]:
    """One forward and backward pass."""
    random = torch.Generator().manual_seed(0)
    bank = normalize(torch.randn(count, DIMS, generator=random))
    z = normalize(torch.randn(BATCH, DIMS, generator=random)).requires_grad_()
    index = torch.randint(count, (BATCH,), generator=random)
    losses: dict[str, Callable[[], torch.Tensor]] = {
        OURS: lambda: bank_softmax(z, bank, index, TEMPERATURE),
        "gather-NCE m=4096": lambda: gather_nce(z, bank, index, random),
        "autograd softmax": lambda: cross_entropy(z @ bank.T / TEMPERATURE, index),
    }

    def step() -> None:
        z.grad = None
        losses[name]().backward()

    return step


def gather_nce(z: torch.Tensor, bank: torch.Tensor, index: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Equations 5 to 7 of the paper with uniform noise and the constant Z estimated from this batch."""
    count = len(bank)
    drawn = torch.randint(count, (len(z), NEGATIVES + 1), generator=random)
    drawn[:, 0] = index
    rows = bank.index_select(0, drawn.view(-1)).view(len(z), NEGATIVES + 1, DIMS)
    scores = (torch.bmm(rows, z[:, :, None])[:, :, 0] / TEMPERATURE).exp()
    probability = scores / (scores.detach().mean() * count)
    noise = NEGATIVES / count
    data = (probability[:, 0] / (probability[:, 0] + noise)).log()
    others = (noise / (probability[:, 1:] + noise)).log().sum(dim=1)
    return -(data + others).mean()


def memory_in_new_process(count: int, name: str) -> float:
    """Megabytes, of a process that does nothing else."""
    command = [sys.executable, "-m", "benchmarks.bank_softmax", str(count), name]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def peak_growth(count: int, name: str) -> float:
    """Megabytes by which the largest resident size grows in one pass.

    A pass over a small bank goes before, so that what the libraries load and keep is not counted. What building the
    data took at its peak would hide the growth, so as much memory as that is occupied and touched first.
    """
    torch.set_num_threads(1)
    work(256, name)()
    step = work(count, name)
    slack = max(0.0, peak() - resident())
    filler = torch.ones(math.ceil(slack * 2**20), dtype=torch.uint8)
    before = peak()
    step()
    growth = peak() - before
    del filler
    return growth


def peak() -> float:
    """Largest resident size so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def resident() -> float:
    """Resident size now, MB."""
    with open("/proc/self/statm") as numbers:
        return int(numbers.read().split()[1]) * resource.getpagesize() / 2**20


if __name__ == "__main__":
    print(json.dumps(peak_growth(int(sys.argv[1]), sys.argv[2])))
