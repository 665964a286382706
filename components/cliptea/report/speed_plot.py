"""Accuracy over speed, a dot for each model, as inline SVG that is coloured by the page's CSS."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

from cliptea.report.charts import svg_text

__all__ = ["Measured", "speed_plot"]

WIDTH, HEIGHT = 560, 260
LEFT, RIGHT, TOP, BOTTOM = 40, 20, 10, 34  # margins of the plot
LETTER, LINE = 6.2, 13  # pixels of a character, about, and between two names


class Measured(NamedTuple):
    """A model, with its speed in images per second (above 0) and its hIoU (fraction)."""

    name: str
    speed: float
    hiou: float
    best: bool = False


def speed_plot(models: Sequence[Measured]) -> Markup:
    """hIoU in percent, from 0 to 100, over images per second, from 0. Each dot has its name beside it."""
    top_speed = _round_up(max(model.speed for model in models))

    def x(speed: float) -> float:
        return LEFT + speed / top_speed * (WIDTH - LEFT - RIGHT)

    def y(share: float) -> float:
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    out = [f'<svg class="chart speed" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="hIoU over images/s">']
    for share in (0, 0.25, 0.5, 0.75, 1):
        out.append(f'<path class="grid" d="M{LEFT} {y(share):.1f}H{WIDTH - RIGHT}"/>')
        out.append(svg_text(LEFT - 5, y(share) + 3.5, f"{100 * share:.0f}", "end"))
    for part in range(5):
        speed = top_speed * part / 4
        out.append(svg_text(x(speed), HEIGHT - BOTTOM + 14, f"{speed:g}"))
    out.append(svg_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, "images per second, many at a time (hIoU in percent)"))
    names: list[tuple[float, float, float]] = []  # from x to x, and y, of the names so far
    for model in sorted(models, key=lambda one: -one.hiou):
        at = (x(model.speed), y(model.hiou))
        width = LETTER * len(model.name)
        anchor = "start" if at[0] + 8 + width < WIDTH else "end"
        start = at[0] + 8 if anchor == "start" else at[0] - 8 - width
        line = at[1] + 3.5
        while any(start < high and low < start + width and abs(line - other) < LINE for low, high, other in names):
            line += 1
        names.append((start, start + width, line))
        kind = "best" if model.best else "other"
        tip = f"<title>{escape(model.name)}: hIoU {100 * model.hiou:.1f} %, {model.speed:.0f} images/s</title>"
        out.append(f'<circle class="{kind}" cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="5">{tip}</circle>')
        out.append(svg_text(at[0] + (8 if anchor == "start" else -8), line, model.name, anchor, kind))
    return Markup("".join(out) + "</svg>")


def _round_up(value: float) -> float:
    """The next of 1, 2, 4, 6, 8, 10 times a power of ten, which four ticks divide well."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 2, 4, 6, 8, 10) if factor * power >= value)
