"""What every protocol is asked with, whichever it is."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from unlabeled.errors import DataError
from unlabeled.evaluation.result_cache import Partial
from unlabeled.runs.images import NO_IMAGES
from unlabeled.runs.opened import OpenedRun


@dataclass(frozen=True)
class Request:
    """One `evaluate` call."""

    data: Path
    """Images to score on."""
    labels: str
    """Where their labels are: `folder`, a table or an array file."""
    test: Path | None
    """Images of the final score; None holds a part of `data` out."""
    quick: bool
    """Whether a minute or two on two cores is all there is: less data, fewer epochs, the same steps."""
    partial: Partial
    """Results of an earlier call that was stopped."""


_shared: ContextVar[Path | None] = ContextVar("shared", default=None)


@contextmanager
def one_untrained_network(folder: Path | None) -> Generator[None]:
    """Inside, runs that began as the same network share what it got before training, kept in `folder`, and it is evaluated once.

    Without a folder each run evaluates its own.
    """
    token = _shared.set(folder)
    try:
        yield
    finally:
        _shared.reset(token)


_SEEN = (
    *("backbone", "stem", "normalize", "mean", "std", "feature"),
    *("image_size", "resize", "store_size", "precision", "seed"),
)
"""Settings that say what the network makes of an image before it is trained, and how protocols draw."""


def _start(run: OpenedRun) -> str:
    """Digest of the network before its first step and of how protocols show it images."""
    record, found = run.record, blake2b(digest_size=8)
    seen = [getattr(run.config, name) for name in _SEEN]
    found.update(repr((seen, record.channels, record.is_colour, record.value_range)).encode())
    for name, tensor in run.untrained_backbone().state_dict().items():
        found.update(f"{name}{tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def request(
    run: OpenedRun,
    protocol: str,
    data: str | Path | None,
    labels: str,
    test: str | Path | None,
    quick: bool,
    options: Mapping[str, Any],
) -> Request:
    """What a call of `Run.evaluate` asks; without `data` it asks about the training images.

    Raises:
        DataError: there are none, or they are no longer where they were.
    """
    place = str(data or run.record.data)
    if place == NO_IMAGES:
        raise DataError(f"{run.path} was imported without images: give DATA, labelled images, to evaluate it on.")
    if place == run.record.data:
        run.record.require()
    # The weights belong to the question: a run that went on training is asked anew.
    weights = [file.name for file in sorted(run.folder.checkpoints.glob("*.safetensors"))]
    asked = (place, labels, str(test), quick, sorted(options.items()))
    key = _digest(protocol, asked, weights)
    kept = run.folder.evaluation / f"{protocol}-{key}" if os.access(run.path, os.W_OK) else None
    shared = _shared.get()
    untrained = shared / f"{protocol}-{_digest(protocol, asked, _start(run))}" if shared else None
    return Request(Path(place), labels, Path(test) if test else None, quick, Partial(kept, untrained))


def _digest(*parts: object) -> str:
    return blake2b(repr(parts).encode(), digest_size=4).hexdigest()
