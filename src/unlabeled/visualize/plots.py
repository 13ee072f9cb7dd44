"""Charts for files: panels with headings in one SVG, curves with intervals, box plots, bars of classes.

`curves` draws charts for a page that brings its own headings; here a picture has to explain itself: a title, what is on
which axis in words, white behind it. Colours and dashes are those of `curves`. Equal input gives equal text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from unlabeled.visualize.charts import BOLD, CHARACTER, COLOURS, FONT, GRID, INK, MUTED, Plot, dashes_of, ticks

WIDTH, HEIGHT = 420, 250
WHISKER = 1.5
"""Whiskers reach to the last value within so many interquartile ranges of the box."""


@dataclass(frozen=True)
class Panel:
    """One chart with the words above it."""

    heading: str
    chart: str
    note: str = ""


@dataclass(frozen=True)
class Series:
    """Values at named places; `halves` are half the widths of their intervals. None is not known."""

    label: str
    values: Sequence[float | None]
    halves: Sequence[float | None] = ()


@dataclass(frozen=True)
class Box:
    """Five numbers of a box plot and the values beyond its whiskers (thesis figure 4.1)."""

    low: float
    first: float
    median: float
    third: float
    high: float
    outliers: tuple[float, ...]

    @staticmethod
    def of(values: Sequence[float]) -> Box:
        """Quartiles by linear interpolation, whiskers to the last value within 1.5 interquartile ranges of the box."""
        data = np.sort(np.asarray(values, dtype=np.float64))
        first, median, third = (float(np.quantile(data, q)) for q in (0.25, 0.5, 0.75))
        room = WHISKER * (third - first)
        inside = data[(data >= first - room) & (data <= third + room)]
        # A whisker never ends inside the box.
        low, high = min(float(inside[0]), first), max(float(inside[-1]), third)
        return Box(low, first, median, third, high, tuple(float(v) for v in data if v < low or v > high))


def figure(title: str, note: str, panels: Sequence[Panel], *, columns: int = 2) -> str:
    """Panels in a grid below a title, one SVG."""
    columns = max(1, min(columns, len(panels)))
    sizes = [size_of(panel.chart) for panel in panels]
    column = max((width for width, _ in sizes), default=WIDTH)
    edge, gap = 20, 28
    width = max(2 * edge + columns * column + (columns - 1) * gap, 600)
    parts: list[str] = [text(edge, edge + 16, title, size=19, bold=True)]
    y = edge + 26
    for line in wrapped(note, width - 2 * edge):
        y += 17
        parts.append(text(edge, y, line, colour=MUTED, size=12.5))
    y += 16
    for start in range(0, len(panels), columns):
        row = range(start, min(start + columns, len(panels)))
        notes = [wrapped(panels[i].note, column) for i in row]
        head = 24 + 16 * max(map(len, notes))
        for place, i in enumerate(row):
            x = edge + place * (column + gap)
            parts.append(text(x, y + 16, panels[i].heading, size=14, bold=True))
            parts += [text(x, y + 34 + 16 * j, line, colour=MUTED, size=12) for j, line in enumerate(notes[place])]
            parts.append(panels[i].chart.replace("<svg ", f'<svg x="{x}" y="{y + head + 4}" ', 1))
        y += head + 4 + max(sizes[i][1] for i in row) + 22
    height = y + edge - 10
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" font-family="{FONT}"><title>{_clean(title)}</title><desc>{_clean(note)}</desc>'
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>{"".join(parts)}</svg>\n'
    )


def by_category(
    names: Sequence[str],
    series: Sequence[Series],
    *,
    x_label: str,
    percent: bool = True,
    bounded: bool = True,
    width: int = WIDTH,
    height: int = HEIGHT,
) -> str:
    """Values at named places side by side, joined by lines, with intervals where they are known.

    Percentages are shares and stay between 0 and 100 % unless they are not `bounded`, as differences are not.
    """
    reach = [
        value + sign * half
        for one in series
        for value, half in zip(one.values, _halves(one), strict=True)
        if value is not None
        for sign in (-1, 1)
    ]
    # A difference is read against none at all.
    low, high = _bounds(reach if bounded else [*reach, 0.0])
    if percent and bounded:
        low, high = max(0.0, low), min(1.0, high)
    ends = [_end(one, percent) for one in series]
    right = max((len(label) for label, _ in ends if label), default=0) * CHARACTER * BOLD + 20
    frame = Plot(46, 8, width - 46 - right, height - 8 - 40, -0.4, len(names) - 0.6, low, high)
    parts = _grid(frame, percent)
    every = math.ceil(max(len(name) for name in names) * CHARACTER * len(names) / frame.width + 0.1)
    parts += [
        text(frame.x(i), frame.bottom + 16, name, anchor="middle", colour=MUTED)
        for i, name in enumerate(names)
        if i % every == 0
    ]
    parts.append(text(frame.left + frame.width / 2, frame.bottom + 34, x_label, anchor="middle", colour=MUTED))
    for number, one in enumerate(series):
        # Intervals of curves that meet would lie on each other.
        shift = (number - (len(series) - 1) / 2) * 5
        parts += _joined(frame, one, number, shift)
    parts += _names_at_end(frame, ends)
    return chart(parts, width, height)


def trace(
    points: Sequence[tuple[float, float]],
    *,
    x_label: str,
    percent_y: bool = True,
    width: int = WIDTH,
    height: int = HEIGHT,
) -> str:
    """Points (x, y) joined in their order, the first and the last one named so."""
    x_low, x_high = _bounds([x for x, _ in points])
    y_low, y_high = _bounds([y for _, y in points])
    frame = Plot(46, 8, width - 46 - 30, height - 8 - 40, x_low, x_high, y_low, y_high)
    parts = _grid(frame, percent_y)
    values = ticks(x_low, x_high, 6)
    parts += [
        text(frame.x(value), frame.bottom + 16, number(value, values), anchor="middle", colour=MUTED)
        for value in values
    ]
    parts.append(text(frame.left + frame.width / 2, frame.bottom + 34, x_label, anchor="middle", colour=MUTED))
    places = [(frame.x(x), frame.y(y)) for x, y in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS[0]}" stroke-width="1.5"/>')
    parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{COLOURS[0]}"/>' for x, y in places]
    for (x, y), word in zip((places[0], places[-1]), ("first", "last"), strict=True):
        below = y < frame.top + 20
        parts.append(text(x, y + 18 if below else y - 8, word, anchor="middle", bold=True))
    return chart(parts, width, height)


def against(
    groups: Sequence[tuple[str, Sequence[tuple[float, float]]]],
    *,
    x_label: str,
    log: bool = False,
    percent: bool = True,
    width: int = WIDTH,
    height: int = HEIGHT,
) -> str:
    """Points (x, y) of named groups, and a line for each through the means at its values of x.

    With `log` the horizontal axis is logarithmic, and every x must be above 0. Numbers at the axis are those of the points.
    """

    def place(x: float) -> float:
        return math.log10(x) if log else x

    x_low, x_high = _bounds([place(x) for _, points in groups for x, _ in points])
    y_low, y_high = _bounds([y for _, points in groups for _, y in points])
    lines = [(name, _means(points)) for name, points in groups if points]
    ends = [(name, means[-1][1]) for name, means in lines]
    right = max((len(name) for name, _ in ends), default=0) * CHARACTER * BOLD + 20
    frame = Plot(46, 8, width - 46 - right, height - 8 - 40, x_low, x_high, y_low, y_high)
    parts = _grid(frame, percent)
    last = -math.inf
    for x in sorted({x for _, points in groups for x, _ in points}):
        words = f"{x:,.10g}"
        room = len(words) * CHARACTER / 2 + 4
        if frame.x(place(x)) - room < last:
            continue
        last = frame.x(place(x)) + room
        parts.append(line(frame.x(place(x)), frame.bottom, frame.x(place(x)), frame.bottom + 4, MUTED))
        parts.append(text(frame.x(place(x)), frame.bottom + 16, words, anchor="middle", colour=MUTED))
    words = f"{x_label} (logarithmic)" if log else x_label
    parts.append(text(frame.left + frame.width / 2, frame.bottom + 34, words, anchor="middle", colour=MUTED))
    for number, (_, means) in enumerate(lines):
        colour, dash = COLOURS[number % 4], dashes_of(number)
        path = " ".join(f"{frame.x(place(x)):.1f},{frame.y(y):.1f}" for x, y in means)
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>')
    for number, points in enumerate(points for _, points in groups if points):
        parts += [
            f'<circle cx="{frame.x(place(x)):.1f}" cy="{frame.y(y):.1f}" r="3.4" fill="{COLOURS[number % 4]}"/>'
            for x, y in points
        ]
    return chart(parts + _names_at_end(frame, ends), width, height)


def _means(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    # The mean y at every x, by x.
    found: dict[float, list[float]] = {}
    for x, y in points:
        found.setdefault(x, []).append(y)
    return [(x, sum(found[x]) / len(found[x])) for x in sorted(found)]


def boxes(groups: Sequence[tuple[str, Sequence[float]]], *, chance: float | None = None, height: int = 300) -> str:
    """Box plots of fractions beside each other; a dashed line where chance would lie."""
    width = 90 + 150 * len(groups) + (70 if chance is not None else 0)
    everything = [value for _, values in groups for value in values] + ([] if chance is None else [chance])
    low, high = _bounds(everything)
    room = 90 if chance is not None else 20
    frame = Plot(52, 8, width - 52 - room, height - 8 - 28, -0.5, len(groups) - 0.5, max(low, 0.0), min(high, 1.0))
    parts = _grid(frame, percent=True)
    if chance is not None:
        y = frame.y(chance)
        parts.append(line(frame.left, y, frame.left + frame.width, y, MUTED, dash="4 3"))
        parts.append(text(frame.left + frame.width + 6, y + 4, f"chance {100 * chance:.1f} %", colour=MUTED))
    for i, (name, values) in enumerate(groups):
        parts += _box(frame, frame.x(i), Box.of(values))
        parts.append(text(frame.x(i), frame.bottom + 18, name, anchor="middle"))
    return chart(parts, width, height)


def ranked(items: Sequence[tuple[str, float]], *, first: bool = True, width: int = 300) -> str:
    """Names with bars, a fraction each, longest possible bar 1; with `first` the first one is apart from the others."""
    row, left = 22, 118
    scale = width - left - 56
    parts: list[str] = []
    for i, (name, value) in enumerate(items):
        y = i * row + (5 if first and i else 0)
        own = first and i == 0
        parts.append(
            text(left - 8, y + 15, shortened(name, (left - 10) / (BOLD if own else 1)), anchor="end", bold=own)
        )
        parts.append(rectangle(left, y + 3, scale, row - 6, GRID))
        parts.append(
            rectangle(left, y + 3, scale * min(max(value, 0.0), 1.0), row - 6, "#8d99a3" if own else COLOURS[0])
        )
        parts.append(text(left + scale + 6, y + 15, f"{100 * value:.1f} %"))
    return chart(parts, width, row * len(items) + 6)


def _grid(frame: Plot, percent: bool) -> list[str]:
    # Lines and numbers of the vertical axis, and the base line.
    scale = 100 if percent else 1
    values = ticks(scale * frame.y_low, scale * frame.y_high, 5)
    parts: list[str] = []
    for value in values:
        y = frame.y(value / scale)
        parts.append(line(frame.left, y, frame.left + frame.width, y, GRID))
        label = number(value, values) + (" %" if percent else "")
        parts.append(text(frame.left - 7, y + 4, label, anchor="end", colour=MUTED))
    return [*parts, line(frame.left, frame.bottom, frame.left + frame.width, frame.bottom, MUTED)]


def _joined(frame: Plot, one: Series, place: int, shift: float) -> list[str]:
    colour, dash = COLOURS[place % 4], dashes_of(place)
    known = [
        (frame.x(i) + shift, value, half)
        for i, (value, half) in enumerate(zip(one.values, _halves(one), strict=True))
        if value is not None
    ]
    path = " ".join(f"{x:.1f},{frame.y(value):.1f}" for x, value, _ in known)
    parts = [
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"'
        f"{f' stroke-dasharray={chr(34)}{dash}{chr(34)}' if dash else ''}/>"
    ]
    for x, value, half in known:
        y = frame.y(value)
        if half:
            top, bottom = (frame.y(min(max(value + sign * half, frame.y_low), frame.y_high)) for sign in (1, -1))
            parts.append(line(x, top, x, bottom, colour, width=1.5))
            parts += [line(x - 4, end, x + 4, end, colour, width=1.5) for end in (top, bottom)]
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.4" fill="{colour}"/>')
    return parts


def _names_at_end(frame: Plot, ends: Sequence[tuple[str, float]]) -> list[str]:
    """Names at the right edge beside their last value, moved apart where they would overlap."""
    gap = 14.0
    order = sorted((frame.y(value), i) for i, (label, value) in enumerate(ends) if label)
    heights = [y for y, _ in order]
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + gap)
    for i in reversed(range(len(heights))):
        limit = frame.bottom if i == len(heights) - 1 else heights[i + 1] - gap
        heights[i] = min(heights[i], limit)
    return [
        text(frame.left + frame.width + 8, y + 4, ends[i][0], colour=COLOURS[i % 4], bold=True)
        for y, (_, i) in zip(heights, order, strict=True)
    ]


def _end(one: Series, percent: bool) -> tuple[str, float]:
    known = [value for value in one.values if value is not None]
    if not known:
        return "", 0.0
    return f"{one.label} {f'{100 * known[-1]:.1f} %' if percent else f'{known[-1]:.3g}'}", known[-1]


def _halves(one: Series) -> list[float]:
    return [half or 0.0 for half in one.halves] if one.halves else [0.0] * len(one.values)


def _box(frame: Plot, x: float, box: Box) -> list[str]:
    half = 26
    top, bottom = frame.y(box.third), frame.y(box.first)
    parts = [line(x, frame.y(box.high), x, top, INK), line(x, bottom, x, frame.y(box.low), INK)]
    parts += [line(x - half / 2, frame.y(end), x + half / 2, frame.y(end), INK) for end in (box.low, box.high)]
    parts.append(
        f'<rect x="{x - half:.1f}" y="{top:.1f}" width="{2 * half}" height="{max(bottom - top, 0.5):.1f}" fill="#ffffff" '
        f'stroke="{INK}"/>'
    )
    parts.append(line(x - half, frame.y(box.median), x + half, frame.y(box.median), COLOURS[1], width=3))
    parts += [
        f'<circle cx="{x:.1f}" cy="{frame.y(value):.1f}" r="3" fill="none" stroke="{INK}"/>' for value in box.outliers
    ]
    parts.append(text(x + half + 5, frame.y(box.median) + 4, f"{100 * box.median:.1f} %", colour=COLOURS[1], bold=True))
    return parts


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = 0.08 * (high - low) or 0.1 * abs(high) or 0.1
    return low - room, high + room


def number(value: float, values: Sequence[float]) -> str:
    """A tick with as many places as the step between `values` needs."""
    step = values[1] - values[0] if len(values) > 1 else abs(value) or 1.0
    return f"{value:,.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"


def chart(parts: Sequence[str], width: int, height: int) -> str:
    """Parts as one SVG."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="{FONT}">{"".join(parts)}</svg>'
    )


