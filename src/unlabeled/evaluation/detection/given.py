"""Proposals from a file: what other programs found, for example selective search as published.

Two formats, told by the ending, both with boxes as in VOC's annotations, (x1, y1, x2, y2) counted from 1 with both corners
inside the box, best first where there is an order:

- `.npz`: one array [m, 4] for each picture, under the picture's name (`numpy.savez(file, **{"000012": boxes, ...})`);
- `.json`: one object, picture's name to a list of four numbers each.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unlabeled.data.voc import VocImage
from unlabeled.errors import DataError
from unlabeled.evaluation.detection.proposals import LIMIT


def read_proposals(path: str | Path, images: Sequence[VocImage], *, limit: int = LIMIT) -> list[torch.Tensor]:
    """Intervals float32 [m, 4] for each picture, cut at its border; at most `limit`, in the file's order.

    Raises:
        DataError: the file is not there, not of either format, or has no boxes for a picture.
    """
    file = Path(path)
    table = _table(file)
    result: list[torch.Tensor] = []
    for image in images:
        if image.name not in table:
            raise DataError(
                f"{file} has no proposals for {image.name} (it has {len(table):,} pictures, the split needs {len(images):,}): "
                "compute them for every picture, or leave --proposals out."
            )
        result.append(_boxes(file, image, table[image.name])[:limit])
    return result


def _table(file: Path) -> dict[str, Any]:
    if file.suffix not in (".npz", ".json"):
        raise DataError(f"proposals are read from .npz or .json files, {file} is neither.")
    try:
        if file.suffix == ".json":
            found = json.loads(file.read_text())
            if isinstance(found, dict):
                return {str(name): rows for name, rows in found.items()}
            raise DataError(
                f"{file} must hold one object, picture's name to boxes, and it holds a {type(found).__name__}."
            )
        # Without pickle: a file of proposals runs no code.
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise DataError(f"there is no file of proposals {file}.") from None
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{file} cannot be read as proposals: {' '.join(str(error).split())[:120]}.") from None


def _boxes(file: Path, image: VocImage, rows: Any) -> torch.Tensor:
    try:
        boxes = np.asarray(rows, dtype=np.float64)
        boxes = boxes.reshape(len(boxes), -1) if boxes.size else np.zeros((0, 4))
    except (TypeError, ValueError):
        boxes = np.full((1, 1), np.nan)
    if boxes.size and (boxes.shape[1] != 4 or not np.isfinite(boxes).all()):
        raise DataError(f"{file}: the proposals of {image.name} must be rows of four finite numbers x1, y1, x2, y2.")
    height, width = image.size
    intervals = boxes.reshape(-1, 4) - [1, 1, 0, 0]
    intervals = np.clip(intervals, 0, [width, height, width, height])
    has_area = ((intervals[:, 2:] - intervals[:, :2]) > 0).all(1)
    return torch.from_numpy(intervals[has_area].astype(np.float32))
