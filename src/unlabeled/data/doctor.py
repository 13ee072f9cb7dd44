"""The data doctor: reads every image once and keeps what is there and what is wrong with it; `findings` puts it in words."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass, field

import numpy as np

from unlabeled.data.decode import examine
from unlabeled.data.notes import Notes, countable
from unlabeled.data.pixels import Undecodable, ValueRange, sample_pixels, value_range
from unlabeled.data.source import Source

_SMALL_SIDE = 32
_LONG_RATIO = 4
_ODD_RATIO = 4
_PATIENCE = 0.5
"""Seconds after which the image that is waited for is named."""


@dataclass(frozen=True)
class Finding:
    """What was seen of one image."""

    name: str
    reason: str = ""
    """Why it cannot be decoded; empty if it can."""
    format: str = ""
    depth: str = ""
    """uint8, uint16 or float32."""
    height: int = 0
    width: int = 0
    channels: int = 0
    low: float = 0.0
    high: float = 0.0
    digest: bytes = b""
    """Hash of the file's bytes, or of the array."""
    notes: tuple[str, ...] = ()
    sample: np.ndarray | None = None
    """Some pixels [n, C], of images that are not uint8."""


@dataclass(frozen=True)
class Doctor:
    """Everything `check` found. Sizes in pixels; names as the source gives them."""

    source: str
    total: int
    """Images looked at, and those refused before reading."""
    readable: int
    broken: list[tuple[str, str]]
    """(name, reason), also of what was refused before reading."""
    ignored: dict[str, int]
    """Files of other endings."""
    formats: dict[str, int]
    depths: dict[str, int]
    channels: dict[int, int]
    heights: tuple[int, int, int]
    """Smallest, median, largest."""
    widths: tuple[int, int, int]
    ranges: dict[str, tuple[float, float]]
    """Smallest and largest value of each depth."""
    scaling: dict[str, ValueRange]
    """For each kind of image that is not 8-bit (such as `uint16 × 3`): the values that will become 0 and 255."""
    blank: list[str]
    """Images whose pixels are all the same."""
    duplicates: list[list[str]]
    """Groups of images that are equal byte for byte."""
    small: list[str]
    """Images with a side under 32 pixels."""
    long: list[str]
    """Images more than four times as long as wide, or the other way round."""
    odd: list[str]
    """Images whose larger side is under a quarter or over four times the median one."""
    notes: Notes = field(default_factory=Notes)
    """Of rows, names and pixels: what was left out, replaced or repaired, such as transparency put on white."""

    @property
    def surplus(self) -> int:
        """How many images would have to go for no two to be equal."""
        return sum(len(group) - 1 for group in self.duplicates)


def check(source: Source, *, progress: Callable[[int, str], None] | None = None, workers: int = 0) -> Doctor:
    """Read and decode every image once.

    progress: called with (images done, note) after each image, in the calling thread; the note names an image that takes long.
    workers: threads; 0 means as many as there are processors, at most eight.
    """
    threads = workers or min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        findings = list(_in_order(pool, source, 4 * threads, progress or (lambda _done, _note: None)))
    return _summary(source, findings)


