"""An MR series to a training volume: intensities, optional resampling, RAS, the paper's quantiles.

Oblique acquisitions are normal in MR: axes are turned to the nearest of the body's and the true angles stay in
the affine. Without a size and a spacing no voxel is interpolated.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from wdm_cli.engine.data.volume import MAX_BYTES, times
from wdm_cli.engine.dicom import Geometry, Policy, Series
from wdm_cli.engine.errors import DataError
from wdm_cli.engine.preprocess.crop import of_volume
from wdm_cli.engine.preprocess.ct import AGAIN, different, padded_and_cropped, plan
from wdm_cli.engine.preprocess.decode import rescaled
from wdm_cli.engine.preprocess.resample import Axis, Spline, even, grid_affine, refuse_too_large
from wdm_cli.engine.preprocess.target import Prepared, Target, finish_mr, to_ras

Floats = npt.NDArray[np.float32]
UNTOLD = ", and no echo, time or acquisition tells them apart"


def prepare(series: Series, policy: Policy, target: Target) -> Prepared:
    """Decode, resample where wanted, turn to RAS and scale a usable series.

    Raises:
        DataError: pixels are damaged or differ at one position, or show one value only; a file is named.
    """
    stack = series.stack
    assert stack is not None
    name = stack.slices[0].path.name
    axes = plan(stack, target)
    refuse_too_large(f"{name} …", axes)
    array, padding = _read(series)
    low, high = float(array.min()), float(array.max())
    lost = of_volume(array.transpose(2, 1, 0), axes)
    affine = stack.affine
    if not target.keeps_grid or stack.odd_steps.any():
        array = _resample(array, stack, axes, low, high)
        affine = grid_affine(affine, axes)
    array, affine, _ = to_ras(array.transpose(2, 1, 0), affine)
    try:
        made = finish_mr(array)
    except DataError as error:
        raise DataError(f"{name} …: {error.what}") from error
    repairs = (f"{padding:,} voxels of padding set to the lowest value",) if padding else ()
    facts = _facts(stack, axes, affine, made.shape, (low, high)) | lost
    return Prepared(made, affine, repairs, facts)


def _read(series: Series) -> tuple[Floats, int]:
    """[n, rows, columns] intensities, padding set to the lowest of the others, and how much padding there was."""
    stack = series.stack
    assert stack is not None
    first = stack.slices[0]
    shape = (len(stack.slices), first.rows, first.columns)
    if math.prod(shape) * 4 > MAX_BYTES:
        raise DataError(f"{first.path.name} …: {times(shape)} voxels are more than {MAX_BYTES / 2**30:g} GiB")
    array, padded = np.zeros(shape, np.float32), np.zeros(shape, bool)
    for number, (item, twins) in enumerate(zip(stack.slices, series.twins, strict=True)):
        array[number], padding = rescaled(item)
        for twin in twins:  # other images of the place are series of their own, unless nothing tells them apart
            if not np.array_equal(array[number], rescaled(twin)[0]):
                raise different(item, twin, AGAIN if series.twice else UNTOLD)
        if padding is not None:
            padded[number] = padding
    if not np.isfinite(array).all():
        raise DataError(f"{first.path.name} …: {np.count_nonzero(~np.isfinite(array)):,} values are not finite")
    if padded.all() or float(array[~padded].min()) == float(array[~padded].max()):
        raise DataError(f"{first.path.name} …: every voxel is {array.flat[0]:g}")
    lowest = array[~padded].min()
    changed = int(np.count_nonzero(array[padded] != lowest))
    array[padded] = lowest
    return array, changed


def _resample(array: Floats, stack: Geometry, axes: list[Axis], low: float, high: float) -> Floats:
    """Onto the wanted grid by true positions; the lowest value outside, and no overshoot of splines."""
    knots = (stack.positions - stack.positions[0], even(array.shape[1], stack.spacing[1]),
             even(array.shape[2], stack.spacing[0]))  # fmt: skip
    result = array - np.float32(low)
    for number, (places, axis) in enumerate(zip(knots, axes[::-1], strict=True)):
        weights = Spline(places).weights(axis.centres)
        result = np.moveaxis(np.tensordot(weights, result, axes=(1, number)), 0, number)
    return np.asarray(np.clip(result + np.float32(low), low, high), np.float32)


def _facts(
    stack: Geometry, axes: list[Axis], affine: Any, shape: tuple[int, ...], seen: tuple[float, float]
) -> dict[str, Any]:
    padded, cropped = padded_and_cropped(stack, axes)
    return {
        "slices": len(stack.slices),
        "spacing_in": [round(mm, 4) for mm in stack.spacing],
        "spacing_out": [round(mm, 4) for mm in np.linalg.norm(affine[:3, :3], axis=0).tolist()],
        "shape": list(shape),
        "padded_mm": padded,
        "cropped_mm": cropped,
        "range": list(seen),
        "axes_in": stack.axes,
        "oblique_degrees": round(stack.obliqueness, 2),
        "contrast": list(stack.slices[0].contrast),
    }
