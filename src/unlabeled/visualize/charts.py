"""Line charts, histograms and bars as SVG text, without a plotting library.

Every picture is complete by itself (its colours are plain attributes) and can still be restyled by a page, because a
style sheet wins over attributes: lines carry the classes `line-1`, `line-2` …, levels `level`, the rest `axis`, `grid`,
`tick`, `label`. Lines are told apart by dashes and by the label at their end, never by colour alone; `<title>` and
`<desc>` say the same to a screen reader. Equal input gives equal text.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

FONT = "ui-sans-serif, 'Segoe UI', Roboto, 'Noto Sans', 'Liberation Sans', sans-serif"
# Okabe and Ito's blue and vermilion first: they differ in lightness as well as in hue.
COLOURS = ("#0062a0", "#c24e00", "#00795a", "#8b4a7a")
DASHES = ("", "7 3", "2 3", "9 3 2 3")
INK, MUTED, GRID = "#1c2126", "#5c6670", "#dde1e4"
CHARACTER = 6.1
"""Mean width of a character at 11.5 px, for margins."""
BOLD = 1.32
"""How much wider bold ones are, in the widest of the fonts."""


@dataclass(frozen=True)
class Line:
    """A named curve; points that are None or not finite leave a gap."""

    label: str
    x: Sequence[float]
    y: Sequence[float | None]
    mark: float | None = None
    """Where on the horizontal axis the value is written, with a dot, instead of at the end."""


@dataclass(frozen=True)
class Level:
    """A named horizontal line to compare with."""

    label: str
    value: float


@dataclass(frozen=True)
class Plot:
    """The inner rectangle of a chart and the values at its edges."""

    left: float
    top: float
    width: float
    height: float
    x_low: float
    x_high: float
    y_low: float
    y_high: float

    @property
    def bottom(self) -> float:
        """Where the horizontal axis is."""
        return self.top + self.height

    def x(self, value: float) -> float:
        """Pixels of a value."""
        return self.left + self.width * (value - self.x_low) / (self.x_high - self.x_low)

    def y(self, value: float) -> float:
        """Pixels of a value."""
        return self.top + self.height * (self.y_high - value) / (self.y_high - self.y_low)


def ticks(low: float, high: float, count: int = 5, *, whole: bool = False) -> list[float]:
    """About `count` round numbers, 1, 2 or 5 times a power of ten apart, in [low, high]; `whole` keeps to integers."""
    if not high > low:
        return [low]
    rough = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(m for m, below in ((1, 1.5), (2, 3.5), (5, 7.5), (10, math.inf)) if rough < below * power)
    if whole:
        step = max(1.0, float(round(step)))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def svg(
    lines: Sequence[Line],
    *,
    title: str,
    description: str = "",
    x_label: str = "",
    levels: Sequence[Level] = (),
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float | None, float | None] = (None, None),
    percent: bool = False,
    width: int = 420,
    height: int = 230,
) -> str:
    """A line chart: axes, ticks, curves and levels with their names and last values at the right edge.

    `x_range` is what the horizontal axis reaches at least; `y_range` fixes either end of the vertical axis where it is not
    None; `percent` prints fractions as per cent. With no finite point at all the chart says so.
    """
    points = [
        [(float(x), float(y)) for x, y in zip(line.x, line.y, strict=True) if y is not None and math.isfinite(y)]
        for line in lines
    ]
    levels = [level for level in levels if math.isfinite(level.value)]
    if not any(points):
        return _document(
            [_text(width / 2, height / 2, "no values yet", "label", "middle")], title, description, (width, height)
        )
    x_values = [x for part in points for x, _ in part] + list(x_range or ())
    y_values = [y for part in points for _, y in part] + [level.value for level in levels]
    y_low, y_high = _padded(min(y_values), max(y_values), y_range)
    x_low, x_high = min(x_values), max(x_values)
    if x_low == x_high:
        x_low, x_high = x_low - 0.5, x_high + 0.5
    ends = [
        (
            line.label if line.mark is not None else f"{line.label} {_number(part[-1][1], percent)}",
            part[-1][1],
            f"line-{i % 4 + 1}",
            COLOURS[i % 4],
        )
        for i, (line, part) in enumerate(zip(lines, points, strict=True))
        if part
    ]
    ends += [(f"{level.label} {_number(level.value, percent)}", level.value, "level", MUTED) for level in levels]
    # Common margins, so that charts beside each other line up.
    right = max(120.0, max(len(text) for text, *_ in ends) * CHARACTER * BOLD + 14)
    y_ticks = ticks(y_low, y_high, 4)
    left = max(44.0, max(len(_tick(value, y_ticks, percent)) for value in y_ticks) * CHARACTER + 12)
    plot = Plot(left, 10, width - left - right, height - 10 - (36 if x_label else 22), x_low, x_high, y_low, y_high)
    parts = _axes(plot, y_ticks, percent, x_label)
    for level in levels:
        y = plot.y(level.value)
        parts.append(_rule(plot.left, y, plot.left + plot.width, y, "level", MUTED, "4 3"))
    for i, line in enumerate(lines):
        parts += _curve(plot, line, i)
    parts += _marks(plot, lines, percent)
    parts += _end_labels(plot, ends)
    return _document(parts, title, description, (width, height))


def histogram(
    sizes: Sequence[int], *, title: str, description: str = "", x_label: str = "", width: int = 420, height: int = 230
) -> str:
    """How often each range of whole numbers ≥ 0 occurs: at most about twenty bars over ranges of equal, round width."""
    if not sizes:
        return _document(
            [_text(width / 2, height / 2, "no values yet", "label", "middle")], title, description, (width, height)
        )
    low, high = min(sizes), max(sizes)
    step = max(1, math.ceil((high - low + 1) / 20))
    step = next(s for s in (m * 10**e for e in range(12) for m in (1, 2, 5)) if s >= step)
    first = low // step
    counts = [0] * (high // step - first + 1)
    for size in sizes:
        counts[size // step - first] += 1
    y_ticks = ticks(0, max(counts) * 1.05, 4, whole=True)
    left = max(len(_tick(value, y_ticks, False)) for value in y_ticks) * CHARACTER + 12
    edges = (first * step, (first + len(counts)) * step)
    bottom = 36 if x_label else 22
    plot = Plot(left, 10, width - left - 12, height - 10 - bottom, edges[0], edges[1], 0, max(counts) * 1.05)
    parts = _axes(plot, y_ticks, False, x_label, centre_of=step if step == 1 else 0)
    for i, count in enumerate(counts):
        start = edges[0] + i * step
        x, x_end, y = plot.x(start) + 0.75, plot.x(start + step) - 0.75, plot.y(count)
        name = f"{start}" if step == 1 else f"{start} to {start + step - 1}"
        parts.append(
            f'<rect class="bar" x="{x:.1f}" y="{y:.1f}" width="{max(x_end - x, 0.5):.1f}" '
            f'height="{plot.top + plot.height - y:.1f}" fill="{COLOURS[0]}"><title>{name}: {count}</title></rect>'
        )
    return _document(parts, title, description, (width, height))


def bars(items: Sequence[tuple[str, float]], *, title: str, description: str = "", width: int = 420) -> str:
    """Fractions from 0 to 1 as horizontal bars with their names and values; the last one stands out."""
    row, top = 30, 4
    left = max((len(name) for name, _ in items), default=0) * CHARACTER + 14
    scale = width - left - max((len(f"{100 * value:.1f} %") for _, value in items), default=0) * CHARACTER - 22
    parts: list[str] = []
    for i, (name, value) in enumerate(items):
        y = top + i * row
        last = i == len(items) - 1
        length = scale * min(max(value, 0.0), 1.0)
        parts.append(_text(left - 10, y + 16, name, "label strong" if last else "label", "end"))
        parts.append(f'<rect class="track" x="{left:.1f}" y="{y + 3}" width="{scale:.1f}" height="18" fill="{GRID}"/>')
        parts.append(
            f'<rect class="{"bar" if last else "bar quiet"}" x="{left:.1f}" y="{y + 3}" width="{length:.1f}" '
            f'height="18" fill="{COLOURS[0] if last else "#8d99a3"}"/>'
        )
        parts.append(
            _text(left + scale + 8, y + 16, f"{100 * value:.1f} %", "label strong" if last else "label", "start")
        )
    return _document(parts, title, description, (width, top + row * len(items)))


def against_chance(
    items: Sequence[tuple[str, float, float]], *, title: str, description: str = "", width: int = 440
) -> str:
    """Fractions from 0 to 1 as horizontal bars, each (name, value, chance) with a mark where chance would end."""
    row, top = 30, 4
    left = max((len(name) for name, *_ in items), default=0) * CHARACTER + 14
    ends = [f"{_share(value)}, chance {_share(chance)}" for _, value, chance in items]
    scale = width - left - max(map(len, ends), default=0) * CHARACTER - 22
    parts: list[str] = []
    for i, (name, value, chance) in enumerate(items):
        y = top + i * row
        length, mark = (scale * min(max(one, 0.0), 1.0) for one in (value, chance))
        parts.append(_text(left - 10, y + 16, name, "label", "end"))
        parts.append(f'<rect class="track" x="{left:.1f}" y="{y + 3}" width="{scale:.1f}" height="18" fill="{GRID}"/>')
        parts.append(
            f'<rect class="bar" x="{left:.1f}" y="{y + 3}" width="{length:.1f}" height="18" fill="{COLOURS[0]}"/>'
        )
        # A mark of two strokes is seen on the bar and beside it.
        parts.append(
            f'<rect class="mark" x="{left + mark - 2:.1f}" y="{y}" width="4" height="24" fill="#1c2126" stroke="#ffffff"/>'
        )
        parts.append(_text(left + scale + 8, y + 16, ends[i], "label", "start"))
    return _document(parts, title, description, (width, top + row * len(items)))


def _share(value: float) -> str:
    return f"{100 * max(value, 0.0):.0f} %"


def _padded(low: float, high: float, fixed: tuple[float | None, float | None]) -> tuple[float, float]:
    room = (high - low) * 0.08 or max(abs(high) * 0.1, 0.1)
    low = low - room if fixed[0] is None else min(fixed[0], low)
    high = high + room if fixed[1] is None else max(fixed[1], high)
    return (low, high) if high > low else (low, low + 1)


def _number(value: float, percent: bool) -> str:
    if percent:
        return f"{100 * value:.1f} %" if 0 < abs(value) < 0.1 else f"{100 * value:.0f} %"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _tick(value: float, all_ticks: Sequence[float], percent: bool) -> str:
    scale = 100 if percent else 1
    step = scale * (all_ticks[1] - all_ticks[0]) if len(all_ticks) > 1 else 1.0
    places = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{scale * value:,.{places}f}{' %' if percent else ''}"


def _axes(plot: Plot, y_ticks: Sequence[float], percent: bool, x_label: str, centre_of: float = 0) -> list[str]:
    """Grid, tick labels and the base line; `centre_of` moves tick labels to the middle of bars that wide."""
    parts: list[str] = []
    right, bottom = plot.left + plot.width, plot.bottom
    for value in y_ticks:
        y = plot.y(value)
        parts.append(_rule(plot.left, y, right, y, "grid", GRID))
        parts.append(_text(plot.left - 7, y + 4, _tick(value, y_ticks, percent), "tick", "end"))
    x_ticks = ticks(plot.x_low, plot.x_high, max(2, int(plot.width // 60)), whole=True)
    for value in x_ticks:
        if centre_of and value + centre_of > plot.x_high:
            continue
        x = plot.x(value + centre_of / 2)
        parts.append(_rule(x, bottom, x, bottom + 4, "axis", MUTED))
        parts.append(_text(x, bottom + 16, _tick(value, x_ticks, False), "tick", "middle"))
    parts.append(_rule(plot.left, bottom, right, bottom, "axis", MUTED))
    if x_label:
        parts.append(_text(plot.left + plot.width / 2, bottom + 32, x_label, "tick", "middle"))
    return parts


def _curve(plot: Plot, line: Line, number: int) -> list[str]:
    """One curve in as many pieces as its gaps make, and dots where single points would not be seen."""
    pieces: list[list[tuple[float, float]]] = [[]]
    for x, y in zip(line.x, line.y, strict=True):
        if y is not None and math.isfinite(y):
            pieces[-1].append((plot.x(x), plot.y(y)))
        elif pieces[-1]:
            pieces.append([])
    name, colour, dash = f"line-{number % 4 + 1}", COLOURS[number % 4], dashes_of(number)
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    parts: list[str] = []
    for piece in pieces:
        if len(piece) > 1:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in piece)
            parts.append(
                f'<polyline class="{name}" points="{path}" fill="none" stroke="{colour}" stroke-width="2" '
                f'stroke-linejoin="round" stroke-linecap="round"{dashes}/>'
            )
    few = sum(map(len, pieces)) <= 12
    dots = [point for piece in pieces for point in (piece if few or len(piece) == 1 else piece[-1:])]
    parts += [f'<circle class="{name} dot" cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="{colour}"/>' for x, y in dots]
    return parts


def _marks(plot: Plot, lines: Sequence[Line], percent: bool) -> list[str]:
    """Dots with their values below and to the right of them, where a rising curve leaves room; moved apart if they overlap."""
    found = [
        (plot.x(x), plot.y(y), _number(y, percent), i)
        for i, line in enumerate(lines)
        for x, y in zip(line.x, line.y, strict=True)
        if x == line.mark and y is not None and math.isfinite(y)
    ]
    parts: list[str] = []
    below = -math.inf
    for x, y, words, i in sorted(found, key=lambda one: one[1]):
        below = max(y + 14, below + 14)
        name, colour = f"line-{i % 4 + 1}", COLOURS[i % 4]
        parts.append(f'<circle class="{name} dot" cx="{x:.1f}" cy="{y:.1f}" r="3.6" fill="{colour}"/>')
        parts.append(_text(x + 6, below, words, f"label {name}", "start", colour))
    return parts


def dashes_of(number: int) -> str:
    """Dashes of a curve; the fifth has the colour of the first and other dashes, and so on to the sixteenth."""
    return DASHES[(number + number // 4) % 4]


def _end_labels(plot: Plot, ends: Sequence[tuple[str, float, str, str]]) -> list[str]:
    """Names at the right edge beside their value, moved apart where they would overlap."""
    gap, bottom = 14.0, plot.top + plot.height
    ordered = sorted(ends, key=lambda end: (plot.y(end[1]), end[0]))
    heights = [plot.y(end[1]) for end in ordered]
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + gap)
    for i in reversed(range(len(heights))):
        heights[i] = min(heights[i], bottom if i == len(heights) - 1 else heights[i + 1] - gap)
    return [
        _text(plot.left + plot.width + 8, y + 4, text, f"label {name}", "start", colour)
        for (text, _, name, colour), y in zip(ordered, heights, strict=True)
    ]


def _rule(x1: float, y1: float, x2: float, y2: float, name: str, colour: str, dash: str = "") -> str:
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<line class="{name}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
        f'stroke="{colour}" stroke-width="1"{dashes}/>'
    )


def _text(x: float, y: float, content: str, name: str, anchor: str, colour: str = INK) -> str:
    weight = ' font-weight="600"' if "strong" in name or "line-" in name else ""
    return (
        f'<text class="{name}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="11.5" fill="{colour}"{weight}>'
        f"{escape(content)}</text>"
    )


def _document(parts: Sequence[str], title: str, description: str, size: tuple[int, int]) -> str:
    # The ids must differ between the charts of one page and not between two equal pages.
    key = "chart-" + hashlib.blake2b("".join((title, description, *parts)).encode(), digest_size=5).hexdigest()
    width, height = size
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" aria-labelledby="{key}-t {key}-d" font-family="{FONT}">'
        f'<title id="{key}-t">{escape(title)}</title><desc id="{key}-d">{escape(description)}</desc>'
        f"{''.join(parts)}</svg>"
    )