def line(x1: float, y1: float, x2: float, y2: float, colour: str, *, width: float = 1, dash: str = "") -> str:
    """A straight stroke."""
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width:g}"{dashes}/>'


def rectangle(x: float, y: float, width: float, height: float, colour: str) -> str:
    """A filled one."""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}"/>'


def text(
    x: float, y: float, words: str, *, anchor: str = "start", colour: str = INK, size: float = 11.5, bold: bool = False
) -> str:
    """Words on one line; whatever is in them stays text."""
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size:g}" fill="{colour}"{weight}>'
        f"{_clean(words)}</text>"
    )


def wrapped(words: str, width: float) -> list[str]:
    """Words in lines of about this many pixels."""
    most = max(20, int(width / (CHARACTER * 1.06)))
    lines: list[str] = []
    for word in words.split():
        if lines and len(lines[-1]) + 1 + len(word) <= most:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def shortened(name: str, width: float) -> str:
    """A name that fits into this many pixels."""
    most = max(4, int(width / CHARACTER))
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _clean(words: str) -> str:
    # XML takes no control characters, and names may hold bytes that are no text.
    words = words.encode(errors="surrogateescape").decode(errors="replace")
    return escape(re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]", " ", words))


def size_of(svg: str) -> tuple[int, int]:
    """Width and height of a chart, pixels."""
    found = re.search(r'width="(\d+)" height="(\d+)"', svg)
    assert found is not None
    return int(found[1]), int(found[2])
