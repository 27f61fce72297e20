"""Charts: what is drawn lies where its values are, as SVG and as a picture; progress.png."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wdm_cli.engine.chart import (
    BOTTOM,
    COLORS,
    LEFT,
    MOST_POINTS,
    RIGHT,
    Chart,
    Line,
    Stroke,
    Words,
    label,
    picture,
    shapes,
    svg,
)
from wdm_cli.engine.curves import draw_progress, of_training
from wdm_cli.engine.metrics_log import columns_of, read_metrics
from wdm_cli.engine.spaces import Wavelet

SIZE = (460, 260)
FALLING = Chart("loss", (Line("a", [1, 10, 100], [1.0, 0.1, 0.01]),), log=True, log_x=True)


def strokes(chart: Chart, color: str = COLORS[0]) -> list[Stroke]:
    return [shape for shape in shapes(chart, SIZE) if isinstance(shape, Stroke) and shape.color == color]


def test_a_power_law_is_a_straight_line_from_corner_to_corner() -> None:
    (line,) = strokes(FALLING)
    (x0, y0), (x1, y1), (x2, y2) = line.points
    assert (x0, x2) == (LEFT, SIZE[0] - RIGHT)
    assert y2 == SIZE[1] - BOTTOM
    assert y0 < y1 < y2
    assert ((x0 + x2) / 2, (y0 + y2) / 2) == pytest.approx((x1, y1))


def test_gaps_and_what_a_logarithm_cannot_show_are_left_out() -> None:
    y = [3.0, math.nan, 2.0, 0.0, -1.0, math.inf, 1.0, 1.5]
    chart = Chart("x", (Line("a", range(8), y),), log=True)
    assert [len(stroke.points) for stroke in strokes(chart)] == [1, 1, 2]
    assert len(strokes(Chart("x", (Line("a", range(8), y),)))) == 3  # zero and below are values there


def test_far_off_points_stay_at_the_upper_edge() -> None:
    (line,) = strokes(Chart("x", (Line("a", [1, 2, 3], [1, 2, 900]),), top=3.0))
    assert line.points[2][1] == min(y for _, y in line.points) >= 0
    (free,) = strokes(Chart("x", (Line("a", [1, 2, 3], [1, 2, 900]),)))
    assert free.points[1][1] > line.points[1][1]


@pytest.mark.parametrize("count", [0, 1, 3, 5000])
@pytest.mark.parametrize("log", [False, True])
def test_everything_lies_within_the_picture(count: int, log: bool) -> None:
    draw = np.random.default_rng(count)
    lines = tuple(Line(f"line {k}", range(count), (draw.random(count) * 10.0**k).tolist()) for k in range(8))
    chart = Chart("eight", lines, log=log, levels=(("floor", 0.5),), dots=True)
    root = ElementTree.fromstring(svg(chart, SIZE))
    points = [tuple(map(float, p.split(","))) for e in root.iter("polyline") for p in e.attrib["points"].split()]
    points += [(float(e.attrib["x"]), float(e.attrib["y"])) for e in root.iter("text")]
    assert all(0 <= x <= SIZE[0] and 0 <= y <= SIZE[1] for x, y in points)
    assert len(points) < 8 * 3 * MOST_POINTS + 200  # thinned; a dot takes two
    texts = [e.text for e in root.iter("text")]
    assert ("nothing to show yet" in texts) == (count == 0)
    assert picture(chart, SIZE).size == SIZE


def test_a_picture_has_the_line_where_svg_has_it() -> None:
    (line,) = strokes(FALLING)
    image = np.asarray(picture(FALLING, SIZE)).astype(int)
    wanted = np.array([int(COLORS[0][i : i + 2], 16) for i in (1, 3, 5)])
    for x, y in line.points:
        near = image[max(0, round(y) - 2) : round(y) + 3, max(0, round(x) - 2) : round(x) + 3]
        assert np.abs(near - wanted).sum(axis=2).min() < 120


def test_hostile_names_are_text() -> None:
    text = svg(Chart("<script>&", (Line("<b>", [1, 2], [1, 2]), Line('"', [1], [1]))))
    assert "<script>" not in text
    assert ElementTree.fromstring(text).attrib["aria-label"] == "<script>&"


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (1e-5, "1e-5"), (0.02, "0.02"), (1500, "1,500"), (2.5e6, "2.5e6"), (-3, "-3")]
)
def test_labels(value: float, text: str) -> None:
    assert label(value) == text


def test_ticks_are_round_and_few() -> None:
    for low, high in [(0, 1), (3, 3), (0.97, 0.981), (-5, 1234), (1e-7, 2e-7)]:
        chart = Chart("x", (Line("a", [0, 1], [low, high]),))
        marks = [s for s in shapes(chart, SIZE) if isinstance(s, Words) and s.anchor == "end" and s.at[0] < LEFT]
        assert 1 <= len(marks) <= 7, (low, high)


def test_progress_png_shows_curves_and_the_newest_preview(tmp_path: Path) -> None:
    rows = [",".join(map(str, [step, *[0.5 / step] * 9, 1.0, 1e-5, 0.1, 0])) for step in range(1, 60)]
    (tmp_path / "metrics.csv").write_text(
        "\n".join([",".join(columns_of(Wavelet.columns)), *rows, "60,0.1"])
    )  # a kill's half line
    metrics = read_metrics(tmp_path / "metrics.csv")
    assert metrics["step"].tolist() == list(range(1, 60))
    assert [len(chart.lines) for chart in of_training(metrics)] == [1, 8, 1, 1]
    Image.new("RGB", (300, 200), (255, 0, 0)).save(tmp_path / "preview.png")
    with Image.open(draw_progress(tmp_path, tmp_path / "preview.png")) as image:
        assert image.size == (920, 720)
        assert image.getpixel((460, 600)) == (255, 0, 0)
    with Image.open(draw_progress(tmp_path)) as image:
        assert image.size == (920, 520)
