"""A trained backbone in the formats of other programs, each with its preprocessing (`importing.describe`).

| format | file | normalisation | gives |
|---|---|---|---|
| safetensors | .safetensors | inside | the whole backbone; `unlabeled import` reads it back |
| torchvision | .pth, .pt or .safetensors | outside | a state dict for torchvision's own class, strictly |
| onnx | .onnx | inside | one file, any batch size, checked by onnxruntime |
| torch-export | .pt2 | inside | a program for torch.export.load, any batch size |
| hub | folder | outside for timm's networks | see `hub.py` |

Shapes: views [B, C, S, S], features [B, D].
"""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import save

from unlabeled.config import Config
from unlabeled.errors import RunError
from unlabeled.models import Backbone
from unlabeled.runs.images import DataRecord
from unlabeled.weights.importing import Normalisation, describe
from unlabeled.weights.recognise import METADATA_KEY, to_theirs
from unlabeled.writing import replacing, write_json

TORCHVISION: Final = {"resnet18": "resnet18", "resnet50": "resnet50", "resnet101": "resnet101", "vgg16": "vgg16_bn"}
"""Our networks that torchvision has, and what it calls them."""

ONNX_TOLERANCE: Final = 1e-3
"""Largest difference between onnxruntime and torch, as a share of the largest feature, that an export may have."""

_CARRIED: Final = (
    *("method", "backbone", "stem", "normalize", "image_size", "resize", "store_size", "mean", "std"),
    *("precision", "num_clusters", "pca_dims", "whiten", "normalize_rows", "seed", "feature"),
)
"""Settings that say what a feature is and how it is clustered; they go with our own format."""


@dataclass(frozen=True)
class Trained:
    """What is exported: the backbone on the CPU in evaluation mode, and how it came about."""

    backbone: Backbone
    config: Config
    record: DataRecord
    kind: str
    """One clause for people: method, or whose published weights these are."""


@dataclass(frozen=True)
class Exported:
    """What was written, and how it is read elsewhere."""

    files: list[Path]
    loading: str


def unlike_torchvision(config: Config, record: DataRecord) -> str:
    """Why torchvision's class cannot hold this network, one clause; empty where it can."""
    name = config.backbone
    if name not in TORCHVISION:
        return f"torchvision has no network like {name} (it has {', '.join(TORCHVISION)})"
    if config.stem != "rgb" or record.channels != 3:
        own = f"this one sees {record.channels} channels" + (
            f" through a {config.stem} stem" if config.stem != "rgb" else ""
        )
        return f"torchvision's {TORCHVISION[name]} takes three channels as they are, and {own}"
    if config.normalize == "image":
        return "torchvision's preprocessing has fixed means, and this run normalises every image by its own"
    if name == "vgg16" and config.image_size != 224:
        return f"torchvision's vgg16_bn is made for 224 pixels, and this one for {config.image_size}"
    return ""


