"""Where tensors live and how precise the products are: one place that looks at the hardware."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Literal, get_args

import torch

from unlabeled.config import Device
from unlabeled.errors import ConfigError

DeviceKind = Literal["cpu", "cuda"]


def resolve_device(name: str = "auto") -> DeviceKind:
    """`cuda` where one is there and `auto` or `cuda` was asked, else `cpu`.

    Raises:
        ConfigError: `cuda` was asked for and none is visible, or the name is none of auto, cpu, cuda.
    """
    if name not in get_args(Device):
        raise ConfigError(f"device must be auto, cpu or cuda, got '{name}'.")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device cuda was asked for but torch sees no GPU; use `--device cpu` or install a driver.")
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"


def torch_device(name: DeviceKind) -> torch.device:
    """The torch device of this process; on GPU machines each rank has its own current one."""
    return torch.device("cuda", torch.cuda.current_device()) if name == "cuda" else torch.device("cpu")


def has_fast_bfloat16(device: str | torch.device) -> bool:
    """Whether bfloat16 products are faster than float32 ones here: AVX512-BF16 or AMX on a CPU, Ampere or later on a GPU."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return cpu_has("_is_avx512_bf16_supported") or cpu_has("_is_amx_tile_supported")


@cache
def cpu_has(question: str) -> bool:
    """Answer of one of torch's questions about the processor; no where this torch does not know the question."""
    ask = getattr(torch.cpu, question, None)
    return bool(ask()) if ask else False


def resolve_precision(precision: str, device: str | torch.device) -> torch.dtype:
    """The dtype of the products: what was asked, or bfloat16 where it is fast."""
    if precision == "auto":
        return torch.bfloat16 if has_fast_bfloat16(device) else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Mixed precision for the network; parameters, losses and statistics stay float32."""
    return torch.autocast(device.type, dtype=dtype) if dtype != torch.float32 else nullcontext()
