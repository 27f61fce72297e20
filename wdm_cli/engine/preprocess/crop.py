"""What is lost where the wanted volume is smaller than the scan: how much of the body, and which size would hold it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from wdm_cli.engine.preprocess.resample import Axis, even

MULTIPLE = 32  # of the size that is proposed; networks halve volumes up to five times
NEGLIGIBLE = 1e-3  # share of the body that may lie outside along one axis of that size: tables, noise
FOREGROUND = 0.1  # share of the 99.9 % quantile above the lowest value, from which on MR shows anatomy
Mask = npt.NDArray[np.bool_]
Matrix = npt.NDArray[np.float64]


class Body:
    """Voxels of anatomy, counted in the scan as it lies in its files, slice by slice.

    axes: of the wanted grid, along columns, rows and slices.
    """

    def __init__(self, axes: Sequence[Axis]) -> None:
        self.axes = axes
        self.total = self.inside = 0
        self.counts: list[dict[int, int]] = [{}, {}, {}]  # along each axis: half sizes in wanted voxels -> voxels

    @classmethod
    def of(cls, mask: Mask, axes: Sequence[Axis], places: Sequence[Matrix]) -> Body:
        """Of a whole [x, y, z] mask whose voxels lie at `places`, mm along every axis."""
        body = cls(axes)
        for number in range(mask.shape[2]):
            body.add(mask[:, :, number].T, (places[0], places[1], places[2][number : number + 1]))
        return body

    def add(self, mask: Mask, places: tuple[Matrix, Matrix, Matrix]) -> None:
        """Count a slice [rows, columns]. places: mm of columns, rows and the slice itself, as `axes`."""
        halves = [_half_size(axis, at) for axis, at in zip(self.axes, places, strict=True)]
        columns, rows = mask.sum(axis=0), mask.sum(axis=1)
        voxels = np.array([columns.sum()])
        for found, half_sizes, counts in zip(self.counts, halves, (columns, rows, voxels), strict=True):
            for half, count in enumerate(np.bincount(half_sizes, weights=counts).astype(int).tolist()):
                if count:
                    found[half] = found.get(half, 0) + count
        self.total += int(voxels[0])
        kept = [
            np.abs(at - axis.middle) <= axis.size * axis.spacing / 2 for axis, at in zip(self.axes, places, strict=True)
        ]
        if kept[2][0]:
            self.inside += int(np.count_nonzero(mask[np.ix_(kept[1], kept[0])]))

    def facts(self) -> dict[str, Any]:
        """lost_share: of the body's voxels that lie outside the volume. size_needed: voxels a side that hold it."""
        if not self.total or not any(axis.cropped for axis in self.axes):
            return {}
        needed = max(self._needed(counts) for counts in self.counts)
        share = round(1 - self.inside / self.total, 4)
        return {"lost_share": share, "size_needed": -(-needed // MULTIPLE) * MULTIPLE}

    def _needed(self, counts: dict[int, int]) -> int:
        outside = self.total
        for half in sorted(counts):
            outside -= counts[half]
            if outside <= NEGLIGIBLE * self.total:
                return 2 * half
        return 0


def of_volume(array: npt.NDArray[np.float32], axes: Sequence[Axis], threshold: float | None = None) -> dict[str, Any]:
    """Facts on a whole volume [x, y, z] before it is cropped; without a threshold what is brighter than background."""
    if not any(axis.cropped for axis in axes):
        return {}
    if threshold is None:
        low, high = float(array.min()), float(np.quantile(array[::2, ::2, ::2], 0.999))
        threshold = low + FOREGROUND * (high - low)
    places = [even(n, axis.extent / n) for n, axis in zip(array.shape, axes, strict=True)]
    return Body.of(array > threshold, axes, places).facts()


def _half_size(axis: Axis, at: Matrix) -> npt.NDArray[np.int64]:
    """[n] half of the voxels that a volume around the same middle needs to hold the middles of voxels at `at`."""
    return np.ceil(np.abs(at - axis.middle) / axis.spacing - 1e-9).astype(np.int64)
