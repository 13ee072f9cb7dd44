from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unlabeled.visualize.charts import BOLD, CHARACTER, dashes_of
from unlabeled.visualize.plots import WIDTH, Box, Panel, Series, against, boxes, by_category, figure, ranked, trace

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def circles(svg: str) -> list[tuple[float, float]]:
    root = ElementTree.fromstring(svg)
    return [(float(c.attrib["cx"]), float(c.attrib["cy"])) for c in root.iter(f"{SVG}circle")]


def test_a_box_by_hand():
    found = Box.of([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 30.0])
    assert (found.first, found.median, found.third) == (3.0, 5.0, 7.0)
    # 1.5 interquartile ranges of 4 reach from -3 to 13.
    assert (found.low, found.high, found.outliers) == (1.0, 8.0, (30.0,))


@settings(derandomize=True, deadline=None)
@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=50))
def test_a_box_is_in_order_and_loses_no_value(values: list[float]):
    found = Box.of(values)
    assert found.low <= found.first <= found.median <= found.third <= found.high
    room = 1.5 * (found.third - found.first) + 1e-9
    assert all(value < found.first - room + 2e-9 or value > found.third + room - 2e-9 for value in found.outliers)
    assert sum(found.low <= value <= found.high for value in values) + len(found.outliers) == len(values)


def test_matplotlib_draws_the_same_box():
    cbook = pytest.importorskip("matplotlib.cbook")
    values = np.random.default_rng(1).standard_t(2, 60)
    (theirs,), ours = cbook.boxplot_stats(values), Box.of(values.tolist())
    keys = ("whislo", "q1", "med", "q3", "whishi")
    np.testing.assert_allclose(
        [theirs[key] for key in keys], [ours.low, ours.first, ours.median, ours.third, ours.high]
    )
    np.testing.assert_allclose(sorted(theirs["fliers"]), sorted(ours.outliers))


def test_curves_with_intervals_name_themselves_and_their_last_value():
    made = by_category(
        ["1", "4", "10"],
        [Series("trained", [0.2, 0.4, 0.6], [0.05, 0.02, 0.01]), Series("from scratch", [0.1, None, 0.3])],
        x_label="labelled images a class",
    )
    words = texts(made)
    assert {"1", "4", "10", "labelled images a class", "trained 60.0 %", "from scratch 30.0 %"} <= set(words)
    places = circles(made)
    assert len(places) == 5 and places[0][1] > places[1][1] > places[2][1]


def test_a_trace_says_where_it_begins_and_ends():
    assert {"first", "last", "loss"} <= set(texts(trace([(4.0, 0.1), (2.0, 0.5), (1.0, 0.6)], x_label="loss")))


def test_boxes_have_medians_and_outliers_and_chance():
    made = boxes([("trained", [0.52, 0.54, 0.55, 0.56, 0.99]), ("untrained", [0.1, 0.1, 0.1])], chance=0.05)
    assert {"trained", "untrained", "55.0 %", "10.0 %", "chance 5.0 %"} <= set(texts(made))
    assert len(circles(made)) == 1


def test_a_figure_holds_its_panels_and_what_is_hostile_stays_text():
    name = "<script>alert(1)</script>\x00\udcff"
    made = figure(name, name * 5, [Panel(name, ranked([(name, 0.5), ("b", 1.2)]), name)] * 3)
    root = ElementTree.fromstring(made)
    assert len(list(root.iter(f"{SVG}svg"))) == 4 and "<script" not in made
    assert made == figure(name, name * 5, [Panel(name, ranked([(name, 0.5), ("b", 1.2)]), name)] * 3)
    assert figure("nothing", "", []) and "100.0 %" not in made


def test_points_against_a_setting_have_their_place_and_their_mean():
    groups = [("trained", [(10, 0.2), (10, 0.4), (100, 0.5), (1000, 0.6)]), ("untrained", [(10, 0.1), (1000, 0.1)])]
    drawing = against(groups, x_label="k", log=True)
    found = circles(drawing)
    across = [x for x, _ in found]
    assert len(found) == 6
    assert across[2] - across[0] == pytest.approx(across[3] - across[2], abs=0.2)  # decades are equally far apart
    line = re.findall(r'<polyline points="([^"]+)"', drawing)[0].split()
    mean = (found[0][1] + found[1][1]) / 2
    assert float(line[0].split(",")[1]) == pytest.approx(mean, abs=0.2)
    assert {"10", "100", "1,000", "k (logarithmic)", "trained", "untrained"} <= set(texts(drawing))
    linear = [x for x, _ in circles(against(groups, x_label="k"))]
    assert (linear[3] - linear[2]) / (linear[2] - linear[0]) == pytest.approx(10, rel=0.05)


def test_sixteen_curves_differ():
    assert len({(number % 4, dashes_of(number)) for number in range(16)}) == 16


def test_bold_words_have_the_room_they_need() -> None:
    def longest(svg: str, words: str) -> tuple[float, str]:
        found = re.search(rf'<text x="([0-9.]+)"[^>]*font-weight[^>]*>({words}[^<]*)</text>', svg)
        assert found is not None, svg
        return float(found[1]), found[2]

    svg = by_category(["a", "b"], [Series("behind a run of this name", [0.1, 0.2])], x_label="stage", bounded=False)
    left, words = longest(svg, "behind")
    assert left + len(words) * CHARACTER * BOLD <= WIDTH
    # A difference is read against none at all: the axis has a 0.
    assert ">0 %</text>" in svg
    right, words = longest(ranked([("hubble_deep_field", 0.1), ("hubble_deep_field", 0.2)]), "hubble")
    assert len(words) * CHARACTER * BOLD <= right
