"""Draws figures as SVG, by hand: a row of panels with axes, lines and a legend, as documents show them.

Written here because a plot library would be the largest package of all for two line charts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 470, 380  #: of a panel
LEFT, RIGHT, TOP, BOTTOM = 58, 16, 40, 52
#: Told apart by colour-blind readers too (Okabe and Ito).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
GREY = "#6b6b6b"
_LEGEND_LINE, _LETTER = 17, 6.2


@dataclass(frozen=True)
class Line:
    """A line through points.

    Attributes:
        name: in the legend.
        points: x and y, in the axes' units.
        colour: SVG's.
        dashed: True: without marks at the points.
    """

    name: str
    points: Sequence[tuple[float, float]]
    colour: str
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """One chart. Its axes begin at 0.

    Attributes:
        title: above it.
        x_label: below the x axis, with its unit.
        y_label: beside the y axis, with its unit.
        lines: what is drawn.
        top: where the y axis ends; lines are cut there. None is above the highest point.
        x_ticks: where the x axis has numbers. None is at round ones.
    """

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    top: float | None = None
    x_ticks: Sequence[float] | None = None


def svg(title: str, panels: Sequence[Panel]) -> str:
    """Return the SVG document. `title` is what screen readers say."""
    width = WIDTH * len(panels)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{HEIGHT}" viewBox="0 0 {width} {HEIGHT}" '
        'role="img" font-family="sans-serif" font-size="12" fill="#222">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width}" height="{HEIGHT}" fill="#fff"/>',
    ]
    for number, panel in enumerate(panels):
        parts += _panel(panel, number)
    return "\n".join([*parts, "</svg>"]) + "\n"


def ticks(most: float, count: int = 6) -> list[float]:
    """Return round numbers from 0 up to the first one that is not below `most`, about `count` of them.

    >>> ticks(23)
    [0.0, 5.0, 10.0, 15.0, 20.0, 25.0]
    """
    power = 10.0 ** math.floor(math.log10(most / count))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor * count >= most * 0.999)
    return [round(step * number, 10) for number in range(math.ceil(round(most / step, 6)) + 1)]


def _panel(panel: Panel, number: int) -> list[str]:
    highest = panel.top or max(y for line in panel.lines for _, y in line.points)
    y_ticks = ticks(highest)
    x_ticks = panel.x_ticks or ticks(max(x for line in panel.lines for x, _ in line.points))
    x_most, y_most = max(x_ticks) * 1.03, panel.top or y_ticks[-1]

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * value / x_most

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / y_most

    upright = f'text-anchor="middle" transform="translate(16 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)"'
    parts = [
        f'<g transform="translate({number * WIDTH} 0)">',
        f'<clipPath id="plot{number}"><rect x="{LEFT}" y="{TOP - 6}" width="{WIDTH - LEFT - RIGHT + 8}" '
        f'height="{HEIGHT - TOP - BOTTOM + 12}"/></clipPath>',
        _text(LEFT, TOP - 18, panel.title, 'font-weight="bold" font-size="13"'),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, panel.x_label, 'text-anchor="middle"'),
        _text(0, 0, panel.y_label, upright),
    ]
    for value in y_ticks:
        if value <= y_most:
            parts.append(_rule(LEFT, y(value), WIDTH - RIGHT, y(value), "#e3e3e3" if value else GREY))
            parts.append(_text(LEFT - 7, y(value) + 4, f"{value:g}", 'text-anchor="end"'))
    for value in x_ticks:
        parts.append(_rule(x(value), HEIGHT - BOTTOM, x(value), HEIGHT - BOTTOM + 4, GREY))
        parts.append(_text(x(value), HEIGHT - BOTTOM + 18, f"{value:g}", 'text-anchor="middle"'))
    for line in panel.lines:
        parts += _line(line, x, y, number)
    return [*parts, *_legend(panel), "</g>"]


def _legend(panel: Panel) -> list[str]:
    """Draw the lines' names into the lower right corner, where lines that rise leave room."""
    left = WIDTH - RIGHT - 46 - _LETTER * max((len(line.name) for line in panel.lines), default=0)
    top = HEIGHT - BOTTOM - 8 - len(panel.lines) * _LEGEND_LINE
    parts = []
    for place, line in enumerate(panel.lines):
        at = top + (place + 0.5) * _LEGEND_LINE
        parts.append(_rule(left, at, left + 24, at, line.colour, _dashes(line), 2))
        parts.append(_text(left + 30, at + 4, line.name))
    return parts


def _line(line: Line, x: Callable[[float], float], y: Callable[[float], float], number: int) -> list[str]:
    path = " ".join(f"{x(one):.1f},{y(other):.1f}" for one, other in line.points)
    drawn = f'<polyline points="{path}" fill="none" stroke="{line.colour}" stroke-width="2"{_dashes(line)}/>'
    marks = [
        f'<circle cx="{x(one):.1f}" cy="{y(other):.1f}" r="3.5" fill="{line.colour}"/>'
        for one, other in line.points
        if not line.dashed
    ]
    return [f'<g clip-path="url(#plot{number})">', drawn, *marks, "</g>"]


def _dashes(line: Line) -> str:
    return ' stroke-dasharray="6 4"' if line.dashed else ""


def _rule(x1: float, y1: float, x2: float, y2: float, colour: str, more: str = "", width: float = 1) -> str:
    place = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {place} stroke="{colour}" stroke-width="{width}"{more}/>'


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{escape(text)}</text>'