def plain(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Separate contiguous copies, as files want them."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def metadata(trained: Trained) -> dict[str, str]:
    """Header of our own safetensors: what `unlabeled import` and other programs need to build the network."""
    settings = trained.config.model_dump(mode="json")
    about = {
        "kind": trained.kind,
        "settings": {name: settings[name] for name in _CARRIED},
        "images": {
            "channels": trained.record.channels,
            "is_colour": trained.record.is_colour,
            "value_range": trained.record.value_range,
        },
        "feature_dim": trained.backbone.feature_dim,
    }
    preprocessing = describe(trained.config, trained.record, "inside")
    return {"format": "pt", METADATA_KEY: json.dumps(about), "preprocessing": json.dumps(preprocessing)}


def published(trained: Trained) -> dict[str, torch.Tensor]:
    """The backbone's tensors under the names torchvision and timm give them."""
    return plain(to_theirs(trained.backbone.state_dict(), trained.config.backbone))


def with_identity(trained: Trained) -> dict[str, torch.Tensor]:
    """`published` and a last layer of `num_classes` = D that changes nothing: the network's output is then the feature."""
    tensors, dim = published(trained), trained.backbone.feature_dim
    last = "classifier.6" if trained.config.backbone == "vgg16" else "fc"
    return tensors | {f"{last}.weight": torch.eye(dim), f"{last}.bias": torch.zeros(dim)}


def write_safetensors(trained: Trained, out: Path) -> Exported:
    """Our own names and a header that says what the network is."""
    with replacing(out) as partial:
        partial.write_bytes(save(plain(trained.backbone.state_dict()), metadata(trained)))
    files = [out, _beside(trained, out, "inside")]
    return Exported(files, f"unlabeled import {out} --out RUN, or safetensors.torch.load_file into build_backbone(...)")


def write_torchvision(trained: Trained, out: Path) -> Exported:
    """torchvision's names, for its class of the same network."""
    tensors = with_identity(trained)
    with replacing(out) as partial:
        if out.suffix == ".safetensors":
            preprocessing = json.dumps(describe(trained.config, trained.record, "outside"))
            partial.write_bytes(save(tensors, {"format": "pt", "preprocessing": preprocessing}))
        else:
            torch.save(tensors, partial)
    name = TORCHVISION[trained.config.backbone]
    read = "safetensors.torch.load_file" if out.suffix == ".safetensors" else "torch.load"
    dim = trained.backbone.feature_dim
    loading = f"model = torchvision.models.{name}(num_classes={dim}); model.load_state_dict({read}('{out.name}'))"
    return Exported([out, _beside(trained, out, "outside")], loading)


def write_program(trained: Trained, out: Path) -> Exported:
    """A `torch.export` program."""
    with replacing(out) as partial, _quiet():
        content = io.BytesIO()
        extra = {"preprocessing.json": json.dumps(describe(trained.config, trained.record, "inside"))}
        torch.export.save(_program(trained), content, extra_files=extra)
        partial.write_bytes(content.getbuffer())
    files = [out, _beside(trained, out, "inside")]
    return Exported(files, f"torch.export.load('{out.name}').module()(views)")


def write_onnx(trained: Trained, out: Path) -> Exported:
    """One graph from uint8 or float images to features, checked with onnxruntime."""
    with _quiet():
        program = torch.onnx.export(_program(trained), input_names=["views"], output_names=["features"], verbose=False)
    assert program is not None
    model = program.model_proto
    preprocessing = describe(trained.config, trained.record, "inside")
    for key, value in {"preprocessing": json.dumps(preprocessing), "kind": trained.kind}.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    content = model.SerializeToString()
    difference = _check_onnx(trained, content)
    with replacing(out) as partial:
        partial.write_bytes(content)
    files = [out, _beside(trained, out, "inside")]
    loading = f"onnxruntime.InferenceSession('{out.name}').run(None, {{'views': views}})"
    return Exported(files, f"{loading}; onnxruntime and torch differ by {difference:.1e} of the largest feature")


def _check_onnx(trained: Trained, content: bytes) -> float:
    """Difference from torch at another batch size than the one it was traced with, as a share of the largest feature."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    random = torch.Generator().manual_seed(0)
    views = torch.rand(3, trained.record.channels, *2 * [trained.config.image_size], generator=random)
    with torch.no_grad():
        expected = trained.backbone(views)
    given = torch.from_numpy(session.run(None, {"views": views.numpy()})[0])
    difference = float((given - expected).abs().max() / expected.abs().max().clamp(min=1e-12))
    if given.shape != expected.shape or not difference < ONNX_TOLERANCE:
        raise RunError(
            f"onnxruntime gives features that differ from torch's by {difference:.1e} of the largest, and {ONNX_TOLERANCE:.0e} is "
            "the most allowed; nothing was written, update onnxruntime and onnxscript."
        )
    return difference


def _program(trained: Trained) -> torch.export.ExportedProgram:
    """The network as a graph, for floats in [0, 1] and any batch size."""
    size = trained.config.image_size
    # Two images: a batch of one would be taken for a constant.
    views = torch.zeros(2, trained.record.channels, size, size)
    batch = torch.export.Dim("batch", min=1)
    with torch.no_grad():
        return torch.export.export(trained.backbone, (views,), dynamic_shapes=({0: batch},))


@contextmanager
def _quiet() -> Generator[None]:
    """Without the exporters' remarks to their own developers."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


def _beside(trained: Trained, out: Path, normalisation: Normalisation) -> Path:
    """Write `OUT.preprocessing.json` next to `out`."""
    path = out.with_name(f"{out.name}.preprocessing.json")
    write_json(path, describe(trained.config, trained.record, normalisation))
    return path
