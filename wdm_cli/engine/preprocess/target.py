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

    size: voxels a side, None to keep what is there. spacing: mm of a voxel, None to keep it. Three numbers are along
    right, anterior and superior.
    intensity: `paper` (quantile and min-max to [0, 1], float32) or `fixed-window` (int16 HU, CT only).
    tilt: `skip` files whose axes are not perpendicular or shear them back; of DICOM series `Policy` decides.
    """

    modality: Literal["ct", "mr"] = "ct"
    size: int | tuple[int, int, int] | None = 256
    spacing: float | tuple[float, float, float] | None = 1.0
    intensity: Literal["paper", "fixed-window"] = "paper"
    tilt: Literal["skip", "resample"] = "skip"

    def __post_init__(self) -> None:
        if any(side is not None and not 8 <= side <= 1024 for side in _three(self.size)):
            raise ConfigError(f"--size {_listed(self.size)}: must be 8 to 1024")
        if any(mm is not None and not 0.1 <= mm <= 20 for mm in _three(self.spacing)):
            raise ConfigError(f"--spacing {_listed(self.spacing)}: must be 0.1 to 20 mm")
        if self.modality == "mr" and self.intensity == "fixed-window":
            raise ConfigError(
                "--intensity fixed-window: only CT has a fixed window",
                why="MR intensities have no unit",
                hint="use --intensity paper, or --modality ct",
            )

    @property
    def keeps_grid(self) -> bool:
        """Whether voxels stay as they are and where they are."""
        return self.size is None and self.spacing is None

    def along(self, affine: Affine) -> list[tuple[int | None, float | None]]:
        """(size, spacing) that is wanted along each axis of an array with this affine."""
        turn = nib.orientations.io_orientation(affine)[:, 0].astype(int).tolist()
        sizes, spacings = _three(self.size), _three(self.spacing)
        return [(sizes[body], spacings[body]) for body in turn]


def _three(value: Any) -> tuple[Any, Any, Any]:
    return value if isinstance(value, tuple) else (value, value, value)


def _listed(value: Any) -> str:
    return ",".join(f"{one:g}" for one in value) if isinstance(value, tuple) else f"{value:g}"


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
