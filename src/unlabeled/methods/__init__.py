"""The methods of the papers, one file each, and the one place that knows their names."""

from __future__ import annotations

import torch

from unlabeled.config import Config
from unlabeled.errors import ConfigError
from unlabeled.methods.base import Method
from unlabeled.methods.deepcluster import DeepCluster
from unlabeled.methods.instance import InstanceDiscrimination
from unlabeled.methods.nat import NoiseAsTargets
from unlabeled.methods.supervised import ParametricInstance, Supervised
from unlabeled.models import Backbone, build_backbone
from unlabeled.models.sync_batch_norm import convert_sync, freeze_norm
from unlabeled.randomness import generator


def method_class(config: Config) -> type[Method]:
    """Which class carries out `config`."""
    if config.method == "instance" and config.objective == "parametric":
        return ParametricInstance
    return METHODS[config.method]


def build_method(config: Config, num_images: int, channels: int, labels: torch.Tensor | None = None) -> Method:
    """An untrained method as `config` describes it; equal seeds give equal weights on every rank.

    `labels` (int64 [N], -1 = none) reach the supervised control and no other method.

    Raises:
        ConfigError: unknown backbone, settings that do not fit these images, or no labels for the supervised control.
    """
    backbone, kind = build_network(config, channels), method_class(config)
    if kind is Supervised:
        if labels is None:
            raise ConfigError("method = supervised learns from labels and none are given; add `--labels folder`.")
        return Supervised(backbone, labels, config)
    return kind(backbone, num_images, config)  # pyright: ignore[reportArgumentType]


def build_network(config: Config, channels: int) -> Backbone:
    """The untrained backbone alone.

    Raises:
        ConfigError: unknown backbone, or one that cannot take these views.
    """
    backbone = build_backbone(
        config.backbone,
        channels=channels,
        stem=config.stem,
        mean=config.mean,
        std=config.std,
        image_size=config.image_size,
        normalize=config.normalize,
        generator=generator(config.seed, "weights"),
    )
    convert_sync(backbone, config.sync_batch_norm)
    if config.freeze_norm:
        freeze_norm(backbone)
    return backbone


METHODS: dict[str, type[Method]] = {
    "deepcluster": DeepCluster,
    "nat": NoiseAsTargets,
    "instance": InstanceDiscrimination,
    "supervised": Supervised,
}
