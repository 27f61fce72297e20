"""The answer of steps.py as a Markdown table and a picture."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from wdm_cli.engine.files import write_text
from wdm_cli.engine.picture import BACKGROUND, FAINT, INK, save_png

Cell = dict[str, Any]
Point = tuple[float, float]
Color = tuple[int, int, int]
SCALE = 2  # lines are drawn twice as large and shrunk, which smooths them
PANEL, GAP, LEFT, TOP = (430, 250), 28, 62, 34
COLORS: tuple[Color, ...] = ((240, 200, 90), (110, 180, 255), (255, 120, 110), (150, 220, 140), (200, 150, 255),
                             (255, 170, 210), (140, 220, 220))  # fmt: skip
TITLES = {
    "kid": "KID x 1000 (lower is better)",
    "fid": "FID x 1000 at the floor's n (lower is better)",
    "spectrum": "spectrum distance, dB, at the floor's n (lower is better)",
    "msssim": "MS-SSIM (nearer to the real value is better)",
}


def value_of(cell: Cell, name: str) -> float:
    """What is shown of a score: FID and spectrum at the same n as their floor, KID and FID in thousandths."""
    score = cell["scores"][name]
    shown = score["at_floor_n"] if name in ("fid", "spectrum") and score["at_floor_n"] is not None else score["value"]
    return float(shown) * (1000 if name in ("kid", "fid") else 1)


def floor_of(cell: Cell, name: str) -> float | None:
    """What real volumes score: against each other, for MS-SSIM among themselves."""
    scores = cell["scores"]
    floor = scores["msssim_real"]["value"] if name == "msssim" else scores[name]["floor"]
    return None if floor is None else float(floor) * (1000 if name in ("kid", "fid") else 1)


def write_report(out: Path, results: dict[str, Any], verdicts: dict[Any, Any], reference: tuple[str, int]) -> None:
    """steps.md and steps.png from the results and, for every cell, the scores that are worse than the reference's."""
    cells = {(cell["sampler"], cell["steps"]): cell for cell in results["cells"].values() if "scores" in cell}
    write_text(out / "steps.md", table(cells, verdicts, results, reference))
    save_png(out / "steps.png", picture(cells, reference, results))


def table(cells: dict[Any, Cell], verdicts: dict[Any, Any], results: dict[str, Any], reference: tuple[str, int]) -> str:
    """All cells, one a row."""
    first = cells[reference]
    floors = {name: floor_of(first, name) for name in TITLES}
    lines = [
        "| sampler | steps | KID ×10³ | FID ×10³ | spectrum, dB | MS-SSIM | FID ×10³ above own limit | s/volume "
        "| against the reference |",
        "|---|---|---|---|---|---|---|---|---|",
        f"| *real* | | {number(floors['kid'])} | {number(floors['fid'])} | {number(floors['spectrum'])} "
        f"| {number(floors['msssim'])} | | | |",
    ]
    samplers = list(dict.fromkeys(name for name, _ in cells))
    for key in sorted(cells, key=lambda key: (key != reference, samplers.index(key[0]), key[1])):
        cell = cells[key]
        kid, ssim = cell["scores"]["kid"]["half_width"], cell["scores"]["msssim"]["half_width"]
        lines.append(
            f"| {key[0]} | {key[1]} | {number(value_of(cell, 'kid'))}{width(kid, 1000)} "
            f"| {number(value_of(cell, 'fid'))} | {number(value_of(cell, 'spectrum'))} "
            f"| {number(value_of(cell, 'msssim'))}{width(ssim)} | {limit(cell)} | {number(cell.get('seconds'))} "
            f"| {'reference' if key == reference else verdict(verdicts[key])} |"
        )
    return "\n".join([*lines, "", caption(results, first), ""])


def number(value: float | None, digits: int = 3) -> str:
    """So many significant digits."""
    if value is None:
        return ""
    if abs(value) < 5e-4:
        return "0"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.{digits}g}"


def width(value: float | None, factor: float = 1) -> str:
    return "" if value is None else f" ± {number(value * factor, 2)}"


def limit(cell: Cell) -> str:
    """FID above that of the same sampler's largest number of steps."""
    if "limit" not in cell:
        return ""
    above = cell["limit"]["fid"]
    return number(above["value"] * 1000) + width(above["half_width"], 1000)


def verdict(worse: list[str] | None) -> str:
    if worse is None:
        return "too few volumes"
    return f"worse: {', '.join(worse)}" if worse else "no worse"


def caption(results: dict[str, Any], cell: Cell) -> str:
    """How the numbers were made."""
    of, made, timed = results["of"], results["made"], results.get("timed")
    text = (
        f"{of['preset']['name']}, training step {of['training_step']}; {cell['n']} volumes a cell (seeds 0 … "
        f"{cell['n'] - 1}, EMA weights, {of['precision']}) against {of['real_n']} unseen real ones; features of a "
        f"{of['extractor']['name']}. {made['date']}, {made['device']}, torch {made['versions']['torch']}."
    )
    if visible := smallest_visible(results):
        text += f" Half widths of the differences' 95 % intervals (median over cells): {visible}."
    text += " Own limit: the same sampler at the most steps measured, from the same seeds."
    if timed:
        text += f" Seconds: float32, one volume at a time, {timed['device']}, {timed['date']}."
    return text


