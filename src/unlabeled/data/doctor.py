"""The data doctor: reads every image once and keeps what is there and what is wrong with it; `findings` puts it in words."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from unlabeled.data.decode import examine
from unlabeled.data.notes import Notes, countable
from unlabeled.data.pixels import Undecodable, ValueRange, sample_pixels, value_range
from unlabeled.data.source import Source, endings_found
from unlabeled.progress import counted

if TYPE_CHECKING:
    from rich.table import Table

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


_EXAMPLES = 3
FEW = 100
"""Images below which training teaches a network next to nothing."""
_DEPTHS = {"uint8": "8 bits", "uint16": "16 bits", "float32": "floating point"}
_CHANNELS = {1: "grey", 3: "RGB"}


def table(doctor: Doctor) -> Table:
    """Counts, as a table for the terminal."""
    from rich.table import Table
    from rich.text import Text

    rows = {
        "images": f"{doctor.total:,}",
        "readable": f"{doctor.readable:,}",
        "unreadable": f"{len(doctor.broken):,}",
        "format": _counted(doctor.formats),
        "bit depth": _counted({f"of {_DEPTHS[depth]}": n for depth, n in doctor.depths.items()}),
        "channels": _counted({_channels(c): n for c, n in doctor.channels.items()}),
        "height": _three(doctor.heights),
        "width": _three(doctor.widths),
        "values": "; ".join(
            f"{_DEPTHS[d]}: {_value(low)} to {_value(high)}" for d, (low, high) in doctor.ranges.items()
        ),
        "blank": f"{len(doctor.blank):,}",
        "exact duplicates": f"{doctor.surplus:,}",
        "other files": f"{sum(doctor.ignored.values()):,}",
    }
    result = Table(title=Text(doctor.source), show_header=False, title_justify="left")
    result.add_column(no_wrap=True)
    result.add_column(overflow="fold")
    for key, value in rows.items():
        # As Text: names of files and formats must never be taken for markup.
        result.add_row(key, Text(value or "–"))
    return result


def sentences(doctor: Doctor) -> list[str]:
    """Findings in plain words, what matters most first; at least one."""
    result: list[str] = []
    if not doctor.readable:
        result.append("No image can be read, so there is nothing to train on.")
    if doctor.broken:
        result.append(_broken(doctor))
    result.extend(_channels_and_depths(doctor))
    if doctor.duplicates:
        twice = "is an exact duplicate of another" if doctor.surplus == 1 else "are exact duplicates of others"
        groups = counted(len(doctor.duplicates), "group")
        result.append(
            f"{doctor.surplus:,} of {_images(doctor.readable)} {twice} ({groups}, for example "
            f"{_some(doctor.duplicates[0])}): they count more than once in training and flatter evaluations."
        )
    result.extend(_pictures(doctor))
    result.extend(doctor.notes.sentences())
    if doctor.ignored:
        result.append(
            f"{counted(sum(doctor.ignored.values()), 'other file')} passed over by the ending: "
            f"{endings_found(Counter(doctor.ignored))}."
        )
    if 0 < doctor.readable < FEW:
        result.append(few(doctor.readable))
    if not result:
        result.append(
            "The image can be read, and nothing stands out."
            if doctor.readable == 1
            else f"All {doctor.readable:,} images can be read, and nothing stands out."
        )
    return result


def few(count: int) -> str:
    """What so few images mean."""
    return (
        f"{_images(count)}: so few teach a network next to nothing, and its clusters will hardly be better than those of an "
        f"untrained one; {FEW:,} are the least, some thousands are good."
    )


def to_json(doctor: Doctor) -> dict[str, Any]:
    """Everything and the sentences, as plain JSON values."""
    return {
        "source": doctor.source,
        "total": doctor.total,
        "readable": doctor.readable,
        "broken": [{"name": name, "reason": reason} for name, reason in doctor.broken],
        "ignored": doctor.ignored,
        "formats": doctor.formats,
        "depths": doctor.depths,
        "channels": {str(c): n for c, n in doctor.channels.items()},
        "heights": dict(zip(("min", "median", "max"), doctor.heights, strict=True)),
        "widths": dict(zip(("min", "median", "max"), doctor.widths, strict=True)),
        "ranges": {depth: list(pair) for depth, pair in doctor.ranges.items()},
        "scaling": {
            kind: {"low": list(r.low), "high": list(r.high), "share_clipped": r.share_clipped}
            for kind, r in doctor.scaling.items()
        },
        "blank": doctor.blank,
        "duplicates": doctor.duplicates,
        "small": doctor.small,
        "odd": doctor.odd,
        "long": doctor.long,
        "notes": doctor.notes.to_json(),
        "sentences": sentences(doctor),
    }


def _pictures(doctor: Doctor) -> list[str]:
    """What is odd about single pictures."""
    result: list[str] = []
    for names, what in (
        (doctor.blank, "blank, every pixel the same: consider removing {them}"),
        (doctor.small, "smaller than 32 pixels on a side"),
        (doctor.odd, "of another size by far: its larger side is under a quarter or over four times the usual one"),
        (doctor.long, "over four times as long as wide: only the middle is used"),
    ):
        if names:
            be, them = ("is", "it") if len(names) == 1 else ("are", "them")
            result.append(f"{_images(len(names))} {be} {what.format(them=them)} ({_some(names)}).")
    return result


def _broken(doctor: Doctor) -> str:
    reasons = Counter(reason.split(":")[0] for _, reason in doctor.broken)
    shown = "; ".join(f"{n:,}: {reason}" for reason, n in reasons.most_common(_EXAMPLES))
    more = f"; {counted(len(reasons) - _EXAMPLES, 'more reason')}" if len(reasons) > _EXAMPLES else ""
    return f"{len(doctor.broken):,} of {_images(doctor.total)} cannot be used and will be skipped ({shown}{more})."


def _channels_and_depths(doctor: Doctor) -> list[str]:
    result: list[str] = []
    if len(doctor.channels) > 1:
        what = "mixed channels: " + _counted({_channels(c): n for c, n in doctor.channels.items()})
        can_mix = set(doctor.channels) == {1, 3}
        most_only = "only those of the most frequent kind can be trained together"
        remedy = "grey ones will be repeated to RGB" if can_mix else most_only
        result.append(f"The images have {what}; {remedy}.")
    if len(doctor.depths) > 1:
        depths = _counted({f"of {_DEPTHS[depth]}": n for depth, n in doctor.depths.items()})
        result.append(f"The images have mixed bit depths: {depths}; their brightness may not compare.")
    for depth in dict.fromkeys(kind.split(" × ")[0] for kind in doctor.scaling):
        low, high = doctor.ranges[depth]
        scales = [scale for kind, scale in doctor.scaling.items() if kind.startswith(f"{depth} ")]
        least, largest = min(min(scale.low) for scale in scales), max(max(scale.high) for scale in scales)
        clipped = 100 * max(scale.share_clipped for scale in scales)
        name = "16-bit" if depth == "uint16" else "Floating-point"
        many = len(scales) > 1 or len(scales[0].low) > 1
        result.append(
            f"{name} images: values {_value(low)}..{_value(high)}, will be scaled to 8 bits from "
            f"{_value(least)}..{_value(largest)}{', each channel by a range of its own within that' if many else ''} "
            f"({'up to ' if len(scales) > 1 else ''}{clipped:.2f} % of the values lie outside and are clipped)."
        )
    return result


def _images(count: int) -> str:
    return counted(count, "image")


def _channels(count: int) -> str:
    return _CHANNELS.get(count, f"{count} channels")


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{n:,} {what}" for what, n in counts.items())


def _three(values: tuple[int, int, int]) -> str:
    low, median, high = values
    return f"{low:,}" if low == high else f"{low:,} to {high:,}, median {median:,}"


def _value(value: float) -> str:
    return f"{value:.6g}"


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:_EXAMPLES])
    return f"{shown}, …" if len(names) > _EXAMPLES else shown
