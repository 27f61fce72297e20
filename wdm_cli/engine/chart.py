"""Line charts, drawn once as strokes and words, given out as SVG (reports) or as a picture (progress.png)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

from wdm_cli.engine.picture import BACKGROUND, font, printable

COLORS = ("#d9822b", "#3b82f6", "#16a34a", "#e0475b", "#8b5cf6", "#0d9aa8", "#b45a9c", "#8a8f98")
INK, FAINT, GRID = "#8d939d", "#8d939d", "#8d939d55"
TEXT = 11  # size of type
LEFT, RIGHT, BOTTOM = 52, 18, 30  # around the plot, in pixels
ROW = 15  # height of a row of the legend
MOST_POINTS = 400
DOT = 5.0  # width of a marked point
SMOOTH = 2  # pictures are drawn so many times larger and shrunk
Anchor = Literal["start", "middle", "end"]
Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """Values y over x, both [n]; what is not finite leaves a gap."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Chart:
    """Lines in one frame.

    levels: named horizontal lines, such as the floor of a score. log, log_x: logarithmic axes; what is not positive is
    left out there. top: values above are drawn at the upper edge, rather than flatten the rest. dots: mark the points.
    """

    title: str
    lines: tuple[Line, ...]
    x_label: str = "step"
    log: bool = False
    log_x: bool = False
    levels: tuple[tuple[str, float], ...] = ()
    top: float = math.inf
    dots: bool = False


@dataclass(frozen=True)
class Stroke:
    """A line through its points; a dot for a single one."""

    points: tuple[Point, ...]
    color: str
    width: float = 1.0
    dashed: bool = False


@dataclass(frozen=True)
class Words:
    """Text on its base line."""

    at: Point
    text: str
    color: str
    anchor: Anchor = "start"


def svg(chart: Chart, size: tuple[int, int] = (460, 260)) -> str:
    """The chart as an <svg> element, which scales and needs nothing else."""
    width, height = size
    parts = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(chart.title)}">']
    for shape in shapes(chart, size):
        if isinstance(shape, Words):
            x, y = shape.at
            parts.append(
                f'<text x="{x:.1f}" y="{y:.1f}" fill="{shape.color}" text-anchor="{shape.anchor}" '
                f'font-size="{TEXT}">{escape(shape.text)}</text>'
            )
            continue
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in shape.points * (2 if len(shape.points) == 1 else 1))
        dash = ' stroke-dasharray="4 3"' * shape.dashed
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{shape.color}" stroke-width="{shape.width:g}" '
            f'stroke-linecap="round" stroke-linejoin="round"{dash}/>'
        )
    return "\n".join([*parts, "</svg>"])


def picture(chart: Chart, size: tuple[int, int] = (460, 260)) -> Image.Image:
    """The chart as a picture on a dark ground."""
    image = Image.new("RGB", (size[0] * SMOOTH, size[1] * SMOOTH), BACKGROUND)
    draw = ImageDraw.Draw(image, "RGBA")
    for shape in shapes(chart, size):
        if isinstance(shape, Words):
            spot = (shape.at[0] * SMOOTH, shape.at[1] * SMOOTH)
            anchor = {"start": "ls", "middle": "ms", "end": "rs"}[shape.anchor]
            draw.text(spot, printable(shape.text), fill=shape.color, font=font(TEXT * SMOOTH), anchor=anchor)
            continue
        points = [(x * SMOOTH, y * SMOOTH) for x, y in shape.points]
        pieces = list(itertools.pairwise(points))
        if len(points) == 1:
            draw.circle(points[0], shape.width, fill=shape.color)
        elif shape.dashed:  # levels alone, which are straight
            (x0, y0), (x1, _) = points[0], points[-1]
            pieces = [((x, y0), (min(x + 4 * SMOOTH, x1), y0)) for x in np.arange(x0, x1, 7 * SMOOTH).tolist()]
        for piece in pieces:
            draw.line(piece, fill=shape.color, width=max(1, round(shape.width * SMOOTH)))
    return image.resize(size, Image.Resampling.LANCZOS)


