"""Small inline SVG charts, a few KiB each, that are crisp at any size and coloured by the page's CSS."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from markupsafe import Markup, escape

__all__ = ["MAX_POINTS", "Line", "interval_bar", "line_chart", "strip", "svg_text"]

MAX_POINTS = 120  # of one line; longer ones are averaged in bins
WIDTH, HEIGHT = 300, 170
LEFT, RIGHT, TOP, BOTTOM = 40, 20, 8, 26  # margins of the plot
BAR_WIDTH = 160  # of strip and interval_bar

Points = Sequence[tuple[float, float]]
Line = tuple[int, Points]  # number of the colour class c0, c1, ... in the CSS; points (x, y)
Place = Callable[[float, float], tuple[float, float]]


def line_chart(
    lines: Mapping[str, Line],
    *,
    axis: Literal["percent", "log"],
    title: str,
    x_label: str,
    marker: float | None = None,
    beside: Sequence[float] = (),
) -> Markup:
    """Lines over a common x axis.

    Args:
        lines: name -> line; points that are not finite, or not above zero on a log axis, are omitted.
        axis: "percent" shows fractions from 0 to 100 % with a dot per point; "log" shows positive numbers.
        title: text for screen readers.
        x_label: name of the x axis.
        marker: x of a vertical line.
        beside: values of other charts that a log axis has to cover as well.
    """
    log = axis == "log"
    kept = {name: (colour, _thin(_usable(points, log))) for name, (colour, points) in lines.items()}
    xs = [x for _, points in kept.values() for x, _ in points]
    ys = [y for _, points in kept.values() for _, y in points]
    if not ys:
        return Markup('<p class="muted">No values.</p>')
    xs += [] if marker is None else [marker]
    x_low, x_high = (min(xs), max(xs)) if max(xs) > min(xs) else (xs[0] - 0.5, xs[0] + 0.5)
    others = [y for _, y in _usable([(0, y) for y in beside], log)]
    y_ticks = _log_ticks([*ys, *others]) if log else [0.0, 0.25, 0.5, 0.75, 1.0]
    scale = math.log10 if log else float
    y_low, y_high = scale(y_ticks[0]), scale(y_ticks[-1])

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - (scale(y) - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM),
        )

    out = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for tick in y_ticks:
        y = place(x_low, tick)[1]
        out.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        out.append(svg_text(LEFT - 5, y + 3.5, f"{tick:g}" if log else f"{100 * tick:.0f}", "end"))
    for tick in _ticks(x_low, x_high):
        out.append(svg_text(place(tick, y_ticks[0])[0], HEIGHT - 13, f"{tick:g}"))
    out.append(svg_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 2, x_label))
    if marker is not None:
        x = place(marker, y_ticks[0])[0]
        out.append(f'<path class="marker" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
    for name, line in kept.items():
        out.append(_line(name, line, place, dots=not log))
    return Markup("".join(out) + "</svg>")


def strip(values: Mapping[int, float], mean: float | None) -> Markup:
    """The mean as a bar on a track from 0 to 1, and below it each seed's fraction as a dot.

    The dots do not lie on the bar, where they would look like error bars.
    """

    def x(value: float) -> float:
        return 5 + value * (BAR_WIDTH - 10)

    out = [f'<rect class="track" x="{x(0)}" y="2" width="{x(1) - x(0)}" height="9"/>']
    if mean is not None:
        out.append(f'<rect class="mean" x="{x(0)}" y="2" width="{x(mean) - x(0):.1f}" height="9"/>')
    for seed, value in values.items():
        tip = f"<title>seed {seed}: {100 * value:.1f} %</title>"
        out.append(f'<circle cx="{x(value):.1f}" cy="16" r="2.2">{tip}</circle>')
    return _bar("strip", out, ", ".join(f"seed {seed}: {100 * value:.1f} %" for seed, value in values.items()))


def interval_bar(low: float, mean: float, high: float, reach: float, kind: str) -> Markup:
    """An interval about a mean difference on an axis from -reach to reach with a line at 0.

    Args:
        low, mean, high: fractions; ends beyond the axis become arrows.
        reach: half the axis, above 0.
        kind: CSS class that colours it.
    """

    def x(value: float) -> float:
        return BAR_WIDTH / 2 + max(-1.0, min(1.0, value / reach)) * (BAR_WIDTH / 2 - 8)

    left = f"M{x(low) + 4:.1f} 6.5L{x(low):.1f} 10L{x(low) + 4:.1f} 13.5" if low < -reach else f"M{x(low):.1f} 6V14"
    right = (
        f"M{x(high) - 4:.1f} 6.5L{x(high):.1f} 10L{x(high) - 4:.1f} 13.5" if high > reach else f"M{x(high):.1f} 6V14"
    )
    out = [
        f'<path class="grid" d="M{BAR_WIDTH / 2} 1V19"/>',
        f'<path class="span" d="M{x(low):.1f} 10H{x(high):.1f}{left}{right}"/>',
        f'<circle cx="{x(mean):.1f}" cy="10" r="3.6"/>',
    ]
    return _bar(f"interval {kind}", out, f"{100 * mean:+.1f}, from {100 * low:+.1f} to {100 * high:+.1f}")


def _bar(kind: str, parts: list[str], spoken: str) -> Markup:
    head = f'<svg class="{escape(kind)}" viewBox="0 0 {BAR_WIDTH} 20" role="img" aria-label="{escape(spoken)}">'
    return Markup(head + "".join(parts) + "</svg>")


def svg_text(x: float, y: float, text: str, anchor: str = "middle", kind: str = "", width: float | None = None) -> str:
    """An escaped text at (x, y) pixels, of the CSS class `kind` if there is one, squeezed to `width` pixels if set."""
    of_kind = f' class="{kind}"' if kind else ""
    squeezed = "" if width is None else f' textLength="{width:g}" lengthAdjust="spacingAndGlyphs"'
    return f'<text{of_kind} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{squeezed}>{escape(text)}</text>'


def _line(name: str, line: Line, place: Place, *, dots: bool) -> str:
    colour, points = line
    placed = [place(*point) for point in points]
    if not placed:
        return ""
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in placed)
    out = [f'<path class="line c{colour}" d="M{path}"><title>{escape(name)}</title></path>']
    for (x, y), (at, value) in zip(placed, points, strict=True) if dots else ():
        tip = f"<title>{escape(name)}: {100 * value:.1f} % at {at:g}</title>"
        out.append(f'<circle class="dot c{colour}" cx="{x:.1f}" cy="{y:.1f}" r="2.6">{tip}</circle>')
    return "".join(out)


def _usable(points: Points, log: bool) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if math.isfinite(y) and (y > 0 or not log)]


def _thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most MAX_POINTS, each the average of its neighbours."""
    size = max(1, math.ceil(len(points) / MAX_POINTS))
    bins = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in bins]


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between low and high, two to six of them."""
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    return [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _log_ticks(values: Sequence[float]) -> list[float]:
    """Powers of ten from below to above the values, thinned to at most six."""
    first = math.floor(math.log10(min(values)))
    last = max(math.ceil(math.log10(max(values))), first + 1)
    step = math.ceil((last - first) / 5)
    return [10.0 ** (first + i * step) for i in range(math.ceil((last - first) / step) + 1)]