def _in_order(
    pool: ThreadPoolExecutor, source: Source, ahead: int, progress: Callable[[int, str], None]
) -> Iterator[Finding]:
    """Findings in the order of the source, with a bounded number under way so that memory stays bounded too."""

    def first() -> Finding:
        # A slide takes as long as thousands of tiles: the others that are done by then count, and it is named.
        nonlocal done
        while not wait_for([pending[0]], timeout=_PATIENCE).done:
            progress(done + sum(one.done() for one in pending), f"at {source.names[done]}")
        finding = pending.popleft().result()
        done += 1
        progress(done, "")
        return finding

    done = 0
    # One image in so many leaves pixels for the range of values: enough for percentiles, whatever the size of the set.
    sampled_every = max(1, len(source) // 2000)
    pending: deque[Future[Finding]] = deque()
    for index in range(len(source)):
        pending.append(pool.submit(_look_at, source, index, index % sampled_every == 0))
        if len(pending) >= ahead:
            yield first()
    while pending:
        yield first()


def _look_at(source: Source, index: int, keep_sample: bool) -> Finding:
    name = source.names[index]
    try:
        content = source.read(index)
        decoded = examine(content, name, options=source.options)
    except Undecodable as error:
        return Finding(name, error.reason)
    pixels = decoded.pixels
    encoded = content.tobytes() if isinstance(content, np.ndarray) else content
    height, width, channels = pixels.shape
    wants_sample = keep_sample and pixels.dtype != np.uint8
    # Per channel: a picture of one colour is blank though its three channels differ.
    blank = ("blank",) if (pixels == pixels[0, 0]).all() else ()
    return Finding(
        name,
        "",
        decoded.format,
        pixels.dtype.name,
        height,
        width,
        channels,
        float(pixels.min()),
        float(pixels.max()),
        hashlib.blake2b(encoded, digest_size=16).digest(),
        (*blank, *decoded.notes),
        sample_pixels(pixels, 1024).copy() if wants_sample else None,
    )


def _summary(source: Source, findings: list[Finding]) -> Doctor:
    good = [f for f in findings if not f.reason]
    groups: dict[bytes, list[str]] = {}
    for finding in good:
        groups.setdefault(finding.digest, []).append(finding.name)
    notes = Notes().extend([source.notes])
    for finding in good:
        for note in finding.notes:
            if note != "blank":
                notes.add(countable(note, len(source)), finding.name)
    return Doctor(
        source=source.describe(),
        total=len(findings) + len(source.skipped),
        readable=len(good),
        broken=sorted([*source.skipped, *((f.name, f.reason) for f in findings if f.reason)]),
        ignored=dict(source.ignored.most_common()),
        formats=dict(Counter(f.format for f in good).most_common()),
        depths=dict(Counter(f.depth for f in good).most_common()),
        channels=dict(Counter(f.channels for f in good).most_common()),
        heights=_spread([f.height for f in good]),
        widths=_spread([f.width for f in good]),
        ranges={
            depth: (min(f.low for f in good if f.depth == depth), max(f.high for f in good if f.depth == depth))
            for depth in sorted({f.depth for f in good})
        },
        scaling=_scaling([f for f in good if f.channels in _used_channels(good)]),
        blank=[f.name for f in good if "blank" in f.notes],
        duplicates=[group for group in groups.values() if len(group) > 1],
        odd=_odd(good),
        small=[f.name for f in good if min(f.height, f.width) < _SMALL_SIDE],
        long=[f.name for f in good if max(f.height, f.width) > _LONG_RATIO * min(f.height, f.width)],
        notes=notes,
    )


def _odd(good: list[Finding]) -> list[str]:
    sides = [max(f.height, f.width) for f in good]
    middle = float(np.median(sides)) if sides else 0.0
    return [
        f.name for f, side in zip(good, sides, strict=True) if not middle <= _ODD_RATIO * side <= _ODD_RATIO**2 * middle
    ]


def _spread(values: list[int]) -> tuple[int, int, int]:
    return (min(values), int(np.median(values)), max(values)) if values else (0, 0, 0)


def _used_channels(good: list[Finding]) -> set[int]:
    """Channels of the images that can be trained together: the most frequent, and grey beside RGB."""
    counts = Counter(f.channels for f in good)
    most = {channels for channels, _ in counts.most_common(1)}
    return most | ({1, 3} if most & {1, 3} and {1, 3} <= set(counts) else set())


def _scaling(good: list[Finding]) -> dict[str, ValueRange]:
    samples: dict[str, list[np.ndarray]] = {}
    for finding in good:
        if finding.sample is not None:
            samples.setdefault(f"{finding.depth} × {finding.channels}", []).append(finding.sample[None])
    return {kind: value_range(images) for kind, images in sorted(samples.items())}
