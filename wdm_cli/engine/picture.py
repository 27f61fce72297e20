"""Pictures of volumes: three planes through the middle, upright and in true proportion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from wdm_cli.engine.data.volume import Volume
from wdm_cli.engine.files import atomic_publish

BACKGROUND, INK, FAINT = (16, 18, 22), (232, 234, 238), (138, 146, 158)
PLANES = ("axial", "coronal", "sagittal")
TEXT, SMALL = 15, 11  # sizes of type in pixels
GAP, MARGIN, GUTTER = 4, 18, 26  # between planes, around the picture, between groups
HEADING = 2 * TEXT + 10  # a group's title and the names of its volumes
MOST_COLUMNS = 8
NOT_IN_FONT = str.maketrans({"³": "^3", "²": "^2", "−": "-", "–": "-", "—": "-", "×": "x", "→": "to", "µ": "u"})
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Group:
    """Volumes that belong together, with one name each ("" for none)."""

    title: str
    volumes: Sequence[Volume]
    names: Sequence[str] = ()


def mosaic(groups: Sequence[Group], window: tuple[float, float], caption: str = "", tile: int = 144) -> Image.Image:
    """One picture of all groups: a column for each volume, a row for each plane.

    Planes pass through the middle of the volume. Superior and anterior point up; in the sagittal plane anterior
    points left. Radiological convention: the patient's right is on the left of the axial and coronal planes
    (small letters say so). Directions and proportions come from the affine. Groups stand side by side
    as long as they have at most eight columns together; a larger group goes on in further rows.

    Args:
        groups: what to show; groups without volumes are left out.
        window: the intensities shown as black and white; stated below the picture, after `caption`.
        tile: pixels of the longest side of a volume.
    """
    groups = [group for group in groups if group.volumes]
    blocks = [_group(group, window, tile) for group in groups]
    beside = sum(len(group.volumes) for group in groups) <= MOST_COLUMNS
    spots, x, y = [], MARGIN, MARGIN
    for block in blocks:
        spots.append((x, y))
        x, y = (x + block.width + GUTTER, y) if beside else (x, y + block.height + GUTTER)
    width = max((left + block.width for (left, _), block in zip(spots, blocks, strict=True)), default=0)
    height = max((top + block.height for (_, top), block in zip(spots, blocks, strict=True)), default=0)
    low, high = window
    text = f"{caption + ' · ' if caption else ''}window {low:g} … {high:g} · right is on the left (R)"
    lines = _wrapped(text, width - MARGIN)
    picture = Image.new("RGB", (width + MARGIN, height + MARGIN + len(lines) * (TEXT + 3)), BACKGROUND)
    for spot, block in zip(spots, blocks, strict=True):
        picture.paste(block, spot)
    draw = ImageDraw.Draw(picture)
    for number, line in enumerate(lines):
        draw.text((MARGIN, height + 8 + number * (TEXT + 3)), line, fill=FAINT, font=font(SMALL + 1))
    return picture


def save_png(path: Path, image: Image.Image) -> None:
    """Write a PNG, whole or not at all."""
    with atomic_publish(path) as temporary:
        image.save(temporary, format="PNG", optimize=True)


def planes(volume: Volume) -> list[tuple[NDArray[np.float32], tuple[float, float]]]:
    """Axial, coronal and sagittal middle slices as they are seen: (picture rows × columns, mm per row and column)."""
    array, (x, y, z) = _upright(volume)
    i, j, k = (side // 2 for side in array.shape)
    axial, coronal, sagittal = array[:, :, k].T, array[:, j, :].T, array[i, ::-1, :].T
    return [(axial[::-1, ::-1], (y, x)), (coronal[::-1, ::-1], (z, x)), (sagittal[::-1], (z, y))]


def _upright(volume: Volume) -> tuple[NDArray[np.float32], tuple[float, float, float]]:
    """Axes reordered and flipped to right, anterior, superior, and their spacing in mm."""
    turn = nib.orientations.io_orientation(volume.affine)
    array = nib.orientations.apply_orientation(volume.array, turn)
    spacing = [0.0, 0.0, 0.0]
    for axis, (world, _) in enumerate(turn):
        spacing[int(world)] = volume.spacing[axis]
    return array, (spacing[0], spacing[1], spacing[2])


def _group(group: Group, window: tuple[float, float], tile: int) -> Image.Image:
    """A titled block: columns are volumes, rows are planes."""
    label = 18  # the planes' names, written upwards
    columns = min(len(group.volumes), MOST_COLUMNS)
    rows = -(-len(group.volumes) // columns)
    block_height = TEXT + 4 + 3 * (tile + GAP) + GAP
    title = _fitted(group.title, label + columns * (tile + GAP), TEXT)
    image = Image.new("RGB", (label + columns * (tile + GAP) - GAP, HEADING - TEXT + rows * block_height), BACKGROUND)
    draw = ImageDraw.Draw(image)
    draw.text((label, 0), title, fill=INK, font=font(TEXT))
    names = list(group.names) + [""] * (len(group.volumes) - len(group.names))
    for index, (volume, name) in enumerate(zip(group.volumes, names, strict=True)):
        left = label + index % columns * (tile + GAP)
        top = HEADING - TEXT + index // columns * block_height
        draw.text((left, top), _fitted(name, tile - GAP, SMALL), fill=FAINT, font=font(SMALL))
        for row, plane in enumerate(_tiles(volume, window, tile)):
            spot = (left, top + TEXT + row * (tile + GAP))
            image.paste(plane, spot)
            if index % columns == 0:
                _upwards(image, PLANES[row], (0, spot[1]), tile)
    return image


def strip(volume: Volume, window: tuple[float, float], tile: int) -> Image.Image:
    """The three planes of a volume side by side, in grey: a thumbnail of 3 × tile by tile pixels."""
    image = Image.new("L", (3 * tile, tile))
    for index, plane in enumerate(_tiles(volume, window, tile)):
        image.paste(plane.convert("L"), (index * tile, 0))
    return image


def _tiles(volume: Volume, window: tuple[float, float], tile: int) -> list[Image.Image]:
    """The three planes as square tiles, all in one scale."""
    low, high = window
    seen = planes(volume)
    scale = tile / max(side * mm for picture, size in seen for side, mm in zip(picture.shape, size, strict=True))
    tiles = []
    for name, (picture, (row_mm, column_mm)) in zip(PLANES, seen, strict=True):
        grey = np.clip((picture - low) / (high - low) * 255 + 0.5, 0, 255).astype(np.uint8)
        size = (round(picture.shape[1] * column_mm * scale) or 1, round(picture.shape[0] * row_mm * scale) or 1)
        square = Image.new("RGB", (tile, tile))
        shown = Image.fromarray(grey).resize(size, Image.Resampling.BICUBIC).convert("RGB")
        square.paste(shown, ((tile - size[0]) // 2, (tile - size[1]) // 2))
        left, right = ("A", "P") if name == "sagittal" else ("R", "L")
        draw = ImageDraw.Draw(square)
        look: dict[str, Any] = {"fill": FAINT, "font": font(SMALL), "stroke_width": 2, "stroke_fill": (0, 0, 0)}
        draw.text((3, tile // 2), left, anchor="lm", **look)
        draw.text((tile - 3, tile // 2), right, anchor="rm", **look)
        tiles.append(square)
    return tiles


def _upwards(image: Image.Image, text: str, spot: tuple[int, int], length: int) -> None:
    strip = Image.new("RGB", (length, SMALL + 4), BACKGROUND)
    ImageDraw.Draw(strip).text((length // 2, 0), text, fill=FAINT, font=font(SMALL), anchor="ma")
    image.paste(strip.transpose(Image.Transpose.ROTATE_90), spot)


def font(size: int) -> Font:
    """The typeface that comes with Pillow."""
    return ImageFont.load_default(size)


def printable(text: str) -> str:
    """Text in the signs that the typeface has."""
    return text.translate(NOT_IN_FONT)


def _fitted(text: str, width: int, size: int) -> str:
    """Text shortened in its middle, where names differ least, until it fits."""
    short = text = printable(text)
    typeface, kept = font(size), len(text)
    while kept > 3 and typeface.getlength(short) > width:
        kept -= 1
        short = text[: kept // 2] + "…" + text[len(text) - (kept - kept // 2) :]
    return short


def _wrapped(text: str, width: int) -> list[str]:
    """Text in lines that fit."""
    lines = [""]
    for word in printable(text).split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font(SMALL + 1).getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
