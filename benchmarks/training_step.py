"""Training step and feature pass: ours against plain eager float32 in NCHW.

AlexNet (Sobel, 224 px, B = 64) and the small ResNet-18 (32 px, B = 128), one thread, process CPU time, medians. Ours:
uint8 views in channels-last, bfloat16 autocast, fused SGD. Plain: the same layers in float32 and NCHW on views that
are normalised already, Sobel as two convolutions, `torch.optim.SGD` as it comes. The two are interleaved in one
process, and
that process is run twice: with the allocator setting of `unlabeled.device` and without.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from unlabeled.config import Config
from unlabeled.device import use_big_pages_allocator
from unlabeled.models import Backbone, build_backbone, linear_head
from unlabeled.training.optim import Optimizer

NETWORKS = {"alexnet": (224, 64, "sobel"), "resnet18_small": (32, 128, "rgb")}
CLASSES = 1000


def run(quick: bool) -> list[dict]:
    """Seven rows a network: step and feature pass three ways each, and what the allocator setting gives."""
    rows: list[dict] = []
    for network in NETWORKS:
        plain_malloc, kept_memory = (in_new_process(network, quick, allocator) for allocator in (False, True))
        for work in ("training step", "feature pass"):
            same, other = kept_memory[work], plain_malloc[work]
            name = f"{work}, {network}"
            rows.append(row(f"{name}, same process", *same, "allocator setting on both sides"))
            rows.append(row(f"{name}, same process, default malloc", *other, "allocator setting on no side"))
            rows.append(row(f"{name}, as shipped", same[0], other[1], "allocator setting on our side only"))
        share = kept_memory["stem"][0] / kept_memory["stem"][1]
        detail = f"the stem, uint8 to the first layer's input, is {100 * share:.1f} % of the feature pass"
        rows.append(
            row(f"allocator, {network}", kept_memory["training step"][0], plain_malloc["training step"][0], detail)
        )
    return rows


def row(name: str, ours: float, reference: float, detail: str) -> dict:
    """Images per second of both, and their ratio."""
    ratio = ours / reference
    return {"name": name, "ours": ours, "reference": reference, "ratio": ratio, "unit": "images/s", "detail": detail}


def in_new_process(network: str, quick: bool, allocator: bool) -> dict[str, list[float]]:
    """`measure` in a process of its own, because the allocator setting cannot be taken back."""
    command = [sys.executable, "-m", "benchmarks.training_step", network, str(int(quick)), str(int(allocator))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(network: str, quick: bool, allocator: bool) -> dict[str, list[float]]:
    """Images per second, [ours, plain], by kind of work; seconds of stem and feature pass under "stem"."""
    if allocator and not use_big_pages_allocator():
        print("the allocator setting does not apply on this machine", file=sys.stderr)
    torch.set_num_threads(1)
    size, batch, stem = NETWORKS[network]
    batch = batch // 4 if quick else batch
    draw = torch.Generator().manual_seed(0)
    views = torch.randint(256, (batch, 3, size, size), dtype=torch.uint8, generator=draw)
    labels = torch.randint(CLASSES, (batch,), generator=draw)
    ours, ours_features, stem_only = build_ours(network, size, stem, views, labels)
    plain, plain_features = build_plain(network, size, stem, views, labels)
    repeats = 3 if quick else 5
    result: dict[str, list[float]] = {}
    for name, pair in {"training step": (ours, plain), "feature pass": (ours_features, plain_features)}.items():
        result[name] = [batch / seconds for seconds in interleaved(pair, repeats)]
    result["stem"] = interleaved((stem_only, ours_features), repeats)
    return result


def interleaved(pair: tuple[Callable[[], None], ...], repeats: int) -> list[float]:
    """Median CPU seconds of each, run A B A B after one round of warming up."""
    seconds: list[list[float]] = [[] for _ in pair]
    for _ in range(repeats + 1):
        for times, work in zip(seconds, pair, strict=True):
            start = time.process_time()
            work()
            times.append(time.process_time() - start)
    return [statistics.median(times[1:]) for times in seconds]


def build_ours(
    network: str, size: int, stem: str, views: torch.Tensor, labels: torch.Tensor
) -> tuple[Callable[[], None], ...]:
    """Training step, feature pass, and the stem alone, as the package runs them."""
    backbone, views = build_backbone(network, stem=stem, image_size=size), views.to(memory_format=torch.channels_last)
    head = linear_head(backbone, CLASSES)
    optimizer = Optimizer(backbone, Config(lr=0.01))
    optimizer.adopt(head)

    def step() -> None:
        backbone.train()
        with torch.autocast("cpu", torch.bfloat16):
            z = head(backbone(views))
        optimizer.step(functional.cross_entropy(z.float(), labels))

    def features(module: Callable[[torch.Tensor], torch.Tensor] = backbone) -> None:
        backbone.eval()
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            module(views)

    return step, features, lambda: features(backbone.stem)


def build_plain(
    network: str, size: int, stem: str, views: torch.Tensor, labels: torch.Tensor
) -> tuple[Callable[[], None], ...]:
    """Training step and feature pass as one would write them down first."""
    backbone: Backbone = build_backbone(network, stem=stem, image_size=size).to(memory_format=torch.contiguous_format)
    backbone.stem = sobel_convolutions() if stem == "sobel" else nn.Identity()
    head = linear_head(backbone, CLASSES)
    normalised = (views.float() / 255 - 0.45) / 0.22
    parameters = [*backbone.parameters(), *head.parameters()]
    learned = [parameter for parameter in parameters if parameter.requires_grad]
    optimizer = torch.optim.SGD(learned, lr=0.01, momentum=0.9, weight_decay=1e-5)

    def step() -> None:
        backbone.train()
        loss = functional.cross_entropy(head(backbone(normalised)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def features() -> None:
        backbone.eval()
        with torch.no_grad():
            backbone(normalised)

    return step, features


def sobel_convolutions() -> nn.Sequential:
    """Grey as a 1×1 convolution, then the two kernels; fixed."""
    grey, sobel = nn.Conv2d(3, 1, 1), nn.Conv2d(1, 2, 3, padding=1)
    kernel = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]])
    with torch.no_grad():
        grey.weight.fill_(1 / 3)
        sobel.weight.copy_(torch.stack((kernel, kernel.T))[:, None])
        for layer in (grey, sobel):
            layer.bias.zero_()
    return nn.Sequential(grey, sobel).requires_grad_(False)


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], sys.argv[2] == "1", sys.argv[3] == "1")))
