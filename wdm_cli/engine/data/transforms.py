"""From raw voxels to a training volume: intensities to [0, 1], the image-size rule, [0, 1] to [−1, 1]. Pure numpy.

The order is that of the official loaders: intensities over the whole raw volume first, then padding with 0, then
average pooling.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wdm_cli.engine.data.hounsfield import UNIT_TOLERANCE
from wdm_cli.engine.data.volume import ALIKE, Affine, Array, Sides

Margins = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]

LOW_QUANTILE, HIGH_QUANTILE = 0.001, 0.999
AIR = -1000.0  # HU; what is below is padding or noise
ANATOMY = 0.1  # further than this share of the intensity range from the background a voxel is anatomy
COMMON = 0.5  # share of the outer faces that a background without noise fills


@dataclass(frozen=True, eq=False)
class Fitted:
    """A volume brought to the wanted shape, and how.

    Attributes:
        array: [D, H, W], the wanted shape.
        factor: raw voxels averaged, an axis each.
        padded, cropped: raw voxels added or removed at the low and high end of each axis.
        lost: the part of `cropped` that reaches into anatomy, in raw voxels.
    """

    array: Array
    factor: Sides
    padded: Margins
    cropped: Margins
    lost: Margins

    def affine(self, raw: Affine) -> Affine:
        """The affine of `array`: voxel j covers raw voxels f·j … f·j + f − 1 and lies at their centre."""
        index = np.diag([*self.factor, 1]).astype(np.float64)
        for axis, factor in enumerate(self.factor):
            start = self.cropped[axis][0] - self.padded[axis][0]
            index[axis, 3] = start + (factor - 1) / 2
        return raw @ index


def needed(raw: Sequence[int], shape: Sides, margin: float = 0.1) -> Sides:
    """The smallest factor of each axis that loses no more than `margin` of its raw side: f·side >= (1 − margin)·raw."""
    i, j, k = (max(1, math.ceil(n * (1 - margin) / side - 1e-9)) for n, side in zip(raw, shape, strict=True))
    return i, j, k


def factors(least: Sides, spacing: Sequence[float]) -> Sides:
    """How far a volume by itself is averaged along each axis, at least `least` (see `needed`).

    Axes whose voxels are as fine as the finest (up to a tenth) share one factor, so that cubes stay cubes. A coarser
    axis, as that of thick slices, is averaged no further than it must, or than its voxels stay as short as theirs
    become: 512×512×40 voxels of 0.84×0.84×5 mm at 128×128×48 by 4, 4 and 1.
    """
    finest = min(spacing)
    shared = max(f for f, mm in zip(least, spacing, strict=True) if mm <= ALIKE * finest)
    i, j, k = (
        shared if mm <= ALIKE * finest else max(f, math.floor(shared * finest / mm + 1e-9))
        for f, mm in zip(least, spacing, strict=True)
    )
    return i, j, k


def fit(array: Array, shape: Sides, factor: Sides, fill: float = 0.0) -> Fitted:
    """The image-size rule: pad or crop to `factor` times `shape`, then average down.

    240×240×155 at 128³ is padded to 256³ (8/8, 8/8, 50/51) and halved.

    Args:
        array: [D, H, W] in [0, 1], any shape.
        shape: the wanted sides.
        factor: raw voxels to average along each axis; what `needed` says crops no more than its margin.
        fill: value of the background and of padding.
    """
    excess = [raw - f * side for raw, f, side in zip(array.shape, factor, shape, strict=True)]
    padded, cropped = _halves([-n for n in excess]), _halves(excess)
    kept = tuple(slice(lo, raw - hi) for (lo, hi), raw in zip(cropped, array.shape, strict=True))
    canvas = np.pad(array[kept], padded, constant_values=fill) if any(map(any, padded)) else array[kept]
    return Fitted(pool(canvas, factor), factor, padded, cropped, _lost(array, fill, cropped))


def background(array: Array) -> float | None:
    """The value that most voxels of the outer faces share, as after skull-stripping; None if no value is so common."""
    faces = [array.take(end, axis).ravel() for axis in range(3) for end in (0, -1)]
    values, counts = np.unique(np.concatenate(faces), return_counts=True)
    commonest = int(counts.argmax())
    return float(values[commonest]) if counts[commonest] >= COMMON * counts.sum() else None


def pool(array: Array, factor: Sides) -> Array:
    """Average over blocks of `factor` voxels; sides must be multiples of it."""
    for axis in (2, 1, 0):
        if factor[axis] == 1:
            continue
        taps = [array[(slice(None),) * axis + (slice(start, None, factor[axis]),)] for start in range(factor[axis])]
        total = taps[0] + taps[1]
        for tap in taps[2:]:
            total += tap
        array = total
    return np.ascontiguousarray(array) if factor == (1, 1, 1) else array / np.float32(math.prod(factor))


def quantiles(array: Array, shares: Sequence[float]) -> list[float]:
    """Exact quantiles with linear interpolation in float64.

    `np.quantile` computes the rank in the array's own type, and float32 cannot hold a rank of a large volume.
    """
    flat = array.ravel()
    ranks = [share * (flat.size - 1) for share in shares]
    ends = [(math.floor(rank), math.ceil(rank)) for rank in ranks]
    ordered = np.partition(flat, sorted({end for pair in ends for end in pair}))
    found = []
    for rank, (below, above) in zip(ranks, ends, strict=True):
        low, high = float(ordered[below]), float(ordered[above])
        found.append(low + (high - low) * (rank - below))
    return found


def unit_mr(array: Array) -> Array:
    """BraTS rule of the paper: clip at the 0.1 % and 99.9 % quantiles of the whole volume, min-max to [0, 1].

    Raises:
        ValueError: nothing but one value is left after clipping.
    """
    low, high = quantiles(array, (LOW_QUANTILE, HIGH_QUANTILE))
    return _min_max(array, low, high)


def unit_ct(array: Array) -> Array:
    """LIDC rule of the paper: clip below −1000 HU and above the 99.9 % quantile, min-max to [0, 1].

    A volume that lies in [0, 1] already has been through this rule and is taken as it is. Whether the numbers are HU
    at all is asked before (`hounsfield.Census`).

    Raises:
        ValueError: nothing but one value is left.
    """
    low, high = float(array.min()), float(array.max())
    if low >= -UNIT_TOLERANCE and high <= 1 + UNIT_TOLERANCE:
        return np.clip(array, 0, 1)
    (high,) = quantiles(array, (HIGH_QUANTILE,))
    return _min_max(array, max(AIR, low), high)


def unit_window(array: Array, window: tuple[float, float]) -> Array:
    """Clip to `window` (HU) and map it linearly to [0, 1]; `to_window` is the inverse inside the window.

    Raises:
        ValueError: every voxel falls on one side of the window.
    """
    low, high = window
    if array.max() <= low or array.min() >= high:
        raise ValueError(f"every voxel lies outside the window {low:g}…{high:g}")
    return _min_max(array, low, high)


def to_window(array: NDArray[np.float32], window: tuple[float, float]) -> NDArray[np.int16]:
    """A volume in [−1, 1] as int16 HU of `window`: exact for the whole numbers that `unit_window` was given."""
    low, high = window
    hu = (array.astype(np.float64) + 1) / 2 * (high - low) + low
    return np.clip(np.rint(hu), -32768, 32767).astype(np.int16)


def _min_max(array: Array, low: float, high: float) -> Array:
    bottom, top = np.float32(low), np.float32(high)
    if not bottom < top:
        raise ValueError(f"nearly every voxel is {low:g}: no range of intensities is left after clipping")
    unit = np.clip(array, bottom, top)
    unit -= bottom
    unit /= top - bottom  # in float32, so that the highest value becomes exactly 1
    return np.clip(unit, 0, 1, out=unit)


def _halves(counts: Sequence[int]) -> Margins:
    """Split each positive count into a lower and an upper end: the lower gets n // 2."""
    a, b, c = ((max(n, 0) // 2, max(n, 0) - max(n, 0) // 2) for n in counts)
    return a, b, c


def _lost(array: Array, fill: float, cropped: Margins) -> Margins:
    """How far each crop reaches into anatomy: from the outermost voxel that is unlike `fill` to the cut."""
    found = []
    for axis, (lo, hi) in enumerate(cropped):
        first, last = lo, hi
        if lo or hi:
            others = tuple(other for other in range(3) if other != axis)
            inside = np.flatnonzero(np.maximum(array.max(axis=others) - fill, fill - array.min(axis=others)) > ANATOMY)
            if inside.size:
                first, last = int(inside[0]), array.shape[axis] - 1 - int(inside[-1])
        found.append((max(0, lo - first), max(0, hi - last)))
    return found[0], found[1], found[2]
