"""The journal of a run: `metrics.jsonl`, one JSON object a line, written at the end of every epoch.

A record says whose it is: `epoch`, counted from 1. A resumed run cuts the journal back to the epochs that its
checkpoint has behind it and goes on from there, so its journal is that of the uninterrupted run.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from unlabeled.distributed import is_main
from unlabeled.errors import MissingExtraError, RunError, typed

NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
"""JSON has no such numbers: they are stored as these strings and read back as floats."""


class Journal:
    """Append-only journal at `path`, opened when `epochs_done` epochs are behind.

    What an existing file holds of those epochs is kept. Everything else goes: later records, and a last line that a
    killed process left half written. By default the journal starts empty.

    Every rank may hold one: `records` is the same everywhere, the file is the main rank's. With `tensorboard` every
    number is also written to event files in that folder; this needs the extra `tensorboard`.
    """

    def __init__(self, path: Path, epochs_done: int = 0, *, tensorboard: Path | None = None) -> None:
        self.path = path
        self._file: TextIO | None = None
        self._mirror = _open_mirror(tensorboard, epochs_done + 1) if tensorboard and is_main() else None
        found = read(path) if path.exists() else []
        self._records = [record for record in found if _epoch(record) <= epochs_done]
        if is_main():
            # Replaced as a whole: a kill in the middle leaves the old journal, which can be cut again.
            draft = path.with_name(path.name + ".tmp")
            with _in_words(path):
                draft.write_text("".join(map(_line, self._records)), encoding="utf-8")
                draft.replace(path)
                self._file = path.open("a", encoding="utf-8")

    @property
    def records(self) -> list[dict[str, Any]]:
        """Everything the journal holds, oldest first."""
        return list(self._records)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append the record of an epoch and flush it; values are what JSON knows, and 0-d tensors or NumPy scalars."""
        line = _line(record)
        self._records.append(_parsed(line.encode()) or {})
        if self._file is not None:
            with _in_words(self.path):
                self._file.write(line)
                self._file.flush()
        if self._mirror is not None:
            for name, value in self._records[-1].items():
                if isinstance(value, (int, float)) and name != "epoch":
                    self._mirror.add_scalar(name, value, int(record["epoch"]))

    def close(self) -> None:
        """Flush to the disk and close; writing afterwards is an error."""
        if self._file is not None and not self._file.closed:
            with _in_words(self.path):
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
        record = _parsed(line)
        if record is not None:
            records.append(record)
        elif number < len(lines) - 1:
            raise RunError(f"line {number} of {path} is not a JSON object; remove that line to read the others.")
    return records


NUMBERS = ("epoch", "loss", "lr", "seconds", "images_per_second")
TEXTS = ("status", "verdict")
"""What every record of an epoch has."""


def epochs(path: Path, *, whole: bool = True) -> list[dict[str, Any]]:
    """The records of a run's epochs, each with everything a record of an epoch has; at least its number if not `whole`.

    Raises:
        RunError: the file is missing, a line is damaged or lacks something.
    """
    records = read(path)
    for number, record in enumerate(records, start=1):
        numbers, words = (NUMBERS, TEXTS) if whole else (("epoch",), ())
        wrong = [name for name in numbers if not isinstance(record.get(name), (int, float))]
        wrong += [name for name in words if not isinstance(record.get(name), str)]
        texts = [
            name for name, value in record.items() if name not in TEXTS and (value is None or isinstance(value, str))
        ]
        if wrong or (whole and texts):
            raise RunError(
                f"line {number} of {path} is damaged ({', '.join([*wrong, *texts])} missing or of another type); remove that line, "
                "or put the file back from a copy."
            )
    return records


def _epoch(record: Mapping[str, Any]) -> float:
    # A record without a whole number is of no epoch that is kept.
    epoch = record.get("epoch", 0)
    return epoch if isinstance(epoch, int) else math.inf


@contextmanager
def _in_words(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(
            f"cannot write {path} ({error.strerror or error}); free some space or make the folder writable, then run "
            f"`unlabeled resume {typed(path.parent)}`: what was saved before is intact."
        ) from None


def _parsed(line: bytes) -> dict[str, Any] | None:
    # None for what is not a JSON object.
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return {str(name): _revived(value) for name, value in record.items()} if isinstance(record, dict) else None


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


def _open_mirror(folder: Path, epoch: int) -> Any:
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError:
        raise MissingExtraError("Writing TensorBoard events", "tensorboard") from None
    # What an interrupted run wrote of this epoch and later is written again.
    return SummaryWriter(str(folder), purge_step=epoch)
