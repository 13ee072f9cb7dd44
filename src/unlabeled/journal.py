"""The journal of a run: `metrics.jsonl`, one JSON object a line, written as things happen.

A record says when it was made: `epoch`, and `step` (optimizer steps done in that epoch) if it was made inside the
epoch. A resumed run cuts the journal back to the position of its checkpoint and goes on from there, so its journal is
that of the uninterrupted run.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unlabeled.errors import MissingExtraError, RunError

NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
"""JSON has no such numbers: they are stored as these strings and read back as floats."""


class Journal:
    """Append-only journal at `path`, opened at the beginning of step `step` (from 0) of epoch `epoch`.

    What an existing file holds from before that position is kept: all records of earlier epochs and, if steps of this
    epoch were done already, its records up to that step. Everything else goes: later records, and a last line that a
    killed process left half written. With the default position the journal starts empty.

    With `tensorboard` every number is also written to event files in that folder; this needs the extra `tensorboard`.
    """

    def __init__(self, path: Path, epoch: int = 0, step: int = 0, *, tensorboard: Path | None = None) -> None:
        self.path = path
        self._mirror = _open_mirror(tensorboard) if tensorboard else None
        kept = [record for record in read(path) if _is_before(record, epoch, step)] if path.exists() else []
        # Replaced as a whole: a kill in the middle leaves the old journal, from which the same cut can be made again.
        draft = path.with_name(path.name + ".tmp")
        draft.write_text("".join(map(_line, kept)), encoding="utf-8")
        draft.replace(path)
        self._file = path.open("a", encoding="utf-8")

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record and flush it; values are what JSON knows, and 0-d tensors or NumPy scalars."""
        self._file.write(_line(record))
        self._file.flush()
        if self._mirror is not None:
            for name, value in record.items():
                if isinstance(value, (int, float)) and name not in ("epoch", "step"):
                    self._mirror.add_scalar(name, value, int(record.get("global_step", record.get("epoch", 0))))

    def close(self) -> None:
        """Flush to the disk and close; writing afterwards is an error."""
        if not self._file.closed:
            os.fsync(self._file.fileno())
            self._file.close()
        if self._mirror is not None:
            self._mirror.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read(path: Path) -> list[dict[str, Any]]:
    """All complete records of a journal, in order; a half-written last line is left out.

    Raises `RunError` if the file is missing or a line before the last is damaged.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise RunError(
            f"no journal at {path} ({error.strerror}); give the folder that `unlabeled train --out` wrote."
        ) from None
    # Behind the last line break stands nothing, or what a killed process could not finish.
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            if number == len(lines) - 1:
                break
            raise RunError(f"line {number} of {path} is not a JSON object; remove that line to read the others.")
        records.append({str(name): _revived(value) for name, value in record.items()})
    return records


def _is_before(record: Mapping[str, Any], epoch: int, step: int) -> bool:
    if record.get("epoch", 0) != epoch:
        return record.get("epoch", 0) < epoch
    # A record without a step was made at the end of its epoch. With no step done, nothing of this epoch has happened
    # yet.
    return step > 0 and "step" in record and record["step"] <= step


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(_plain(record), ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return next(
            name for name, number in NOT_FINITE.items() if number == value or (math.isnan(number) and math.isnan(value))
        )
    return value


def _revived(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _revived(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_revived(item) for item in value]
    return NOT_FINITE.get(value, value) if isinstance(value, str) else value


def _open_mirror(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError:
        raise MissingExtraError("Writing TensorBoard events", "tensorboard") from None
    return SummaryWriter(str(folder))
