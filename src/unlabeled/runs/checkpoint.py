"""Checkpoints: one safetensors file each, written atomically, a few kept, no pickle.

A file appears under its final name only when it is complete and on disk, so a kill at any moment leaves the elder ones
as they were. Its header holds where the run stood and a checksum; a damaged newest file is passed over for the one
before it.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from unlabeled.errors import RunError
from unlabeled.writing import make_readable

SUFFIX = ".safetensors"
FORMAT = "2"
"""The checksum covers the header too; in format 1, still read, only the tensors."""
_FIELDS = ("epoch", "step", "extra")


@dataclass
class Checkpoint:
    """What was read back: `tensors` by name, `epoch` and `step` to go on from, and files passed over as damaged."""

    epoch: int
    step: int
    tensors: dict[str, torch.Tensor]
    path: Path
    extra: dict[str, Any] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)


def save(
    folder: Path,
    epoch: int,
    step: int,
    tensors: Mapping[str, torch.Tensor],
    *,
    keep: int,
    extra: Mapping[str, Any] = {},
) -> Path:
    """Write one checkpoint: the state before step `step` of epoch `epoch`. Older ones beyond `keep` are removed after it.

    Raises:
        RunError: the disk is full or the folder cannot be written; earlier checkpoints are untouched.
    """
    # A clone where storage is shared or strided: safetensors stores plain, separate arrays.
    plain = {name: tensor.detach().to("cpu").contiguous().clone() for name, tensor in tensors.items()}
    header = {"format": FORMAT, "epoch": str(epoch), "step": str(step), "extra": json.dumps(dict(extra))}
    header["checksum"] = str(_checksum(plain, header))
    path = folder / f"epoch-{epoch:05d}-step-{step:07d}{SUFFIX}"
    partial = folder / f".{path.name}.{os.getpid()}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_partials(folder)
        save_file(plain, partial, metadata=header)
        make_readable(partial)
        _flush_to_disk(partial)
        os.replace(partial, path)
        _write_latest(folder, path.name)
        _flush_to_disk(folder)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        needed = sum(tensor.nbytes for tensor in plain.values())
        raise RunError(
            f"cannot write a checkpoint of {needed / 1e6:.1f} MB into {folder} ({_reason(error)}); "
            "free some space or make the folder writable, then run `unlabeled resume` on it: what was saved before is intact."
        ) from None
    for old in _files(folder)[:-keep]:
        old.unlink(missing_ok=True)
    return path


def load(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole, or None where there is none at all.

    Raises:
        RunError: there are checkpoints and every one of them is damaged.
    """
    damaged: list[str] = []
    files = _files(folder)
    for path in reversed(files):
        try:
            checkpoint = read(path)
        except RunError as error:
            damaged.append(str(error))
            continue
        checkpoint.damaged = damaged
        return checkpoint
    if damaged:
        raise RunError(
            f"every checkpoint in {folder} is damaged ({'; '.join(damaged)}); start again with `--if-exists replace`."
        )
    return None


def read(path: Path) -> Checkpoint:
    """Read one checkpoint and verify its checksum.

    Raises:
        RunError: the file is cut short, altered, or of another format.
    """
    try:
        if not path.is_file():
            raise RunError(f"{path.name} is no file.")  # a pipe would be waited for
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        raise RunError(f"{path.name} cannot be read: {error}.") from None
    if header.get("format") not in ("1", FORMAT):
        raise RunError(f"{path.name} has checkpoint format {header.get('format')}, this version reads 1 and {FORMAT}.")
    if header.get("checksum") != str(_checksum(tensors, header)):
        raise RunError(f"{path.name} does not match its checksum.")
    try:
        epoch, step, extra = int(header["epoch"]), int(header["step"]), json.loads(header["extra"])
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise RunError(f"{path.name} has a damaged header ({type(error).__name__}).") from None
    if epoch < 0 or step < 0 or not isinstance(extra, dict):
        raise RunError(f"{path.name} has a damaged header (epoch {epoch}, step {step}).")
    return Checkpoint(epoch, step, tensors, path, extra)


def _files(folder: Path) -> list[Path]:
    # Names sort by epoch, then step: the last one is the newest.
    return sorted(folder.glob(f"epoch-*{SUFFIX}"))


def _checksum(tensors: Mapping[str, torch.Tensor], header: Mapping[str, str]) -> int:
    value = 0
    if header.get("format") != "1":
        # Set apart by lengths, so that no character can move from one field to the next.
        told = [header.get(name, "") for name in ("format", *_FIELDS)]
        value = zlib.crc32("".join(f"{len(text)}:{text}" for text in told).encode(errors="surrogateescape"))
    for name in sorted(tensors):
        tensor = tensors[name]
        value = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), value)
        value = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"", value)
    return value


def _remove_partials(folder: Path) -> None:
    """Left by a kill inside an earlier write; only this run writes here, so none of them is in use."""
    for partial in folder.glob(".*.partial"):
        partial.unlink(missing_ok=True)


def _write_latest(folder: Path, name: str) -> None:
    partial = folder / ".latest.partial"
    partial.write_text(name + "\n")
    os.replace(partial, folder / "latest")


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
