"""Charts: what is drawn is to scale and escaped."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from cliptea.report import charts


class Svg(HTMLParser):
    def __init__(self, markup: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(markup)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)

    def paths(self, kind: str) -> list[np.ndarray]:
        found = [attrs["d"] or "" for tag, attrs in self.tags if tag == "path" and kind in (attrs.get("class") or "")]
        return [np.array(re.findall(r"-?[\d.]+", d), dtype=float).reshape(-1, 2) for d in found]


def test_a_percent_line_is_placed_to_scale():
    chart = charts.line_chart(
        {"hIoU": (2, [(0, 0.0), (1, 0.5), (4, 1.0)])}, axis="percent", title="t", x_label="gamma", marker=1
    )
    svg = Svg(chart)
    (line,) = svg.paths("line c2")
    x, y = line[:, 0], line[:, 1]
    assert (x[1] - x[0]) / (x[2] - x[0]) == pytest.approx(0.25, abs=0.01)
    assert (y[1] - y[0]) / (y[2] - y[0]) == pytest.approx(0.5, abs=0.01)
    assert y[0] > y[2]
    assert f"M{x[1]:.1f} " in chart.split('class="marker" d="')[1]
    assert "hIoU: 50.0 % at 1" in svg.text


def test_a_log_line_is_straight_for_a_power_and_leaves_out_what_has_no_logarithm():
    points = [(i, 10.0**-i) for i in range(4)] + [(4, 0.0), (5, float("nan")), (6, float("inf"))]
    (line,) = Svg(charts.line_chart({"ce": (0, points)}, axis="log", title="t", x_label="iteration")).paths("line")
    assert len(line) == 4
    assert np.diff(line[:, 1], 2) == pytest.approx(0, abs=0.21)


@pytest.mark.parametrize("points", [[], [(1, 0.0)], [(3, float("nan"))]])
def test_nothing_to_draw_is_said(points):
    assert "No values" in charts.line_chart({"ce": (0, points)}, axis="log", title="t", x_label="x")


@pytest.mark.parametrize("points", [[(5, 0.5)], [(1, 2e-9), (2, 3e7)], [(0, 1.0), (20000, 1.0)]])
def test_odd_ranges_stay_inside_the_chart(points):
    svg = Svg(charts.line_chart({"ce": (0, points)}, axis="log", title="t", x_label="x", marker=5))
    (line,) = svg.paths("line")
    assert (line >= 0).all()
    assert (line[:, 0] <= charts.WIDTH).all()
    assert (line[:, 1] <= charts.HEIGHT).all()


def test_charts_beside_each_other_have_one_axis():
    points = {"small": [(0, 0.5), (1, 0.02)], "large": [(0, 300.0), (1, 20.0)]}
    every = [value for curve in points.values() for _, value in curve]
    charts_of = [
        charts.line_chart({"ce": (0, curve)}, axis="log", title="t", x_label="x", beside=every)
        for curve in points.values()
    ]
    ticks = [re.findall(r'text-anchor="end">([^<]+)<', chart) for chart in charts_of]
    assert ticks[0] == ticks[1] == ["0.01", "0.1", "1", "10", "100", "1000"]


def test_long_curves_are_averaged():
    noise = np.random.default_rng(0).normal(5, 1, 24000)
    svg = Svg(charts.line_chart({"ce": (0, list(enumerate(noise)))}, axis="log", title="t", x_label="x"))
    (line,) = svg.paths("line")
    assert len(line) == charts.MAX_POINTS
    assert np.ptp(line[:, 1]) < 8


def test_names_in_charts_are_escaped():
    name = '"><script>alert(1)</script>'
    chart = charts.line_chart({name: (0, [(0, 0.5), (1, 0.6)])}, axis="percent", title=name, x_label=name)
    svg = Svg(chart)
    assert "script" not in {tag for tag, _ in svg.tags}
    assert svg.tags[0][1]["aria-label"] == name


def test_strip_and_interval_bar_are_to_scale():
    strip = Svg(charts.strip({0: 0.0, 1: 0.5, 2: 1.0}, 0.25))
    circles = [float(a["cx"] or 0) for t, a in strip.tags if t == "circle"]
    assert circles[1] - circles[0] == pytest.approx(circles[2] - circles[1])
    track, mean = ((float(a["x"] or 0), float(a["width"] or 0)) for t, a in strip.tags if t == "rect")
    assert track == (circles[0], circles[2] - circles[0])
    assert mean == (circles[0], pytest.approx(track[1] / 4))
    lowest = max(float(a["y"] or 0) + float(a["height"] or 0) for t, a in strip.tags if t == "rect")
    assert all(
        float(a["cy"] or 0) - float(a["r"] or 0) > lowest for t, a in strip.tags if t == "circle"
    )  # no error bars
    bar = Svg(charts.interval_bar(-0.1, 0.0, 0.1, 0.2, "tie"))
    (centre,) = [float(a["cx"] or 0) for t, a in bar.tags if t == "circle"]
    assert centre == charts.BAR_WIDTH / 2
    assert bar.tags[0][1]["class"] == "interval tie"


def test_an_interval_beyond_the_axis_ends_in_an_arrow():
    inside, beyond = (
        charts.interval_bar(-0.1, 0, 0.1, 0.2, "tie"),
        charts.interval_bar(-0.9, 0, 0.1, 0.2, "tie"),
    )
    assert "L" not in inside.split('class="span" d="')[1].split('"')[0]
    assert "L" in beyond.split('class="span" d="')[1].split('"')[0]
