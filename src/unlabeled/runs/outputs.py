"""Images and their clusters as rows: a table, or a folder of links for each cluster.

Shapes: M images.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from unlabeled.data.in_memory import Images
from unlabeled.data.source import MARK
from unlabeled.data.sources import Source, split_key
from unlabeled.distributed import is_main
from unlabeled.errors import DataError, MissingExtraError, RunError
from unlabeled.writing import csv_text, replacing, require_writable, write_csv, write_json, write_text


@dataclass(frozen=True)
class Clustered:
    """One image: its cluster, its distance to the cluster's center, whether it is unlike anything seen in training, and how
    unlike (`cluster.novelty`: about 0 is typical, 1 the 95th percentile of training images)."""

    path: str
    cluster: int
    distance: float
    unlike: bool
    novelty: float


COLUMNS = ("path", "cluster", "distance", "unlike", "novelty")
TABLE_ENDINGS = (".csv", ".tsv", ".json", ".parquet")


def clustered(
    names: Sequence[str], cluster: torch.Tensor, distance: torch.Tensor, unlike: torch.Tensor, novelty: torch.Tensor
) -> list[Clustered]:
    """Rows of columns: `cluster` int64 [M], `distance` [M], `unlike` bool [M], `novelty` [M]."""
    columns = (values.tolist() for values in (cluster, distance, unlike, novelty))
    return [Clustered(*row) for row in zip(names, *columns, strict=True)]


def require_table(path: Path) -> None:
    """Refuse an ending that no table has, before anything is computed.

    Raises:
        DataError: another ending than .csv, .tsv, .json and .parquet.
        MissingExtraError: Parquet needs pyarrow.
    """
    if path.suffix.lower() not in TABLE_ENDINGS:
        raise DataError(f"--out must end in {', '.join(TABLE_ENDINGS[:-1])} or {TABLE_ENDINGS[-1]}, got '{path.name}'.")
    if path.suffix.lower() == ".parquet" and find_spec("pyarrow") is None:
        raise MissingExtraError("writing Parquet", "table")


def write_clusters(path: Path, rows: Sequence[Clustered], skipped: Sequence[tuple[str, str]] = ()) -> None:
    """Write clusters in the format of the ending; files that could not be read go into the JSON, else beside the table.

    Raises:
        RunError: the file cannot be written.
    """
    ending = path.suffix.lower()
    table = [(row.path, row.cluster, f"{row.distance:.5f}", int(row.unlike), f"{row.novelty:.4f}") for row in rows]
    if ending == ".json":
        images = [dict(zip(COLUMNS, astuple(row), strict=True)) for row in rows]
        write_json(path, {"images": images, "skipped": [{"path": name, "reason": why} for name, why in skipped]})
        return
    if ending == ".parquet":
        _write_cluster_parquet(path, rows)
    elif ending == ".tsv":
        write_text(path, csv_text(COLUMNS, table, delimiter="\t"))
    else:
        write_csv(path, COLUMNS, table)
    if skipped:
        write_skipped(path, skipped)


def write_skipped(path: Path, skipped: Sequence[tuple[str, str]]) -> Path:
    """`X.skipped.csv` beside the output X: files that could not be read, with the reason."""
    beside = path.with_name(f"{path.name}.skipped.csv")
    write_csv(beside, ("file", "reason"), skipped)
    return beside


def _write_cluster_parquet(path: Path, rows: Sequence[Clustered]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {name: [getattr(row, name) for row in rows] for name in COLUMNS}
    columns["path"] = [name.encode(errors="surrogateescape").decode(errors="replace") for name in columns["path"]]
    with replacing(path) as partial:
        pq.write_table(pa.table(columns), partial)


def locations_of(names: Sequence[str], source: Source) -> list[Path | None]:
    """Where the images of these names are in `source` now; None for one that is no file or not there."""
    found = {name: source.location(i) for i, name in enumerate(source.names)}
    return [found.get(name) for name in names]


def require_sortable(folder: Path) -> None:
    """Refuse a folder that holds something this program did not write.

    Raises:
        DataError: it does, or it is a file.
    """
    if not folder.exists() or (folder / MARK).is_file():
        return
    if not folder.is_dir() or any(folder.iterdir()):
        state = "not empty" if folder.is_dir() else "a file"
        raise DataError(
            f"{folder} is {state} and was not made by --to-folders; give a new or empty folder, or one it made before, "
            "whose links are then made anew."
        )


def sort_into_folders(folder: Path, rows: Sequence[Clustered], locations: Sequence[Path | None]) -> None:
    """Make `folder/cluster-0007/` and so on, with links to the images, or copies where links are not to be had.

    A folder made by an earlier call is made anew: its `cluster-…` folders go, and nothing else in it.

    Raises:
        DataError: the folder holds something else, or an image is no file (but in an array or archive) or not there.
        RunError: the folder cannot be written.
    """
    require_sortable(folder)
    files = [location for location in locations if location is not None and location.is_file()]
    if len(files) < len(rows):
        raise DataError(
            f"--to-folders needs images that are files, and {len(rows) - len(files):,} of {len(rows):,} are not: unpack arrays "
            "and archives first, and put images back that were moved since the training."
        )
    try:
        for old in folder.glob("cluster-*") if folder.is_dir() else ():
            shutil.rmtree(old)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARK).touch()
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


@dataclass(frozen=True, eq=False)
class Embedding:
    """Features of M images: `names` as in their source, `features` float32 [M, D], `skipped` files with the reason."""

    names: list[str]
    features: torch.Tensor
    skipped: list[tuple[str, str]]


def writer(path: Path, data: Images) -> Callable[[Path, Embedding], None]:
    """Who writes the features of `data` to a file of this ending, after a try whether it can be written.

    Raises:
        DataError: the ending is none of .npy, .npz, .parquet, or a file to write is `data` itself.
        MissingExtraError: Parquet needs pyarrow.
        RunError: the file cannot be written.
    """
    writers = {".npy": _write_npy, ".npz": _write_npz, ".parquet": _write_feature_parquet}
    if path.suffix not in writers:
        raise DataError(f"--out must end in .npy, .npz or .parquet, got '{path.name}'.")
    # Said before an hour of embedding, not after it.
    if path.suffix == ".parquet" and find_spec("pyarrow") is None:
        raise MissingExtraError("writing Parquet", "table")
    source = split_key(data)[0] if isinstance(data, (str, Path)) else None
    for file in (path, names_beside(path)) if path.suffix == ".npy" else (path,):
        if source is not None and file.exists() and source.exists() and file.samefile(source):
            raise DataError(f"--out {path} would replace {file}, the images it is made from; choose another name.")
        if is_main():
            require_writable(file)
    return writers[path.suffix]


def names_beside(path: Path) -> Path:
    """Where the names of the rows of `path`, a .npy file, are written: `X.names.txt` beside `X.npy`.

    Not `X.txt`: a list of images of that name may be what the features were made from.
    """
    return path.with_suffix(".names.txt")


def _write_npy(path: Path, result: Embedding) -> None:
    with replacing(path) as partial, partial.open("wb") as file:
        np.save(file, result.features.numpy())
    # One line a name, whatever is in it.
    names = "".join(f"{name.translate({10: '�', 13: '�'})}\n" for name in result.names)
    write_text(names_beside(path), names)


def _write_npz(path: Path, result: Embedding) -> None:
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez(file, features=result.features.numpy(), names=np.array(result.names))


def _write_feature_parquet(path: Path, result: Embedding) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    features = result.features
    values = pa.array(features.reshape(-1).numpy())
    column = pa.FixedSizeListArray.from_arrays(values, features.shape[1])
    names = [name.encode(errors="surrogateescape").decode(errors="replace") for name in result.names]
    with replacing(path) as partial:
        pq.write_table(pa.table({"path": names, "feature": column}), partial)
