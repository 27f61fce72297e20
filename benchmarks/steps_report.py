"""The answer of steps.py as a Markdown table and a picture."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from wdm_cli.engine import chart, curves
from wdm_cli.engine.curves import Cell
from wdm_cli.engine.files import write_text
from wdm_cli.engine.picture import BACKGROUND, FAINT, font, save_png

PANEL, TEXT = (560, 320), 12


def write_report(out: Path, results: dict[str, Any], verdicts: dict[Any, Any], reference: tuple[str, int]) -> None:
    """steps.md and steps.png from the results and, for every cell, the scores that are worse than the reference's."""
    cells = curves.scored_cells(results)
    write_text(out / "steps.md", table(cells, verdicts, results, reference))
    save_png(out / "steps.png", picture(cells, reference, results))


def table(cells: dict[Any, Cell], verdicts: dict[Any, Any], results: dict[str, Any], reference: tuple[str, int]) -> str:
    """All cells, one a row."""
    first = cells[reference]
    floors = {name: curves.floor_of(first, name) for name in curves.TITLES}
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
            f"| {key[0]} | {key[1]} | {number(curves.value_of(cell, 'kid'))}{width(kid, 1000)} "
            f"| {number(curves.value_of(cell, 'fid'))} | {number(curves.value_of(cell, 'spectrum'))} "
            f"| {number(curves.value_of(cell, 'msssim'))}{width(ssim)} | {limit(cell)} | {number(cell.get('seconds'))} "
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
    """Four charts over the number of steps: each score, with what real volumes score and the reference as lines."""
    image = Image.new("RGB", (2 * PANEL[0], 2 * PANEL[1] + 2 * TEXT), BACKGROUND)
    for index, panel in enumerate(curves.of_steps(cells, reference)):
        image.paste(chart.picture(panel, PANEL), (index % 2 * PANEL[0], index // 2 * PANEL[1]))
    steps, n = results["of"]["preset"]["diffusion"]["steps"], cells[reference]["n"]
    text = f"n = {n} volumes a point; the reference is ddpm with {steps} steps; points far off stand at the upper edge"
    ImageDraw.Draw(image).text((chart.LEFT, 2 * PANEL[1]), text, fill=FAINT, font=font(TEXT))
    return image
