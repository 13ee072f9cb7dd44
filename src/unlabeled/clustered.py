"""Images and their clusters as rows: a CSV, or a folder of links for each cluster.

Shapes: M images.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from unlabeled.data.sources import Source
from unlabeled.errors import DataError, RunError
from unlabeled.runfolder import write_csv


@dataclass(frozen=True)
class Clustered:
    """One image: its cluster, its distance to the cluster's centre, and whether it is unlike anything seen in training."""

    path: str
    cluster: int
    distance: float
    unlike: bool


def clustered(
    names: Sequence[str], cluster: torch.Tensor, distance: torch.Tensor, unlike: torch.Tensor
) -> list[Clustered]:
    """Rows of columns: `cluster` int64 [M], `distance` [M], `unlike` bool [M]."""
    columns = zip(names, cluster.tolist(), distance.tolist(), unlike.tolist(), strict=True)
    return [Clustered(*row) for row in columns]


def write_clusters(path: Path, rows: Sequence[Clustered]) -> None:
    """Write clusters as CSV."""
    table = ((row.path, row.cluster, f"{row.distance:.5f}", int(row.unlike)) for row in rows)
    write_csv(path, ("path", "cluster", "distance", "unlike"), table)


def locations_of(names: Sequence[str], source: Source) -> list[Path | None]:
    """Where the images of these names are in `source` now; None for one that is no file or not there."""
    found = {name: source.location(i) for i, name in enumerate(source.names)}
    return [found.get(name) for name in names]


def require_empty(folder: Path) -> None:
    """Refuse a folder that holds something.

    Raises:
        DataError: it does, or it is a file.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        state = "not empty" if folder.is_dir() else "a file"
        raise DataError(f"{folder} is {state}; give --to-folders a new or empty folder.")


def sort_into_folders(folder: Path, rows: Sequence[Clustered], locations: Sequence[Path | None]) -> None:
    """Make `folder/cluster-0007/` and so on, with links to the images, or copies where links are not to be had.

    Raises:
        DataError: the folder is not empty, or an image is no file (but in an array or archive) or no longer there.
        RunError: the folder cannot be written.
    """
    require_empty(folder)
    files = [location for location in locations if location is not None and location.is_file()]
    if len(files) < len(rows):
        raise DataError(
            f"--to-folders needs images that are files, and {len(rows) - len(files):,} of {len(rows):,} are not: unpack arrays "
            "and archives first, and put images back that were moved since the training."
        )
    try:
        for number, (row, location) in enumerate(zip(rows, files, strict=True)):
            target = folder / f"cluster-{row.cluster:04d}"
            target.mkdir(parents=True, exist_ok=True)
            # The index in front keeps equal names from different folders apart.
            link_or_copy(location.resolve(), target / f"{number:07d}-{location.name}")
    except OSError as error:
        raise RunError(
            f"cannot write {folder} ({error.strerror or error}); free some space or choose another folder."
        ) from None


def link_or_copy(file: Path, link: Path) -> None:
    """A symbolic link to `file`, or a copy where the file system has none."""
    try:
        os.symlink(file, link)
    except (OSError, NotImplementedError):
        shutil.copy2(file, link)
