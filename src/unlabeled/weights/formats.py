"""The formats weights are written in, and what can be said before any are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from unlabeled.config import Config
from unlabeled.errors import ConfigError, MissingExtraError, unknown_name
from unlabeled.runs.images import DataRecord
from unlabeled.weights.export import (
    Exported,
    Trained,
    unlike_torchvision,
    write_onnx,
    write_program,
    write_safetensors,
    write_torchvision,
)
from unlabeled.weights.hub import require_new_folder, write_hub
from unlabeled.writing import require_writable


@dataclass(frozen=True)
class Format:
    """Endings a file of this format may have, and who writes it."""

    endings: tuple[str, ...]
    write: Callable[[Trained, Path], Exported]


FORMATS: Final[dict[str, Format]] = {
    "safetensors": Format((".safetensors",), write_safetensors),
    "torchvision": Format((".pth", ".pt", ".safetensors"), write_torchvision),
    "onnx": Format((".onnx",), write_onnx),
    "torch-export": Format((".pt2",), write_program),
}
"""Formats that are one file; `hub` is a folder."""


def export(trained: Trained, format: str, out: Path, license: str = "other") -> Exported:
    """Write `trained` to `out` in a format of `FORMATS`.

    A file takes the place of an elder one in one move. `license` goes into the model card of `hub` and nowhere else.

    Raises:
        ConfigError: no such format, another ending than the format has, or a network the format cannot hold.
        MissingExtraError: ONNX is not installed.
        RunError: `out` cannot be written, or onnxruntime disagrees with torch.
    """
    check(trained.config, trained.record, format, out)
    if format == "hub":
        return write_hub(trained, out, license)
    return FORMATS[format].write(trained, out)


def check(config: Config, record: DataRecord, format: str, out: Path) -> None:
    """What can be said before any weights are read: see `export`."""
    if format not in (*FORMATS, "hub"):
        raise ConfigError(unknown_name("format", format, (*FORMATS, "hub")))
    if format == "hub":
        require_new_folder(out)
        return
    endings = FORMATS[format].endings
    if out.suffix not in endings:
        raise ConfigError(f"--out of --format {format} must end in {' or '.join(endings)}, got '{out.name}'.")
    if format == "torchvision":
        refusal = unlike_torchvision(config, record)
        if refusal:
            raise ConfigError(f"{refusal}; choose safetensors, onnx or torch-export, which hold every network of ours.")
    if format == "onnx" and any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")):
        raise MissingExtraError("Writing ONNX", "onnx")
    require_writable(out)
