"""Pictures of every case, so that a person sees a bad one at a glance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from wdm_cli.engine.data.volume import Volume
from wdm_cli.engine.picture import BACKGROUND, INK, Group, mosaic, save_png

FOLDER = "previews"
SOFT_TISSUE = (-1000.0, 600.0)  # HU: lungs, soft tissue and bone are all told apart
TILE = 160
THUMBNAIL, LABEL = 140, 14  # width in the contact sheet, and height of the name above
MOST_COLUMNS, MOST_ROWS = 32, 64


def preview_path(out: Path, case: str) -> Path:
    return out / FOLDER / f"{case}.png"


def window_of(volume: Volume) -> tuple[float, float]:
    """What is shown as black and white: HU for volumes in HU, else the whole range [0, 1]."""
    return SOFT_TISSUE if volume.array.min() < -1 else (0.0, 1.0)


def write_preview(out: Path, case: str, volume: Volume) -> None:
    """Three planes of one case, the window stated below."""
    save_png(preview_path(out, case), mosaic([Group("", [volume], [case])], window_of(volume), tile=TILE))


def write_contact_sheet(out: Path, cases: Sequence[str]) -> Path | None:
    """One picture of all cases, made of their previews; None if there is none.

    Very large collections are shown up to 2,048 cases.
    """
    shown = [case for case in cases if preview_path(out, case).is_file()][: MOST_COLUMNS * MOST_ROWS]
    if not shown:
        return None
    cells = [_cell(out, case) for case in shown]
    columns = min(MOST_COLUMNS, max(4, round((2 * len(cells)) ** 0.5)), len(cells))
    height = max(cell.height for cell in cells)
    sheet = Image.new("RGB", (columns * THUMBNAIL, -(-len(cells) // columns) * height), BACKGROUND)
    for number, cell in enumerate(cells):
        sheet.paste(cell, (number % columns * THUMBNAIL, number // columns * height))
    path = out / "contact_sheet.png"
    save_png(path, sheet)
    return path


def _cell(out: Path, case: str) -> Image.Image:
    """A case's preview, reduced, under its name in a size that can still be read."""
    with Image.open(preview_path(out, case)) as picture:
        height = round(picture.height * THUMBNAIL / picture.width)
        small = picture.convert("RGB").resize((THUMBNAIL, height), Image.Resampling.LANCZOS)
    cell = Image.new("RGB", (THUMBNAIL, height + LABEL), BACKGROUND)
    cell.paste(small, (0, LABEL))
    draw, font, name, kept = ImageDraw.Draw(cell), ImageFont.load_default(10), case, len(case)
    while draw.textlength(name, font) > THUMBNAIL - 4:
        kept -= 1
        name = f"{case[: (kept + 1) // 2]}…{case[len(case) - kept // 2 :]}"
    draw.text((2, 2), name, fill=INK, font=font)
    return cell
