"""Open whatever holds images: a folder, an archive, a list or table of paths, an array, one file."""

from __future__ import annotations

import difflib
import tarfile
import zipfile
from pathlib import Path
from typing import Any, Final

from unlabeled.data.arrays import is_cifar, is_idx, open_cifar, open_idx
from unlabeled.data.frames import FrameSource
from unlabeled.data.in_memory import Images, from_memory
from unlabeled.data.kinds import IMAGE_KINDS, LFS_POINTER, kind_of
from unlabeled.data.reading import ReadOptions
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


def open_source(data: Images, options: ReadOptions | None = None) -> Source:
    """The images of `data`; nothing is decoded yet, unless every frame is to be an image.

    data: a folder (flat or nested), a zip or tar archive, a text file of paths, a CSV, TSV or Parquet table with a
    column of paths, a `.npy` array, a `.npz` file (`file.npz:key` if it holds several arrays), CIFAR in its binary or its
    Python version (folder, one of its files, or the archive, `cifar-10-python.tar.gz:test_batch`), an IDX file of images
    as MNIST's, a Parquet file with embedded pictures (or a folder of its shards), or one image file; or what is in memory:
    an array or tensor, Pillow images, or a list of these and of paths.
    options: what is made of frames and alpha of every image.
    Raises DataError if there is nothing there, or no image in it.
    """
    source = from_memory(data) or _open(data)
    if options is not None:
        source.options = options
    return FrameSource(source) if source.options.frames == "all" else source


def _open(data: Any) -> Source:
    path, key = split_key(data)
    if path.is_dir():
        if is_cifar(path):
            return open_cifar(path)
        from unlabeled.data.files import open_folder

        try:
            return open_folder(path)
        except DataError:
            source = _shards(path)
            if source is None:
                raise
            return source
    _require_file(path)
    return _open_file(path, key)


def _shards(path: Path) -> Source | None:
    if next(path.rglob("*.parquet"), None) is None:
        return None
    from unlabeled.data.embedded import open_embedded

    return open_embedded(path)


def _open_file(path: Path, key: str) -> Source:
    end = ending(path.name)
    with path.open("rb") as file:
        if file.read(23) == b"version https://git-lfs":
            raise DataError(f"{path} is {LFS_POINTER}.")
    if end not in IMAGE_ENDINGS and is_cifar(path):
        return open_cifar(path, key)
    if end not in IMAGE_ENDINGS and is_idx(path):
        return open_idx(path)
    if end in {"npy", "npz"}:
        from unlabeled.data.arrays import open_array

        return open_array(path, key)
    if end in _TABLES:
        from unlabeled.data.files import open_table

        if end == "parquet" and not key:
            from unlabeled.data.embedded import open_embedded

            source = open_embedded(path)
            if source is not None:
                return source
        return open_table(path, key)
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
        from unlabeled.data.files import open_list

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
