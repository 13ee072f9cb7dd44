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

from unlabeled.distributed import is_main
from unlabeled.errors import DataError, MissingExtraError
from unlabeled.runfolder import replacing, require_writable, write_text


@dataclass(frozen=True, eq=False)
class Embedding:
    """Features of M images: `names` as in their source, `features` float32 [M, D], `skipped` files with the reason."""

    names: list[str]
    features: torch.Tensor
    skipped: list[tuple[str, str]]


def writer(path: Path) -> Callable[[Path, Embedding], None]:
    """Who writes a file of this ending, after a try whether it can be written.

    Raises:
        DataError: the ending is none of .npy, .npz, .parquet.
        MissingExtraError: Parquet needs pyarrow.
        RunError: the file cannot be written.
    """
    writers = {".npy": _write_npy, ".npz": _write_npz, ".parquet": _write_parquet}
    if path.suffix not in writers:
        raise DataError(f"--out must end in .npy, .npz or .parquet, got '{path.name}'.")
    # Said before an hour of embedding, not after it.
    if path.suffix == ".parquet" and find_spec("pyarrow") is None:
        raise MissingExtraError("writing Parquet", "table")
    if is_main():
        require_writable(path)
    return writers[path.suffix]


def _write_npy(path: Path, result: Embedding) -> None:
    # One line a name, whatever is in it.
    names = "".join(f"{name.translate({10: '�', 13: '�'})}\n" for name in result.names)
    write_text(path.with_suffix(".txt"), names)
    with replacing(path) as partial, partial.open("wb") as file:
        np.save(file, result.features.numpy())


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
