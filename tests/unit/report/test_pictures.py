"""Pictures and charts."""

import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from cliptea.report import charts


def pixels(picture: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(int)


def cielab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB (D65), written independently of the OKLab that the palette is made with."""
    c = rgb / 255
    c = np.where(c > 0.04045, ((c + 0.055) / 1.055) ** 2.4, c / 12.92)
    xyz = c @ np.array([[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]])
    f = np.cbrt(xyz / np.array([0.9505, 1.0, 1.089]))
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


@pytest.mark.parametrize(("classes", "least"), [(20, 15), (60, 10)])
def test_class_colours_look_different(classes, least):
    lab = cielab(np.vstack([figures.palette()[:classes], [figures.NEUTRAL]]).astype(float))
    distance = np.linalg.norm(lab[:, None] - lab[None], axis=-1)
    assert distance[~np.eye(len(lab), dtype=bool)].min() > least


def test_all_255_class_colours_are_distinct_and_fixed():
    colours = {figures.class_colour(index) for index in range(255)}
    assert len(colours) == 255
    assert figures.class_colour(255) == figures.hex_colour(figures.NEUTRAL)
    assert figures.class_colour(255) not in colours
    # a change here would recolour every report that was ever made
    assert [figures.class_colour(index) for index in (0, 1, 2)] == ["#3c78c3", "#ffd24b", "#871e4b"]


def test_a_label_map_has_each_class_s_colour_at_each_pixel():
    labels = np.random.default_rng(0).integers(0, 60, (48, 64))
    labels[:2] = 255
    table = np.vstack([figures.palette(), [figures.NEUTRAL]])
    picture = figures.label_map(labels)
    assert picture.startswith(b"\x89PNG")
    np.testing.assert_array_equal(pixels(picture), table[labels])


def test_large_label_maps_shrink_without_new_colours():
    labels = np.zeros((600, 900), dtype=np.int64)
    labels[:, 450:] = 7
    found = pixels(figures.label_map(labels))
    assert found.shape == (256, 384, 3)
    assert {tuple(c) for c in found.reshape(-1, 3)} == {tuple(figures.palette()[i].astype(int)) for i in (0, 7)}


def test_small_photos_are_exact_and_large_ones_jpeg():
    small = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    np.testing.assert_array_equal(pixels(figures.photo(small)), small)
    large = figures.photo(np.zeros((1000, 500, 3), dtype=np.uint8))
    assert pixels(large).shape == (384, 192, 3)
    assert figures.data_uri(large).startswith("data:image/jpeg;base64,")
    assert figures.data_uri(figures.photo(small)).startswith("data:image/png;base64,")


def test_uniform_attention_has_no_colour_whatever_its_sum():
    image = np.full((32, 32, 3), 100, dtype=np.uint8)
    for weights in (np.ones((8, 8)), np.full((8, 8), 1 / 64), np.zeros((8, 8))):
        found = pixels(figures.heat_overlay(image, weights))
        assert np.ptp(found) == 0


def test_attention_is_red_above_and_blue_below_uniform():
    image = np.full((32, 32, 3), 128, dtype=np.uint8)
    weights = np.full((32, 32), 0.1)
    weights[:, 16:] = 2.0
    red, _, blue = np.moveaxis(pixels(figures.heat_overlay(image, weights, 1.0)), -1, 0)
    assert (blue[:, :14] > red[:, :14] + 50).all()
    assert (red[:, 18:] > blue[:, 18:] + 50).all()


def test_heat_range_covers_the_weights_with_a_round_number_of_octaves():
    flat = np.ones((10, 10))
    assert figures.heat_range([flat]) == figures.OCTAVES[0]
    assert figures.heat_range([]) == figures.OCTAVES[0]
    half = np.concatenate([np.full(50, 0.6), np.full(50, 1.4)])  # log2: -0.74 and 0.49
    assert figures.heat_range([flat, half]) == 1.0
    spiky = np.full(100, 1e-9)
    spiky[0] = 1
    assert figures.heat_range([spiky]) == figures.OCTAVES[-1]


def test_region_maps_colour_regions_and_leave_labelled_pixels_grey():
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    labels = np.full((32, 32), 255)
    labels[:16] = 3
    regions = np.full((32, 32), 255)
    regions[16:, :16], regions[16:, 16:] = 0, 1
    found = pixels(figures.region_map(image, labels, regions))
    assert (found[:16] == found[:16, :, :1]).all()
    left, right = found[16:, :16].reshape(-1, 3).mean(0), found[16:, 16:].reshape(-1, 3).mean(0)
    assert np.abs(left - right).max() > 60


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
    circles = [float(a["cx"] or 0) for t, a in Svg(charts.strip({0: 0.0, 1: 0.5, 2: 1.0}, 0.5)).tags if t == "circle"]
    assert circles[1] - circles[0] == pytest.approx(circles[2] - circles[1])
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
