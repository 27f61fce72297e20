"""A CT series to a training volume: HU, padding, resampling, window, RAS. One slice in memory at a time.

Every slice is decoded, set to −1000 HU where it is padding or below (before any interpolation: cubic splines
would carry −2000 hundreds of HU into the body), brought onto the wanted in-plane grid and kept only there.
The largest scan of LIDC-IDRI (764 slices of 512²) so needs 0.2 GB instead of 0.8 GB as float32.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from wdm_cli.engine.data.hounsfield import Census
from wdm_cli.engine.data.transforms import AIR
from wdm_cli.engine.dicom import Geometry, Policy, Series, Slice
from wdm_cli.engine.errors import DataError
from wdm_cli.engine.preprocess.crop import Body
from wdm_cli.engine.preprocess.decode import TwoFiles, rescaled
from wdm_cli.engine.preprocess.resample import Axis, Spline, axis_for, even, grid_affine, refuse_too_large
from wdm_cli.engine.preprocess.target import BODY, METAL, Prepared, Target, finish_ct, to_ras

Floats = npt.NDArray[np.float32]
LOWEST = -1024.0  # HU; scanners store air down to here
AGAIN = ", and so do others: two acquisitions that no tag tells apart"
NEAR_AIR = -900.0  # HU; padding below this looks like air anyway


@dataclass
class Seen:
    """What is counted over the slices."""

    census: Census = field(default_factory=Census)
    padding: int = 0
    clipped: int = 0
    duplicates: list[str] = field(default_factory=list)
    body: Body | None = None

    def add(self, hu: Floats, padding: npt.NDArray[np.bool_] | None) -> None:
        real = hu if padding is None else hu[~padding]
        outside = hu < LOWEST
        if padding is not None:
            outside |= padding & (hu > NEAR_AIR)
        self.padding += int(np.count_nonzero(outside))
        self.census.add(real)
        self.clipped += int(np.count_nonzero(real > METAL))

    @property
    def span(self) -> list[float]:
        """Lowest and highest value that is not padding."""
        return [self.census.low, self.census.high]

    def repairs(self) -> list[str]:
        found = list(self.duplicates)
        if self.padding:
            found.append(f"{self.padding:,} voxels of padding or below {LOWEST:g} HU set to {AIR:g}")
        if self.clipped:
            found.append(f"{self.clipped:,} voxels above {METAL:g} HU clipped")
        return found


def plan(stack: Geometry, target: Target) -> list[Axis]:
    """The wanted grid along columns, rows and slices."""
    x, y, z = stack.spacing
    first = stack.slices[0]
    across, down, through = target.along(stack.affine)
    return [
        axis_for(even(first.columns, x), *across),
        axis_for(even(first.rows, y), *down),
        _slice_axis(stack, z, *through),
    ]


def _slice_axis(stack: Geometry, step: float, size: int | None, spacing: float | None) -> Axis:
    """As `axis_for`, but knots may be uneven; positions count from the first slice."""
    knots = stack.positions - stack.positions[0]
    extent, wanted = float(knots[-1]) + step, spacing or step
    return Axis(size or max(1, round(extent / wanted)), wanted, extent, float(knots[-1]) / 2)


def padded_and_cropped(stack: Geometry, axes: list[Axis]) -> tuple[list[float], list[float]]:
    """mm added and left out along right, anterior and superior."""
    _, _, order = to_ras(np.empty((1, 1, 1)), stack.affine)
    return [axes[i].padded for i in order], [axes[i].cropped for i in order]


def prepare(series: Series, policy: Policy, target: Target, axes: list[Axis] | None = None) -> Prepared:
    """Decode, resample and scale a usable series; `axes` puts it on another grid than `plan` does.

    Raises:
        DataError: pixels are damaged, differ where they must not, or show no body; a file is named.
    """
    stack = series.stack
    assert stack is not None
    axes = axes or plan(stack, target)
    name = stack.slices[0].path.name
    refuse_too_large(f"{name} …", axes)
    seen = Seen(body=Body(axes) if any(axis.cropped for axis in axes) else None)
    planes = _planes(series, policy, axes, seen)
    if seen.census.high - seen.census.low < 1:
        raise DataError(f"{name} …: every voxel is {seen.census.low:g} HU")
    through = Spline(stack.positions - stack.positions[0]).weights(axes[2].centres)
    hu = (through @ planes.reshape(len(planes), -1)).reshape(-1, *planes.shape[1:]) + np.float32(AIR)
    hu, affine, _ = to_ras(hu.transpose(2, 1, 0), grid_affine(stack.affine, axes))
    try:
        array = finish_ct(hu, target, seen.census)
    except DataError as error:
        raise DataError(f"{name} …: {error.what}") from error
    padded, cropped = padded_and_cropped(stack, axes)
    facts = {
        "slices": len(stack.slices),
        "spacing_in": [round(mm, 4) for mm in stack.spacing],
        "spacing_out": [round(mm, 4) for mm in np.linalg.norm(affine[:3, :3], axis=0).tolist()],
        "shape": list(array.shape),
        "padded_mm": padded,
        "cropped_mm": cropped,
        "hu_range": seen.span,
        **(seen.body.facts() if seen.body else {}),
    }
    return Prepared(array, affine, tuple(seen.repairs()), facts)


def _planes(series: Series, policy: Policy, axes: list[Axis], seen: Seen) -> Floats:
    """[n, y, x] HU + 1000 of every slice on the in-plane grid: 0 is air, so what lies outside is air too."""
    stack = series.stack
    assert stack is not None
    first, (step_x, step_y, _) = stack.slices[0], stack.spacing
    splines = Spline(even(first.columns, step_x)), Spline(even(first.rows, step_y))
    planes = np.empty((len(stack.slices), axes[1].size, axes[0].size), np.float32)
    weights: dict[tuple[float, float], tuple[Floats, Floats]] = {}
    for number, (item, twins) in enumerate(zip(stack.slices, series.twins, strict=True)):
        hu, padding = rescaled(item)
        _compare(item, hu, twins, policy if not series.twice else None, seen)
        seen.add(hu, padding)
        if padding is not None:
            hu[padding] = AIR
        np.clip(hu, AIR, METAL, out=hu)
        if seen.body:
            here = (splines[0].knots + stack.offsets[number, 0], splines[1].knots + stack.offsets[number, 1],
                    stack.positions[number : number + 1] - stack.positions[0])  # fmt: skip
            seen.body.add(hu > BODY, here)
        shift = (round(float(stack.offsets[number, 0]), 4), round(float(stack.offsets[number, 1]), 4))
        if shift not in weights:  # one entry but for a tilted gantry, whose slices each have their own
            weights.clear()
            weights[shift] = tuple(  # type: ignore[assignment]
                spline.weights(axis.centres - mm) for spline, axis, mm in zip(splines, axes[:2], shift, strict=True)
            )
        across, down = weights[shift]
        planes[number] = down @ (hu - np.float32(AIR)) @ across.T
    return planes


def _compare(item: Slice, hu: Floats, twins: tuple[Slice, ...], policy: Policy | None, seen: Seen) -> None:
    """Files at the position of `item` must be copies of it; no policy where they make up another acquisition."""
    for twin in twins:
        other, _ = rescaled(twin)
        if np.array_equal(hu, other):
            continue
        if policy is None:
            raise different(item, twin, AGAIN)
        if policy.on_duplicate == "skip":
            raise different(item, twin, " (--on-duplicate first keeps the one that was made first)")
        seen.duplicates.append(f"{item.path.name} kept, {twin.path.name} at the same position differs")


def different(item: Slice, twin: Slice, told: str) -> TwoFiles:
    """What to say of two files at one place that are no copies."""
    text = f"{item.path.name} and {twin.path.name} lie at the same position with different pixels{told}"
    return TwoFiles(text, (item.path, twin.path))