def shapes(chart: Chart, size: tuple[int, int]) -> list[Stroke | Words]:
    """Everything to draw, in pixels from the top left corner."""
    width, height = size
    lines = [_thinned(line) for line in chart.lines]
    xs = [x for line in lines for x, y in _kept(line, chart)]
    ys = [y for line in lines for x, y in _kept(line, chart)]
    legend = _legend([line.name for line in lines], width)
    top = max([30.0, *(shape.at[1] for shape in legend if isinstance(shape, Words))]) + ROW
    found: list[Stroke | Words] = [Words((LEFT, 14), chart.title, INK), *legend]
    if not ys:
        return [*found, Words((width / 2, height / 2), "nothing to show yet", FAINT, "middle")]
    ys += [value for _, value in chart.levels if value > 0 or not chart.log]
    across, up = _Axis(min(xs), max(xs), chart.log_x), _Axis(min(ys), min(max(ys), chart.top), chart.log)

    def spot(x: float, y: float) -> Point:
        return (
            LEFT + across.share(x) * (width - LEFT - RIGHT),
            height - BOTTOM - up.share(min(y, up.high)) * (height - top - BOTTOM),
        )

    for value in up.ticks(5):
        y = spot(across.low, value)[1]
        found += [Stroke(((LEFT, y), (width - RIGHT, y)), GRID), Words((LEFT - 6, y + 4), label(value), FAINT, "end")]
    for value in across.ticks(6):
        x = spot(value, up.low)[0]
        found += [
            Stroke(((x, height - BOTTOM), (x, height - BOTTOM + 4)), GRID),
            Words((x, height - BOTTOM + 16), label(value), FAINT, "middle"),
        ]
    found.append(Words((width - RIGHT, height - 2), chart.x_label, FAINT, "end"))
    for name, value in chart.levels:
        if value > 0 or not chart.log:
            y = spot(across.low, value)[1]
            found.append(Stroke(((LEFT, y), (width - RIGHT, y)), INK, 1, dashed=True))
            found.append(Words((width - RIGHT, y - 4), name, INK, "end"))
    for color, line in zip(_colors(len(lines)), lines, strict=True):
        for part in _parts(line, chart):
            points = [spot(x, y) for x, y in part]
            found.append(Stroke(tuple(points), color, 1.6 if len(points) > 1 else DOT))
            found += [Stroke((point,), color, DOT) for point in points if chart.dots]
    return found


def label(value: float) -> str:
    """A tick's number in few characters."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e6 or size < 1e-3:
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:,.0f}" if size >= 1000 else f"{value:.4g}"


@dataclass(frozen=True)
class _Axis:
    """From low to high, with a little room where both are one."""

    low: float
    high: float
    log: bool

    def share(self, value: float) -> float:
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return 0.5 if high == low else (value - low) / (high - low)

    def ticks(self, most: int) -> list[float]:
        """Round numbers within the axis."""
        if self.log and self.high > 3 * self.low:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for digits in ((1, 2, 5), (1, 3), (1,)):
                found = [d * 10.0**p for p in powers for d in digits if self.low <= d * 10.0**p <= self.high]
                if len(found) <= most + 1:
                    break
            return found[:: max(1, math.ceil(len(found) / (most + 1)))]
        step = 10.0 ** math.floor(math.log10((self.high - self.low) or abs(self.high) or 1))
        for factor in (0.1, 0.2, 0.5, 1, 2):
            first, last = math.ceil(self.low / (step * factor)), math.floor(self.high / (step * factor))
            if last - first < most:
                break
        return [n * step * factor for n in range(first, last + 1)] or [self.low]


def _thinned(line: Line) -> Line:
    """Means of neighbours where there are more points than pixels to show them."""
    every = math.ceil(len(line.x) / MOST_POINTS)
    if every <= 1:
        return line
    usable = [(x, y) for x, y in zip(line.x, line.y, strict=True) if math.isfinite(y)]
    parts = [usable[i : i + every] for i in range(0, len(usable), every)]
    return Line(line.name, [p[-1][0] for p in parts], [sum(y for _, y in p) / len(p) for p in parts])


def _shown(x: float, y: float, chart: Chart) -> bool:
    return math.isfinite(x) and math.isfinite(y) and (y > 0 or not chart.log) and (x > 0 or not chart.log_x)


def _kept(line: Line, chart: Chart) -> list[Point]:
    return [(x, y) for x, y in zip(line.x, line.y, strict=True) if _shown(x, y, chart)]


def _parts(line: Line, chart: Chart) -> list[list[Point]]:
    """The line between its gaps."""
    parts: list[list[Point]] = [[]]
    for x, y in zip(line.x, line.y, strict=True):
        if _shown(x, y, chart):
            parts[-1].append((x, y))
        elif parts[-1]:
            parts.append([])
    return [part for part in parts if part]


def _colors(count: int) -> list[str]:
    return [COLORS[index % len(COLORS)] for index in range(count)]


def _legend(names: Sequence[str], width: int) -> list[Stroke | Words]:
    """Below the title, in rows; nothing for a single line, which the title names."""
    if len(names) < 2:
        return []
    found: list[Stroke | Words] = []
    x, y = float(LEFT), 30.0
    for name, color in zip(names, _colors(len(names)), strict=True):
        room = 13 + font(TEXT).getlength(printable(name)) + 14
        if x > LEFT and x + room - 14 > width - 4:
            x, y = LEFT, y + ROW
        found += [Stroke(((x, y - 4), (x + 10, y - 4)), color, 2), Words((x + 13, y), name, FAINT)]
        x += room
    return found