def smallest_visible(results: dict[str, Any]) -> str:
    """What a difference from the reference must be to be seen, typically."""
    found = []
    for name, factor in (("kid", 1000), ("fid", 1000), ("spectrum", 1), ("msssim", 1)):
        widths = [cell.get("excess", {}).get(name, {}).get("half_width") for cell in results["cells"].values()]
        if known := [value for value in widths if value]:
            found.append(f"{name} {'×10³ ' if factor > 1 else ''}{number(statistics.median(known) * factor, 2)}")
    return ", ".join(found)


def picture(cells: dict[Any, Cell], reference: tuple[str, int], results: dict[str, Any]) -> Image.Image:
    """Four panels over the number of steps: each score, with its floor and the reference as lines."""
    names = list(dict.fromkeys(name for name, _ in cells))
    colors = dict(zip(names, COLORS, strict=False))
    size = (2 * (LEFT + PANEL[0]) + GAP + 16, 2 * (TOP + PANEL[1] + 26) + 56)
    image = Image.new("RGB", (size[0] * SCALE, size[1] * SCALE), BACKGROUND)
    for index, name in enumerate(TITLES):
        x, y = LEFT + index % 2 * (PANEL[0] + LEFT + GAP), TOP + index // 2 * (PANEL[1] + TOP + 26)
        panel(image, (x, y), name, cells, colors, reference)
    legend(image, size[1] - 44, colors, cells[reference], results)
    return image.resize(size, Image.Resampling.LANCZOS)


def panel(
    image: Image.Image, corner: Point, name: str, cells: dict[Any, Cell], colors: dict[str, Color],
    reference: tuple[str, int],
) -> None:  # fmt: skip
    """One score."""
    draw, pen = ImageDraw.Draw(image), Pen(corner)
    floor, base = floor_of(cells[reference], name), value_of(cells[reference], name)
    # cells far off (few steps of an unsuitable sampler) leave the panel at its top rather than flatten the rest
    values = sorted([value_of(cell, name) for cell in cells.values()] + ([floor] if floor is not None else []))
    low, high = values[0], min(values[-1], base + 6 * max(base - values[0], values[len(values) // 2] - base))
    margin = 0.06 * (high - low or 1.0)
    low, high = low - margin, high + margin
    counts = sorted({steps for _, steps in cells})

    def across(steps: float) -> float:
        span = math.log(counts[-1] / counts[0]) or 1.0
        return (0.03 + 0.94 * math.log(steps / counts[0]) / span) * PANEL[0]

    def up(value: float) -> float:
        return (1 - (min(max(value, low), high) - low) / (high - low)) * PANEL[1]

    draw.rectangle([pen(0, 0), pen(*PANEL)], fill=(24, 27, 33))
    pen.text(draw, (0, -22), TITLES[name], INK, 13)
    for tick in ticks(low, high):
        draw.line([pen(0, up(tick)), pen(PANEL[0], up(tick))], fill=(44, 48, 56), width=SCALE)
        pen.text(draw, (-8, up(tick)), f"{tick:g}", FAINT, 11, "rm")
    for steps in counts:
        pen.text(draw, (across(steps), PANEL[1] + 4), str(steps), FAINT, 11, "ma")
    for level, color in ((floor, FAINT), (base, colors[reference[0]])):
        if level is not None:
            dashed(draw, pen, up(level), color)
    for sampler, color in colors.items():
        curve(
            draw, pen, [(across(s), up(value_of(cells[n, s], name))) for n, s in sorted(cells) if n == sampler], color
        )


def curve(draw: ImageDraw.ImageDraw, pen: Pen, points: list[Point], color: Color) -> None:
    """A line with a dot at every cell."""
    draw.line([pen(*point) for point in points], fill=color, width=2 * SCALE, joint="curve")
    for x, y in points:
        draw.ellipse([pen(x - 3, y - 3), pen(x + 3, y + 3)], fill=color)


def dashed(draw: ImageDraw.ImageDraw, pen: Pen, y: float, color: Color) -> None:
    for x in range(0, PANEL[0], 10):
        draw.line([pen(x, y), pen(min(x + 5, PANEL[0]), y)], fill=color, width=SCALE)


def ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers within the bounds."""
    rough = (high - low) / 4
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [round(index * step, 12) for index in range(math.ceil(low / step), math.floor(high / step) + 1)]


def legend(image: Image.Image, y: float, colors: dict[str, Color], cell: Cell, results: dict[str, Any]) -> None:
    """Names of the curves, and what the dashed lines are."""
    draw, pen, x = ImageDraw.Draw(image), Pen((LEFT, y)), 0.0
    for name, color in colors.items():
        draw.line([pen(x, 6), pen(x + 18, 6)], fill=color, width=3 * SCALE)
        pen.text(draw, (x + 24, 6), name, INK, 12, "lm")
        x += 42 + ImageFont.load_default(12).getlength(name)
    steps, n = results["of"]["preset"]["diffusion"]["steps"], cell["n"]
    text = f"across: sampling steps. Dashed: the reference (ddpm, {steps} steps); grey: real volumes. n = {n}"
    pen.text(draw, (0, 26), text, FAINT, 12, "lm")


class Pen:
    """Places things relative to a corner, in the finer grid of the drawing."""

    def __init__(self, corner: Point) -> None:
        self.corner = corner

    def __call__(self, x: float, y: float) -> Point:
        return (self.corner[0] + x) * SCALE, (self.corner[1] + y) * SCALE

    def text(
        self, draw: ImageDraw.ImageDraw, spot: Point, text: str, fill: Color, size: int, anchor: str = "la"
    ) -> None:
        draw.text(self(*spot), text, fill=fill, font=ImageFont.load_default(size * SCALE), anchor=anchor)
