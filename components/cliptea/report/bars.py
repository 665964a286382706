"""Bars of every class's IoU as inline SVG, unseen and seen classes apart; coloured by the page's CSS."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from markupsafe import Markup, escape

from cliptea.report.charts import svg_text
from cliptea.report.summaries import Spread

__all__ = ["class_bars"]

WIDTH = 300
NARROWEST, WIDEST, RIGHT = 84, 150, 26  # names and values
LETTER = 6  # pixels of a character, about
ROW, BAR = 14, 9  # pixels of a class, and of its bar
HEADING, AXIS = 18, 16
LONGEST = 40  # characters of a name

Parts = Mapping[str, Sequence[tuple[str, Spread]]]


def class_bars(parts: Parts, title: str) -> Markup:
    """Horizontal bars from 0 to 100 %, with the standard deviation over seeds as a line.

    Args:
        parts: "unseen" and "seen" -> class name and IoU (fraction), in the order shown.
        title: what a screen reader says.
    """
    names = [_short(name) for classes in parts.values() for name, _ in classes]
    left = min(max([NARROWEST, *(LETTER * len(name) + 5 for name in names)]), WIDEST)

    def x(share: float) -> float:
        return left + share * (WIDTH - left - RIGHT)

    out: list[str] = []
    top = 0.0
    for part, classes in parts.items():
        if classes:
            out.append(svg_text(0, top + 12, part, "start", "part"))
            top += HEADING
        for name, iou in classes:
            out.append(_row(part, name, iou, top, x))
            top += ROW
    ticks = "".join(svg_text(x(share), top + 12, f"{100 * share:.0f}") for share in (0, 0.5, 1))
    grid = "".join(f'<path class="grid" d="M{x(share):.1f} 2V{top:.1f}"/>' for share in (0, 0.5, 1))
    head = f'<svg class="chart bars" viewBox="0 0 {WIDTH} {top + AXIS:.0f}" role="img" aria-label="{escape(title)}">'
    return Markup(head + grid + "".join(out) + ticks + "</svg>")


def _row(part: str, name: str, iou: Spread, top: float, x: Callable[[float], float]) -> str:
    middle, left = top + ROW / 2, x(0)
    squeezed = left - 5 if LETTER * len(_short(name)) > left - 5 else None
    out = [svg_text(left - 5, middle + 3.5, _short(name), "end", width=squeezed)]
    if iou.mean is None:
        return "".join([*out, svg_text(left + 4, middle + 3.5, "–", "start")])
    tip = f"<title>{escape(name)}: {100 * iou.mean:.1f} %</title>"
    box = f'x="{left:g}" y="{middle - BAR / 2:.1f}" width="{x(iou.mean) - left:.1f}" height="{BAR}"'
    out.append(f'<rect class="{escape(part)}" {box}>{tip}</rect>')
    if iou.sd is not None:
        low, high = x(max(0.0, iou.mean - iou.sd)), x(min(1.0, iou.mean + iou.sd))
        out.append(f'<path class="whisker" d="M{low:.1f} {middle}H{high:.1f}"/>')
    out.append(svg_text(WIDTH, middle + 3.5, f"{100 * iou.mean:.0f}", "end"))
    return "".join(out)


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
