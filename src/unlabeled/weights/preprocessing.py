"""What an image has to go through before exported weights, so that a feature made elsewhere is the one made here.

Every export carries this beside it as JSON. Values in [0, 1] are the one convention: normalisation is inside the files that hold
our whole network (safetensors, ONNX, torch.export) and outside those that hold somebody else's (torchvision, timm).
"""

from __future__ import annotations

from typing import Any, Literal

from unlabeled.config import Config
from unlabeled.images import DataRecord

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
