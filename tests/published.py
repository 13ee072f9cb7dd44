"""Files as the papers' authors published them: the same keys and shapes, filled by the golden hash."""

from __future__ import annotations

import json
import sys
import types
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from golden.test_golden_models import hash_uniform

SOBEL = {
    "sobel.0.weight": torch.full((1, 3, 1, 1), 1 / 3),
    "sobel.0.bias": torch.zeros(1),
    "sobel.1.weight": torch.tensor(
        [[[[1.0, 0, -1], [2, 0, -2], [1, 0, -1]]], [[[1.0, 2, 1], [0, 0, 0], [-1, -2, -1]]]]
    ),
    "sobel.1.bias": torch.zeros(2),
}


def golden_state(data: Any) -> dict[str, torch.Tensor]:
    """The state dict of a golden architecture, by its published names: hashed parameters, fresh statistics."""
    state: dict[str, torch.Tensor] = {}
    seed = int(data["formula_seed"])
    for rank, (name, shape) in enumerate(zip(data["param_names"], data["param_shapes"], strict=True)):
        name, size = str(name), json.loads(str(shape))
        u = torch.from_numpy(hash_uniform(int(np.prod(size)), rank, seed)).view(size)
        if len(size) > 1:
            u *= (6 / u[0].numel()) ** 0.5
        else:
            u = 0.1 * u + (1 if name.endswith("weight") else 0)
        state[name] = u.float()
        is_norm = len(size) == 1 and name.endswith("bias") and state[name[:-4] + "weight"].ndim == 1
        if is_norm:
            stem = name.removesuffix("bias")
            state[f"{stem}running_mean"], state[f"{stem}running_var"] = torch.zeros(size), torch.ones(size)
    return state


def golden_view(data: Any) -> torch.Tensor:
    """The golden input [1, 3, S, S]."""
    size = int(data["input_size"])
    u = hash_uniform(3 * size * size, 999, int(data["formula_seed"]))
    return torch.from_numpy(2 * u).float().view(1, 3, size, size)


def deepcluster_file(state: dict[str, torch.Tensor], path: Path, arch: str, *, zipped: bool = False) -> Path:
    """As DeepCluster's program saves: `features` wrapped in DataParallel, Sobel's filters where the network has two inputs."""
    wrapped = {name.replace("features.", "features.module.", 1): value for name, value in state.items()}
    if state["features.0.weight"].shape[1] == 2:
        wrapped = SOBEL | wrapped
    checkpoint = {"epoch": 500, "arch": arch, "state_dict": wrapped, "optimizer": {"state": {}, "param_groups": []}}
    torch.save(checkpoint, path, _use_new_zipfile_serialization=zipped)
    return path


@contextmanager
def lemniscate_classes() -> Generator[tuple[type, type]]:
    """Classes under the names that published checkpoints ask for; gone afterwards, as on a user's machine."""

    class NCEAverage(torch.nn.Module):
        pass

    class AliasMethod:
        pass

    made: list[str] = []
    for module, kind in (("lib.NCEAverage", NCEAverage), ("lib.alias_multinomial", AliasMethod)):
        kind.__module__, kind.__qualname__ = module, kind.__name__
        sys.modules[module] = types.ModuleType(module)
        setattr(sys.modules[module], kind.__name__, kind)
        made.append(module)
    sys.modules["lib"] = types.ModuleType("lib")
    try:
        yield NCEAverage, AliasMethod
    finally:
        for module in (*made, "lib"):
            del sys.modules[module]


def lemniscate_file(state: dict[str, torch.Tensor], path: Path, bank: torch.Tensor, *, zipped: bool = False) -> Path:
    """As the instance discrimination program saves: `module.` before all names, the bank inside an object of its classes."""
    with lemniscate_classes() as (NCEAverage, AliasMethod):
        average = NCEAverage()
        average.register_buffer("params", torch.tensor([4096.0, 0.07, 2876934.25, 0.5]))
        average.register_buffer("memory", bank)
        average.multinomial = AliasMethod()
        average.multinomial.prob = torch.ones(len(bank))
        checkpoint = {
            "epoch": 200,
            "arch": "resnet18",
            "state_dict": {f"module.{name}": value for name, value in state.items()},
            "lemniscate": average,
            "best_prec1": 0.41,
            "optimizer": {"state": {}, "param_groups": []},
        }
        with warnings.catch_warnings():
            # Torch would keep the source of the class beside it, and this one has none.
            warnings.simplefilter("ignore")
            torch.save(checkpoint, path, _use_new_zipfile_serialization=zipped)
    return path
