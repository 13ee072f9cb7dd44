"""The clusters of every epoch of a run, kept (spec O20): stability, sizes and single images can be followed afterwards.

One .npy file a clustering in RUN/assignments, written before the first step of the epoch it is for and before the checkpoint
that follows it: a resumed run finds it, or makes the same one again and writes it over the first.

Shapes: N images, K clusters.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from unlabeled.config import Config
from unlabeled.errors import RunError
from unlabeled.writing import replacing

LIMIT = 2**30
"""Bytes that all files of a run may take together; where all clusterings would take more, every k-th is kept."""


def every(config: Config, num_images: int) -> int:
    """k: the clusterings 0, k, 2 k and so on are kept, 1 (all) where they take no more than `LIMIT` bytes in all.

    Decided from the settings alone, so a resumed run decides the same. Where the number of clusters is found and not set
    it is taken to be N, the most there can be.
    """
    found = config.method == "deepcluster" and config.clustering in ("pic", "cliques")
    width = smallest_type(num_images if found else config.num_clusters).itemsize
    clusterings = -(-max(config.epochs, 1) // config.clustering_period)
    return max(1, -(-clusterings * num_images * width // LIMIT))


def is_kept(config: Config, num_images: int, epoch: int) -> bool:
    """Whether the clustering before `epoch` (from 0) is one of those kept."""
    return (epoch // config.clustering_period) % every(config, num_images) == 0


def smallest_type(num_clusters: int) -> np.dtype[np.signedinteger]:
    """The smallest signed integer that holds -1 (no cluster) to `num_clusters` - 1."""
    return next(
        np.dtype(kind) for kind in (np.int8, np.int16, np.int32, np.int64) if num_clusters - 1 <= np.iinfo(kind).max
    )


def write(folder: Path, epoch: int, labels: torch.Tensor) -> Path:
    """Keep `labels`, int64 [N], as the clustering of `epoch` (from 0; the file counts from 1, as the journal does).

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    path = folder / f"epoch-{epoch + 1:05d}.npy"
    values = labels.cpu().numpy()
    with replacing(path) as partial, partial.open("wb") as file:
        np.save(file, values.astype(smallest_type(int(values.max(initial=-1)) + 1)), allow_pickle=False)
    return path


def epochs(folder: Path) -> list[int]:
    """Epochs, from 1, whose clusters were kept."""
    found = (re.fullmatch(r"epoch-(\d+)\.npy", path.name) for path in folder.glob("epoch-*.npy"))
    return sorted(int(match[1]) for match in found if match)


def rewritten(config: Config, folder: Path, num_images: int, numbers: Sequence[int]) -> list[int] | None:
    """Which of the epochs `numbers`, from 1, began with a clustering, or matched images and codes; None for other methods."""
    if config.method == "nat":
        between = config.permute_every
        return [number for number in numbers if between and (number - 1) % between == 0]
    if config.method != "deepcluster":
        return None
    # What was kept is surer than the settings: a run that was trained on for more epochs skipped one where it once ended.
    kept = epochs(folder) if every(config, num_images) == 1 else []
    return kept or [number for number in numbers if config.clusters_before(number - 1)]


def read(folder: Path, epoch: int) -> torch.Tensor:
    """The clusters [N] int64 that `epoch`, from 1, was trained on, -1 = none: those of the last clustering up to it.

    Raises:
        RunError: none were kept up to this epoch, or the file is damaged.
    """
    kept = [known for known in epochs(folder) if known <= epoch]
    if not kept:
        raise RunError(
            f"{folder} holds no clusters of epoch {epoch} or before it; only DeepCluster makes some while it trains, from epoch 1."
        )
    path = folder / f"epoch-{kept[-1]:05d}.npy"
    try:
        return torch.from_numpy(np.load(path, allow_pickle=False).astype(np.int64))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is damaged ({error}); ask for another epoch, or train again.") from None
