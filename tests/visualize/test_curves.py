from __future__ import annotations

import math
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from unlabeled.visualize import charts
from unlabeled.visualize.charts import Level, Line, ticks

SVG = "{http://www.w3.org/2000/svg}"


def parsed(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)


def texts(root: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in root.iter(f"{SVG}text")]


@settings(derandomize=True, deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 10))
def test_ticks_are_round_inside_and_about_as_many_as_wanted(low: float, room: float, count: int) -> None:
    values = ticks(low, low + room, count)
    assume(room > 1e-7 * abs(low))  # closer together than that, no axis can print them
    slack = 1e-6 * room + 1e-9 * abs(low)
    assert all(low - slack <= value <= low + room + slack for value in values)
    assert len(values) <= 2 * count + 2
    assert len(values) >= count // 2 - 1
    if len(values) > 1:
        step = values[1] - values[0]
        leading = step / 10 ** math.floor(math.log10(step * 1.000001))
        assert min(abs(leading - m) for m in (1, 2, 5, 10)) < 1e-3  # 10: rounding just below a power


def test_ticks_by_hand() -> None:
    assert ticks(0, 1, 4) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(1, 40, 6) == [5, 10, 15, 20, 25, 30, 35, 40]
    assert ticks(0, 3, 10, whole=True) == [0, 1, 2, 3]
    assert ticks(2, 2) == [2]


def test_points_lie_where_the_ticks_say() -> None:
    root = parsed(charts.svg([Line("a", [0, 5, 10], [0.0, 0.5, 1.0])], title="t", y_range=(0, 1)))
    points = next(root.iter(f"{SVG}polyline")).get("points", "")
    (x0, y0), (x1, y1), (x2, y2) = [tuple(map(float, pair.split(","))) for pair in points.split()]
    assert x1 == pytest.approx((x0 + x2) / 2, abs=0.11)
    assert y1 == pytest.approx((y0 + y2) / 2, abs=0.11)
    labels = {element.text: float(element.get("y", 0)) - 4 for element in root.iter(f"{SVG}text")}
    assert labels["0.0"] == pytest.approx(y0, abs=0.11)
    assert labels["1.0"] == pytest.approx(y2, abs=0.11)


def test_lines_carry_name_and_last_value_and_levels_too() -> None:
    root = parsed(charts.svg([Line("loss", [1, 2], [4.0, 2.5])], title="t", levels=[Level("guessing", math.log(100))]))
    assert "loss 2.5" in texts(root)
    assert "guessing 4.61" in texts(root)
    assert any("stroke-dasharray" in line.attrib for line in root.iter(f"{SVG}line") if line.get("class") == "level")


def test_a_value_is_written_where_it_is_marked() -> None:
    lines = [Line("a", [1, 2, 3], [0.2, 0.5, 1.0], mark=2), Line("b", [1, 2, 3], [0.51, 0.52, 1.0], mark=2)]
    root = parsed(charts.svg(lines, title="t", y_range=(0, 1), percent=True))
    assert {"50 %", "52 %", "a", "b"} <= set(texts(root)) and "a 100 %" not in texts(root)
    places = {t.text: (float(t.get("x", 0)), float(t.get("y", 0))) for t in root.iter(f"{SVG}text")}
    assert places["50 %"][1] - places["52 %"][1] >= 13.9
    dots = [dot for dot in root.iter(f"{SVG}circle") if dot.get("r") == "3.6"]
    assert len(dots) == 2 and all(float(dot.get("cx", 0)) == places["50 %"][0] - 6 for dot in dots)


def test_lines_differ_by_more_than_colour() -> None:
    root = parsed(charts.svg([Line("a", [1, 2], [1, 2]), Line("b", [1, 2], [2, 1])], title="t"))
    first, second = root.iter(f"{SVG}polyline")
    assert first.get("stroke-dasharray") != second.get("stroke-dasharray")


def test_end_labels_do_not_overlap_and_stay_inside() -> None:
    lines = [Line(name, [1, 2], [1.0, 1.0 + i * 0.001]) for i, name in enumerate("abcd")]
    root = parsed(charts.svg(lines, title="t", levels=[Level("e", 0.99)], height=200))
    heights = sorted(float(t.get("y", 0)) for t in root.iter(f"{SVG}text") if "label" in t.get("class", ""))
    assert len(heights) == 5
    assert min(np.diff(heights)) >= 13.9
    assert heights[0] > 0
    assert heights[-1] < 200


def test_numbers_that_are_not_finite_leave_gaps() -> None:
    values = [1.0, 2.0, math.nan, 3.0, None, math.inf, 4.0, 5.0]
    text = charts.svg([Line("a", list(range(8)), values)], title="t")
    root = parsed(text)
    assert len(list(root.iter(f"{SVG}polyline"))) == 2
    assert "nan" not in text.replace("Noto Sans", "")
    assert "inf" not in text


@pytest.mark.parametrize("values", [[], [None], [math.nan]])
def test_without_values_the_chart_says_so(values: list[float | None]) -> None:
    root = parsed(charts.svg([Line("a", list(range(len(values))), values)], title="t"))
    assert texts(root) == ["no values yet"]
    assert texts(parsed(charts.histogram([], title="t"))) == ["no values yet"]


@pytest.mark.parametrize("values", [[0.0], [5.0, 5.0], [1e-9, 2e-9], [-3.0, 1e7], [0.0, 0.0, 0.0]])
def test_degenerate_ranges_stay_inside_the_picture(values: list[float]) -> None:
    root = parsed(charts.svg([Line("a", list(range(len(values))), values)], title="t"))
    for dot in root.iter(f"{SVG}circle"):
        assert 0 <= float(dot.get("cx", -1)) <= 420
        assert 0 <= float(dot.get("cy", -1)) <= 230


def test_hostile_text_stays_text_and_ids_differ() -> None:
    evil = "<script>alert(1)</script>\"'&"
    text = charts.svg([Line(evil, [1, 2], [1, 2])], title=evil, description=evil, x_label=evil)
    root = parsed(text)
    assert not list(root.iter(f"{SVG}script"))
    assert next(root.iter(f"{SVG}title")).text == evil
    other = charts.svg([Line("b", [1, 2], [1, 2])], title="other")
    assert root.get("aria-labelledby") != parsed(other).get("aria-labelledby")


def test_histogram_counts_every_value_once() -> None:
    sizes = np.random.default_rng(0).geometric(0.02, 500).tolist()
    root = parsed(charts.histogram(sizes, title="t"))
    bars = [title.text or "" for rect in root.iter(f"{SVG}rect") for title in rect.iter(f"{SVG}title")]
    assert sum(int(name.split(": ")[1]) for name in bars) == 500
    assert len(bars) <= 22
    for name in bars:
        first, last = name.split(": ")[0].split(" to ")
        assert int(name.split(": ")[1]) == sum(int(first) <= size <= int(last) for size in sizes)
    assert len(list(parsed(charts.histogram([3], title="t")).iter(f"{SVG}rect"))) == 1


def test_bars_are_as_long_as_their_values() -> None:
    root = parsed(charts.bars([("raw pixels", 0.25), ("trained", 0.5)], title="t"))
    low, high = (float(r.get("width", 0)) for r in root.iter(f"{SVG}rect") if "bar" in r.get("class", "").split())
    assert high == pytest.approx(2 * low, abs=0.2)
    assert {"25.0 %", "50.0 %"} <= set(texts(root))


def test_equal_input_equal_text() -> None:
    assert charts.histogram([1, 2, 2], title="t") == charts.histogram([1, 2, 2], title="t")
