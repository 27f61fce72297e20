"""How volumes lie: the directions of their axes and their voxel sizes, and volumes turned to one order of axes.

A turn flips and exchanges axes: every voxel keeps its value and its place in the world. Axes of an oblique volume are
called by the direction that they are nearest to.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

import nibabel as nib
import numpy as np

from wdm_cli.engine.data.header import refuse_leaning
from wdm_cli.engine.data.volume import Affine, Volume, read_grid

T = TypeVar("T")
Shape = tuple[int, int, int]
DIRECTIONS = ("LR", "PA", "IS")


@dataclass(frozen=True)
class Lay:
    """Sides of a volume in voxels, their size in mm, and where its axes point (e.g. RAS), along its own axes."""

    shape: Shape
    spacing: tuple[float, float, float]
    axes: str

    @classmethod
    def of(cls, shape: tuple[int, ...], affine: Affine) -> Lay:
        i, j, k = np.linalg.norm(affine[:3, :3], axis=0).tolist()
        return cls(cast("Shape", tuple(shape)), (i, j, k), "".join(nib.aff2axcodes(affine)))

    def voxels(self, axes: str) -> str:
        """The voxel size in words, along other axes."""
        return " × ".join(f"{mm:.3g}" for mm in along(self.spacing, self.axes, axes))


def lay_of(path: Path) -> Lay:
    """How the volume of a file lies, from its header alone.

    Raises:
        DataError: the file is no usable NIfTI, or its axes are not perpendicular.
    """
    shape, affine = read_grid(path)
    refuse_leaning(path, affine)
    return Lay.of(shape, affine)


def along(values: tuple[T, T, T], have: str, want: str) -> tuple[T, T, T]:
    """One value an axis, reordered from axes that point to `have` to those that point to `want`."""
    places = [_direction(letter) for letter in have]
    a, b, c = (values[places.index(_direction(letter))] for letter in want)
    return a, b, c


def _direction(letter: str) -> int:
    return next(number for number, pair in enumerate(DIRECTIONS) if letter in pair)


def turn(volume: Volume, axes: str) -> Volume:
    """The volume with its axes flipped and exchanged so that they point to `axes`; itself if they do."""
    have = nib.orientations.io_orientation(volume.affine)
    change = nib.orientations.ornt_transform(have, nib.orientations.axcodes2ornt(tuple(axes)))
    if np.array_equal(change, [[0, 1], [1, 1], [2, 1]]):
        return volume
    array = np.ascontiguousarray(nib.orientations.apply_orientation(volume.array, change))
    return Volume(array, volume.affine @ nib.orientations.inv_ornt_aff(change, volume.shape))
