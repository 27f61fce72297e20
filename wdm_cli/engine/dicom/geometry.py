"""Where the voxels of a series are: order, spacing, steps, tilt and affine, from positions and orientations alone.

Slices are ordered by their position along the normal of their plane (DICOM PS3.3, C.7.6.2.1.1); instance
numbers, slice locations and file names are never consulted.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from wdm_cli.engine.dicom.headers import Slice

Array = npt.NDArray[np.float64]
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])  # what DICOM, NRRD and MetaImage state -> what NIfTI states
SAME_POSITION = 0.01  # mm; writers round positions, and no scanner makes slices this close
STEP_TOLERANCE = 0.01  # share of the median step; also at least ROUNDING mm
ROUNDING = 0.02


@dataclass(frozen=True, eq=False)
class Geometry:
    """A stack of parallel slices.

    slices: in rising order along the normal, all of one shape and spacing.
    positions: [n] mm along the normal. offsets: [n, 2] mm that each slice is shifted within its plane,
    along its rows and its columns, against the middle slice; zero but for a tilted gantry.
    """

    slices: tuple[Slice, ...]
    positions: Array
    offsets: Array

    @classmethod
    def of(cls, slices: list[Slice]) -> Geometry:
        """Sort slices that all have a position and share one orientation."""
        along_row, along_column, normal = directions(slices[0])
        places = np.array([item.position for item in slices], dtype=np.float64)
        positions = places @ normal
        order = np.argsort(positions, kind="stable")
        in_plane = places[order] @ np.stack([along_row, along_column], axis=1)
        return cls(tuple(slices[i] for i in order), positions[order], in_plane - in_plane[len(order) // 2])

    @cached_property
    def groups(self) -> list[list[int]]:
        """Indices of slices, those at the same position together."""
        groups: list[list[int]] = [[0]]
        for index, step in enumerate(np.diff(self.positions).tolist(), start=1):
            if step > SAME_POSITION:
                groups.append([index])
            else:
                groups[-1].append(index)
        return groups

    def at_distinct_positions(self) -> Geometry:
        """The first slice of every position."""
        keep = [group[0] for group in self.groups]
        return Geometry(tuple(self.slices[i] for i in keep), self.positions[keep], self.offsets[keep])

    @property
    def steps(self) -> Array:
        """[n - 1] mm between neighbours."""
        return np.diff(self.positions)

    @property
    def step(self) -> float:
        """The median step in mm, as precise as positions allow: the mean of the regular ones."""
        regular = self.steps[~self.odd_steps]
        return float(regular.mean()) if regular.size else float(np.median(self.steps))

    @property
    def odd_steps(self) -> npt.NDArray[np.bool_]:
        """Which steps differ from the median by more than 1 %."""
        median = np.median(self.steps)
        return np.abs(self.steps - median) > max(STEP_TOLERANCE * float(median), ROUNDING)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """mm between columns, between rows and between slices: along the slice array's axes x, y, z."""
        between_rows, between_columns = self.slices[0].spacing or (0.0, 0.0)
        return between_columns, between_rows, self.step

    @property
    def extent(self) -> tuple[float, float, float]:
        """mm covered along x, y and z, counting whole voxels."""
        x, y, z = self.spacing
        return self.slices[0].columns * x, self.slices[0].rows * y, float(np.ptp(self.positions)) + z

    @property
    def tilt(self) -> float:
        """Angle in degrees between the normal and the line through the slices' corners."""
        if len(self.positions) < 2:
            return 0.0
        shift = np.linalg.norm(self.offsets[-1] - self.offsets[0])
        return float(np.degrees(np.arctan2(shift, np.ptp(self.positions))))

    @property
    def wander(self) -> float:
        """The largest in-plane distance in mm of a slice from the straight line through the stack."""
        if len(self.positions) < 3:
            return 0.0
        fitted = np.polynomial.polynomial.polyfit(self.positions, self.offsets, 1)
        line = np.polynomial.polynomial.polyval(self.positions, fitted).T
        return float(np.linalg.norm(self.offsets - line, axis=1).max())

    @property
    def axes(self) -> str:
        """The sides of the body that columns, rows and slices rise to, e.g. LPS."""
        return "".join(_side(axis) for axis in directions(self.slices[0]))

    @property
    def obliqueness(self) -> float:
        """Angle in degrees between the axes and the nearest axes of the body."""
        return max(_angle_to_axis(axis) for axis in directions(self.slices[0]))

    @property
    def affine(self) -> Array:
        """[4, 4] from (column, row, slice) of the middle slice's frame to RAS mm."""
        along_row, along_column, normal = directions(self.slices[0])
        x, y, z = self.spacing
        middle = self.slices[len(self.slices) // 2]
        origin = np.array(middle.position) + normal * (self.positions[0] - self.positions[len(self.slices) // 2])
        affine = np.eye(4)
        affine[:3, :3] = LPS_TO_RAS @ np.stack([along_row * x, along_column * y, normal * z], axis=1)
        affine[:3, 3] = LPS_TO_RAS @ origin
        return np.asarray(affine, np.float64)


def directions(item: Slice) -> tuple[Array, Array, Array]:
    """Unit vectors (LPS) along a row, along a column and along the normal."""
    orientation = np.array(item.orientation, dtype=np.float64)
    along_row = orientation[:3] / np.linalg.norm(orientation[:3])
    along_column = orientation[3:] / np.linalg.norm(orientation[3:])
    return along_row, along_column, np.cross(along_row, along_column)


def is_frame(item: Slice) -> bool:
    """Whether the orientation is two perpendicular unit vectors, to what rounding explains."""
    orientation = np.array(item.orientation, dtype=np.float64)
    lengths = np.linalg.norm(orientation[:3]), np.linalg.norm(orientation[3:])
    return bool(np.allclose(lengths, 1, atol=0.01)) and abs(float(orientation[:3] @ orientation[3:])) < 0.01


def _angle_to_axis(direction: Array) -> float:
    return float(np.degrees(np.arccos(min(1.0, float(np.abs(direction).max())))))


def _side(direction: Array) -> str:
    axis = int(np.abs(direction).argmax())
    return ("RL", "AP", "IS")[axis][int(direction[axis] > 0)]
