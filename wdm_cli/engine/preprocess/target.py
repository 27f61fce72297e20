"""What is wanted of every volume, and what came of one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import nibabel as nib
import numpy as np
import numpy.typing as npt

from wdm_cli.engine.data.hounsfield import Census
from wdm_cli.engine.data.transforms import AIR, unit_ct, unit_mr
from wdm_cli.engine.data.volume import Affine
from wdm_cli.engine.errors import ConfigError, DataError

METAL = 3071.0  # HU; what is written lies between AIR and this, where 12-bit CT ends
BODY = -500.0  # HU; a scan with nearly nothing above it shows no body
LEAST_BODY = 0.005  # share of voxels


@dataclass(frozen=True, kw_only=True)
class Target:
    """The training volume.

    size: voxels a side, None to keep what is there. spacing: mm of a voxel, None to keep it.
    intensity: `paper` (quantile and min-max to [0, 1], float32) or `fixed-window` (int16 HU, CT only).
    """

    modality: Literal["ct", "mr"] = "ct"
    size: int | None = 256
    spacing: float | None = 1.0
    intensity: Literal["paper", "fixed-window"] = "paper"

    def __post_init__(self) -> None:
        if self.size is not None and not 8 <= self.size <= 1024:
            raise ConfigError(f"--size {self.size}: must be 8 to 1024")
        if self.spacing is not None and not 0.1 <= self.spacing <= 20:
            raise ConfigError(f"--spacing {self.spacing:g}: must be 0.1 to 20 mm")
        if self.modality == "mr" and self.intensity == "fixed-window":
            raise ConfigError(
                "--intensity fixed-window: only CT has a fixed window",
                why="MR intensities have no unit",
                hint="use --intensity paper, or --modality ct",
            )


@dataclass(frozen=True, eq=False)
class Prepared:
    """A finished training volume in RAS order and what is worth knowing about how it was made.

    repairs: what had to be changed. facts: numbers for the manifest.
    """

    array: npt.NDArray[np.float32] | npt.NDArray[np.int16]
    affine: Affine
    repairs: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)


def to_ras(array: npt.NDArray[Any], affine: Affine) -> tuple[npt.NDArray[Any], Affine, list[int]]:
    """Axes reordered and flipped to right, anterior, superior, and the old axis of each new one.

    Voxels stay where they are in the world.
    """
    turn = nib.orientations.io_orientation(affine)
    turned = nib.orientations.apply_orientation(array, turn)
    order = [int(np.flatnonzero(turn[:, 0] == axis)[0]) for axis in range(3)]
    return np.ascontiguousarray(turned), affine @ nib.orientations.inv_ornt_aff(turn, array.shape), order


def finish_ct(
    hu: npt.NDArray[np.float32], target: Target, census: Census
) -> npt.NDArray[np.float32] | npt.NDArray[np.int16]:
    """Resampled HU to what is written: the spline's overshoots clipped, then the intensity scheme.

    Args:
        census: of the voxels before anything was clipped, padded or resampled.

    Raises:
        DataError: the numbers are no HU, or there is no body in the volume.
    """
    np.clip(hu, AIR, METAL, out=hu)
    share = float((hu > BODY).mean())
    if share < LEAST_BODY:
        raise DataError(f"{100 * share:.2f} % of the volume is above {BODY:g} HU: nothing but air")
    if census.problem:
        raise DataError(census.problem)
    if target.intensity == "fixed-window":
        return np.rint(hu).astype(np.int16)
    return _unit(unit_ct, hu)


def finish_mr(array: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """MR intensities to [0, 1] by the paper's quantiles.

    Raises:
        DataError: nothing but one value is left.
    """
    return _unit(unit_mr, array)


def _unit(scheme: Any, array: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    try:
        return np.asarray(scheme(array), np.float32)
    except ValueError as error:
        raise DataError(str(error)) from error
