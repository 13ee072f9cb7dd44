"""The data doctor's findings as a table, in plain words, and as JSON."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from unlabeled.data.doctor import Doctor
from unlabeled.data.source import endings_found
from unlabeled.progress import counted

if TYPE_CHECKING:
    from rich.table import Table

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
