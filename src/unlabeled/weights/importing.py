"""Published weights become a run folder that every verb can use.

The folder has the configuration, the checkpoint and `imported.json`, which says where they came from. The journal is empty:
nothing was trained here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from unlabeled.config import Config
from unlabeled.errors import ConfigError
from unlabeled.runs import checkpoint
from unlabeled.runs.folder import RunFolder
from unlabeled.runs.images import DataRecord
from unlabeled.weights.reading import read
from unlabeled.weights.recognise import Recognised, fit, head_tensors, recognise
from unlabeled.writing import write_json, write_text

DEFAULTS: dict[str, Any] = {"recipe": "imported", "epochs": 0, "batch_size": 32}
"""What a configuration of imported weights begins with; the batch is only embedded, at twice this size."""


@dataclass(frozen=True)
class Imported:
    """Weights read and checked, not yet written: `tensors` are those of a checkpoint."""

    config: Config
    tensors: dict[str, torch.Tensor]
    about: dict[str, Any]
    """For imported.json."""
    images: dict[str, Any]
    """Channels and range of values of the images it was trained on, where they are not 8-bit photographs."""


def read_weights(file: Path, backbone: str | None, settings: Mapping[str, Any]) -> Imported:
    """Read and check a file of weights.

    Args:
        file: see `reading.read`.
        backbone: the network it must be; whichever it is where not given.
        settings: fields of `Config` that win over what the kind says: image_size, resize, mean, std, num_clusters.

    Raises:
        DataError: the file cannot be used.
        ConfigError: it holds another network than `backbone`, or settings do not fit.
    """
    found = recognise(read(file), file)
    own = found.settings["backbone"]
    if backbone is not None and backbone != own:
        raise ConfigError(f"{file} holds {own} ({found.kind}), and --backbone says {backbone}; leave --backbone out.")
    config = _config(found, settings)
    channels = int(found.images.get("channels", 3))
    body = fit(found, config, file, channels)
    tensors = {f"method.backbone.{name}": tensor for name, tensor in body.items()}
    tensors |= {f"method.head.{name}": tensor for name, tensor in head_tensors(found, file).items()}
    tensors |= {f"method.memory.{name}": tensor for name, tensor in found.memory.items()}
    about = {
        "kind": found.kind,
        "file": file.name,
        "sha256": _sha256(file),
        "head": bool(found.head),
        "memory_bank_rows": len(found.memory["bank"]) if found.memory else 0,
        "left_out": list(found.left_out),
    }
    return Imported(config, tensors, about, found.images)


def _config(found: Recognised, settings: Mapping[str, Any]) -> Config:
    wanted = DEFAULTS | found.settings | dict(settings)
    if "image_size" in settings and "resize" not in settings:
        # The same share of the picture as before.
        wanted["resize"] = round(wanted["image_size"] * found.settings["resize"] / found.settings["image_size"])
    # Never enlarge what was stored smaller than it is looked at.
    wanted["store_size"] = max(wanted["store_size"], wanted["resize"], wanted["image_size"])
    return Config().replace(**wanted)


def record_without_images(made: Imported, cache: Path | None) -> DataRecord:
    """RUN/data.json of a run that has no images of its own: how those given to verbs are prepared."""
    eight_bits = {"low": [0.0], "high": [255.0], "share_clipped": 0.0}
    plain = DataRecord.without_images(made.config.store_size, eight_bits, cache)
    return replace(plain, **made.images)


def write(run: RunFolder, made: Imported) -> None:
    """Configuration, origin, an empty journal and the checkpoint.

    Raises:
        RunError: the folder cannot be written.
    """
    checkpoint.save(run.checkpoints, 0, 0, made.tensors, keep=made.config.keep_checkpoints)
    write_json(run.imported, made.about)
    write_text(run.journal, "")
    # The configuration last: it is what makes the folder a run.
    write_text(run.config, made.config.model_dump_json(indent=2) + "\n")


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


Normalisation = Literal["inside", "outside"]


def describe(config: Config, record: DataRecord, normalisation: Normalisation) -> dict[str, Any]:
    """The steps from a decoded picture to the network's input, with every number.

    Keys: `steps` in words, then the numbers in them; `normalisation` says whether the network does it itself.
    """
    size, share = config.image_size, config.image_size / config.resize
    low, high = (list(map(float, record.value_range[key])) for key in ("low", "high"))
    statistics = (
        f"(x - mean) / std, {'each image its own two numbers' if config.normalize == 'image' else 'per channel'}"
    )
    where = "done inside the network" if normalisation == "inside" else "to be done before the network"
    steps = [
        "values: (v - low) / (high - low), clipped to [0, 1]; rounded to 1/255 here and after each resize, as images of 8 bits are",
        f"if the short side is longer than {config.store_size} pixels, resize both sides by {config.store_size} / short side, each "
        "rounded to the nearest pixel (bilinear, antialiased); of a side more than four times the other the ends go first",
        f"cut the central square of round(short side * {share:.6g}) pixels",
        f"resize the square to {size} x {size} pixels (bilinear, antialiased)",
        f"{statistics}: {where}",
    ]
    return {
        "steps": steps,
        "channels": record.channels,
        "value_range": {"low": low, "high": high},
        "short_side": config.store_size,
        "square_share": share,
        "size": size,
        "interpolation": "bilinear",
        "antialias": True,
        "usual_form": f"Resize({config.resize}), CenterCrop({size}): the same square, filtered once instead of twice",
        "input": f"float32 [batch, {record.channels}, {size}, {size}] in [0, 1]",
        "normalisation": normalisation,
        "normalize": config.normalize,
        "mean": list(config.mean or ()),
        "std": list(config.std or ()),
        "stem": config.stem,
    }
