"""Features of a set of images in the hand, and the files they can be written to.

Shapes: M images, D feature dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from unlabeled.data.in_memory import Images
from unlabeled.data.sources import split_key
from unlabeled.distributed import is_main
from unlabeled.errors import DataError, MissingExtraError
from unlabeled.runfolder import replacing, require_writable, write_text


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
    writers = {".npy": _write_npy, ".npz": _write_npz, ".parquet": _write_parquet}
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


def _write_parquet(path: Path, result: Embedding) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    features = result.features
    values = pa.array(features.reshape(-1).numpy())
    column = pa.FixedSizeListArray.from_arrays(values, features.shape[1])
    names = [name.encode(errors="surrogateescape").decode(errors="replace") for name in result.names]
    with replacing(path) as partial:
        pq.write_table(pa.table({"path": names, "feature": column}), partial)
