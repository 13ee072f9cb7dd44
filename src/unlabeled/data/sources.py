"""Open whatever holds images: a folder, an archive, a list or table of paths, an array, one file."""

from __future__ import annotations

import difflib
import tarfile
import zipfile
from pathlib import Path
from typing import Final

from unlabeled.data.decode import IMAGE_KINDS, kind_of
from unlabeled.data.records import is_cifar, is_idx, open_cifar, open_idx
from unlabeled.data.source import (
    BYTES_LIMIT,
    IMAGE_ENDINGS,
    FileSource,
    Source,
    Subset,
    display_name,
    ending,
    kind_of_entry,
)
from unlabeled.errors import DataError

__all__ = ["BYTES_LIMIT", "Source", "Subset", "open_source", "split_key"]

_ARCHIVES: Final = frozenset(["zip", "tar", "tgz", "gz", "bz2", "tbz", "tbz2", "xz", "txz"])
_TABLES: Final = frozenset({"csv", "tsv", "parquet"})
_LISTS: Final = frozenset({"txt", "lst", "list"})


def open_source(data: str | Path) -> Source:
    """The images of `data`; nothing is decoded yet.

    data: a folder (flat or nested), a zip or tar archive, a text file of paths, a CSV, TSV or Parquet table with a
    column of paths, a `.npy` array, a `.npz` file (`file.npz:key` if it holds several arrays), CIFAR in its binary or its
    Python version (folder, one of its files, or the archive, `cifar-10-python.tar.gz:test_batch`), an IDX file of images
    as MNIST's, or one image file.
    Raises DataError if there is nothing there, or no image in it.
    """
    path, key = split_key(data)
    if path.is_dir():
        if is_cifar(path):
            return open_cifar(path)
        from unlabeled.data.folders import open_folder

        return open_folder(path)
    _require_file(path)
    return _open_file(path, key)


def _open_file(path: Path, key: str) -> Source:
    end = ending(path.name)
    if end not in IMAGE_ENDINGS and is_cifar(path):
        return open_cifar(path, key)
    if end not in IMAGE_ENDINGS and is_idx(path):
        return open_idx(path)
    if end in {"npy", "npz"}:
        from unlabeled.data.arrays import open_array

        return open_array(path, key)
    if end in _TABLES:
        from unlabeled.data.manifests import open_table

        return open_table(path)
    if end not in IMAGE_ENDINGS and (
        end in _ARCHIVES or zipfile.is_zipfile(path) or (end not in _LISTS and tarfile.is_tarfile(path))
    ):
        from unlabeled.data.archives import open_archive

        return open_archive(path)
    with path.open("rb") as file:
        head = file.read(512)
    if end in IMAGE_ENDINGS or kind_of(head) in IMAGE_KINDS:
        return FileSource(path, "file", [path.name], [display_name(path.name)], str(path.parent))
    if end in _LISTS or kind_of(head) == "text":
        from unlabeled.data.manifests import open_list

        return open_list(path)
    raise DataError(
        f"{path} is no image, archive, array, table or list of paths that can be read"
        f"{f' (it looks like {kind_of(head)})' if kind_of(head) else ''}: give a folder of images, for example."
    )


def split_key(data: str | Path) -> tuple[Path, str]:
    """`file.npz:key` or `file.csv:column` into both; a path that exists as it stands has no key."""
    path = Path(data).expanduser()
    text = str(path)
    if not _exists(path) and ":" in text:
        before, _, key = text.rpartition(":")
        if before and _exists(Path(before)):
            return Path(before), key
    return path, ""


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _require_file(path: Path) -> None:
    if path.is_file():
        return
    if _exists(path):
        raise DataError(f"{path} is {kind_of_entry(path.stat().st_mode)}, not a folder or a file.")
    try:
        near = difflib.get_close_matches(path.name, [entry.name for entry in path.parent.iterdir()], n=1)
    except OSError:
        near = []
    hint = f" Did you mean {path.parent / near[0]}?" if near else ""
    raise DataError(f"there is no file or folder {display_name(str(path))}.{hint}")
