"""A folder as Hugging Face's hub wants it, written without a network: nothing is uploaded, nobody is asked.

Networks that timm has are written for timm (config.json and names are its own), all others for `unlabeled import`.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import yaml
from safetensors.torch import save

from unlabeled.errors import ConfigError, RunError
from unlabeled.weights.export import Exported, Trained, metadata, plain, published, unlike_torchvision
from unlabeled.weights.importing import Normalisation, describe
from unlabeled.writing import write_json, write_text

TIMM: Final = ("resnet18", "resnet50", "resnet101")
"""Our networks that timm has under the same name."""


def require_new_folder(folder: Path) -> None:
    """Refuse a folder that holds something: a model card somebody wrote is not overwritten.

    Raises:
        ConfigError: it does, or it is a file.
        RunError: it cannot be made.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file, and --format hub writes a folder; choose another --out.")
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"{folder} holds files already; give --out a new or empty folder.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make {folder} ({error.strerror}); choose another --out.") from None
    if not os.access(folder.parent, os.W_OK):
        raise RunError(f"cannot write {folder} (its folder is read-only); choose another --out.")


def write_hub(trained: Trained, out: Path, license: str) -> Exported:
    """Write config.json, model.safetensors, preprocessor_config.json and README.md; the folder appears when it is whole.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    is_timm = trained.config.backbone in TIMM and not unlike_torchvision(trained.config, trained.record)
    normalisation: Normalisation = "outside" if is_timm else "inside"
    preprocessing = describe(trained.config, trained.record, normalisation)
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        header = {"format": "pt"} if is_timm else metadata(trained)
        tensors = published(trained) if is_timm else plain(trained.backbone.state_dict())
        (partial / "model.safetensors").write_bytes(save(tensors, header))
        write_json(partial / "config.json", _timm_config(trained) if is_timm else _own_config(trained))
        write_json(partial / "preprocessor_config.json", preprocessing)
        write_text(partial / "README.md", card(trained, license, is_timm, preprocessing["steps"]))
        if out.is_dir():
            out.rmdir()
        os.replace(partial, out)
    except OSError as error:
        raise RunError(
            f"cannot write {out} ({error.strerror or error}); free some space or choose another --out."
        ) from None
    finally:
        with suppress(OSError):
            shutil.rmtree(partial)
    return Exported([out], _loading(trained, is_timm, out.name))


def card(trained: Trained, license: str, is_timm: bool, steps: list[str]) -> str:
    """README.md: the header that the hub reads, then what this is and how it is loaded."""
    header: dict[str, Any] = {
        "license": license,
        "library_name": "timm" if is_timm else "unlabeled",
        "pipeline_tag": "image-feature-extraction",
        "tags": ["self-supervised", "image-feature-extraction", *(["timm"] if is_timm else [])],
    }
    config, backbone = trained.config, trained.backbone
    normalised = "after the normalisation below" if is_timm else "in [0, 1], normalised inside the network"
    numbered = "\n".join(f"{number}. {step}" for number, step in enumerate(steps, start=1))
    return f"""---
{yaml.safe_dump(header, sort_keys=False).strip()}
---

# {config.backbone}: features learned without labels

{trained.kind}. Input: float32 [batch, {trained.record.channels}, {config.image_size}, {config.image_size}] {normalised}. Output: a
feature of {backbone.feature_dim} numbers for each image.

The licence above is that of these weights and is for whoever publishes them to choose; `other` says that nobody has chosen yet.

## Loading

```python
{_loading(trained, is_timm, ".")}
```

## Preprocessing

{numbered}

Mean {list(config.mean or ())}, standard deviation {list(config.std or ())}. `preprocessor_config.json` has the same for programs.
"""


def _loading(trained: Trained, is_timm: bool, folder: str) -> str:
    if not is_timm:
        return f'run = unlabeled.import_weights("{folder}/model.safetensors", out="run"); run.backbone(views)'
    name = trained.config.backbone
    return f'model = timm.create_model("{name}", num_classes=0, checkpoint_path="{folder}/model.safetensors").eval(); model(views)'


def _timm_config(trained: Trained) -> dict[str, Any]:
    config = trained.config
    return {
        "architecture": config.backbone,
        "num_classes": 0,
        "num_features": trained.backbone.feature_dim,
        "global_pool": "avg",
        "pretrained_cfg": {
            "input_size": [3, config.image_size, config.image_size],
            "fixed_input_size": False,
            "interpolation": "bilinear",
            "crop_pct": config.image_size / config.resize,
            "crop_mode": "center",
            "mean": list(config.mean or ()),
            "std": list(config.std or ()),
            "num_classes": 0,
            "pool_size": [-(-config.image_size // 32)] * 2,
            "first_conv": "conv1",
            "classifier": "fc",
        },
    }


def _own_config(trained: Trained) -> dict[str, Any]:
    config = trained.config
    return {
        "architecture": config.backbone,
        "library": "unlabeled",
        "stem": config.stem,
        "normalize": config.normalize,
        "channels": trained.record.channels,
        "image_size": config.image_size,
        "num_features": trained.backbone.feature_dim,
        "mean": list(config.mean or ()),
        "std": list(config.std or ()),
    }
