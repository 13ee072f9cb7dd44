"""Where tensors live and how precise the products are: one place that looks at the hardware."""

from __future__ import annotations

import ctypes
import os
import sys
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


# Numbers of the options in glibc's <malloc.h>.
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_MAX = -4

_TOP_PAD_BYTES = 256 * 2**20


def use_big_pages_allocator() -> bool:
    """Make glibc's `malloc` keep large blocks instead of returning them; true where it was applied.

    Blocks come from the heap rather than from `mmap`, the heap grows by 256 MiB at a time (which lets the kernel back
    it with huge pages) and never shrinks. The process then holds its peak memory until it ends, which is what a
    training run does anyway. Nothing happens, and false is returned, on anything but Linux with glibc, or where
    `LD_PRELOAD` says that another allocator is already in charge. Only blocks allocated afterwards are affected: call
    it before the first step.
    """
    if not sys.platform.startswith("linux") or "malloc" in os.environ.get("LD_PRELOAD", ""):
        return False
    libc = ctypes.CDLL(None)
    # musl and others have no version function of this name; they may have a `mallopt` that does nothing.
    if not hasattr(libc, "gnu_get_libc_version") or not hasattr(libc, "mallopt"):
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, _TOP_PAD_BYTES))
    return all(libc.mallopt(option, value) == 1 for option, value in settings)
