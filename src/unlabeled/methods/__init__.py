"""The methods of the papers, one file each, and the one place that knows their names."""

from __future__ import annotations

from unlabeled.config import Config
from unlabeled.methods.base import Method
from unlabeled.methods.deepcluster import DeepCluster
from unlabeled.models import build_backbone
from unlabeled.models.norm import convert_sync
from unlabeled.randomness import generator


def build_method(config: Config, num_images: int, channels: int) -> Method:
    """An untrained method as `config` describes it; equal seeds give equal weights on every rank.

    Raises:
        ConfigError: unknown backbone, or settings that do not fit these images.
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
    return METHODS[config.method](backbone, num_images, config)


METHODS = {"deepcluster": DeepCluster}
