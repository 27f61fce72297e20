"""Where a header says that voxels lie and how large they are: judged once, for every format.

A NIfTI header says it up to three times: sform, qform and voxel sizes (pixdim). The sform counts, as everywhere; what
contradicts it, or stands in for it, is told as a sign (`facts.SIGNS`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wdm_cli.engine.errors import DataError

Matrix = NDArray[np.float64]

UNITS = {1: ("metre", 1000.0), 2: ("mm", 1.0), 3: ("micrometre", 0.001)}  # xyzt_units; everything else is taken as mm
SMALLEST, LARGEST = 0.005, 50.0  # mm of a voxel; no scanner of patients makes others
SINGULAR = 1e-6  # volume of the cell between three axes of length 1
SAME_ANGLE, SAME_SIZE = 1.0, 0.01  # degrees; share: what rounding and registration of one scan explain
TURNED_ANGLE = 45.0  # degrees between the scanner's space and another one that a scan was registered to
MAX_SHEAR = 0.1  # degrees; a DICOM series leans from there on, too


def place(path: Path, header: Any) -> tuple[Matrix, tuple[str, ...]]:
    """Where a NIfTI header puts the voxels ([4, 4] to RAS mm), and what is odd about it.

    Raises:
        DataError: it says so nowhere in a usable way, or the voxels are of a size that nothing has.
    """
    sizes = np.abs(header["pixdim"][1:4].astype(np.float64))
    if not (np.isfinite(sizes).all() and sizes.all()):
        raise DataError(f"{path}: voxel size {header['pixdim'][1:4].tolist()}", why="it must be finite and not 0")
    header["pixdim"][1:4] = sizes
    affine, signs = _best(path, header)
    code = int(header["xyzt_units"]) & 7
    affine[:3] *= UNITS.get(code, UNITS[2])[1]
    refuse_impossible(path, affine, code)
    return affine, signs


def refuse_impossible(path: Path, affine: Matrix, code: int | None = None) -> None:
    """Raise DataError if a voxel is larger or smaller than any of a scan: the unit is not what it says.

    Args:
        affine: in mm. code: xyzt_units of a NIfTI file; None for formats that are in mm by definition.
    """
    spacing = voxel_size(affine)
    if min(spacing) >= SMALLEST and max(spacing) <= LARGEST:
        return
    unit, per = UNITS.get(code or 0, UNITS[2])
    stated = f"by their unit ({unit}, xyzt_units {code})" if code in (1, 3) else "by its header"
    numbers = [mm / per for mm in spacing]
    likely = [
        (name, number)
        for number, (name, mm) in sorted(UNITS.items(), key=lambda item: item[0] != 2)
        if name != unit and all(SMALLEST <= one * mm <= LARGEST for one in numbers)
    ]
    advice = ""
    if likely:
        name, number = likely[0]
        advice = f"; the numbers ({millimetres(numbers)}) look like {name}"
        advice += f": set the unit to {name} (xyzt_units {number})" if code is not None else ": store them in mm"
    raise DataError(
        f"{path}: voxel size {millimetres(spacing)} mm {stated}{advice}",
        why=f"no scan has voxels above {LARGEST:g} mm or below {SMALLEST:g} mm",
        hint="`header.set_xyzt_units('mm')` of nibabel sets the unit" if code is not None else "",
    )


def voxel_size(affine: Matrix) -> tuple[float, float, float]:
    """Distance of neighbouring voxels along i, j, k in mm."""
    i, j, k = np.linalg.norm(affine[:3, :3], axis=0).tolist()
    return i, j, k


def shear(affine: Matrix) -> float:
    """By how many degrees the two axes that are furthest from perpendicular miss the right angle."""
    axes = affine[:3, :3] / voxel_size(affine)
    cosines = np.abs(axes.T @ axes - np.diag((axes * axes).sum(axis=0)))
    return float(np.degrees(np.arcsin(min(1.0, cosines.max()))))


def refuse_leaning(path: Path, affine: Matrix) -> None:
    """Raise DataError if the axes are not perpendicular: as an array such a volume is a leaning body."""
    if (angle := shear(affine)) > MAX_SHEAR:
        raise DataError(
            f"{path}: its axes miss the right angle by {angle:.1f}° (a tilted gantry?), so bodies lean in its array "
            "(`wdm preprocess nifti --tilt resample` shears them back)",
            why="a network would learn leaning bodies, and no distance or angle in them would be true",
        )


def millimetres(sizes: Sequence[float]) -> str:
    """(0.84, 0.84, 5.0) -> '0.84×0.84×5': three digits."""
    return "×".join(f"{mm:.3g}" if mm < 1000 else f"{mm:.0f}" for mm in sizes)


def _best(path: Path, header: Any) -> tuple[Matrix, tuple[str, ...]]:
    """The sform, else the qform, else the bare voxel sizes, in the header's unit."""
    has_sform, has_qform = int(header["sform_code"]) > 0, int(header["qform_code"]) > 0
    sform = _usable(header.get_sform()) if has_sform else None
    qform, wrong = _qform(header) if has_qform else (None, "not set")
    if sform is not None:
        said_again = qform if has_qform else np.diag([*header["pixdim"][1:4], 1.0])
        one_space = int(header["sform_code"]) == int(header["qform_code"])
        most = (SAME_ANGLE if one_space else TURNED_ANGLE) if has_qform else None
        agree = said_again is not None and _agree(sform, np.asarray(said_again, np.float64), most)
        return sform, () if agree else ("forms",)
    if qform is not None:
        return qform, ("sform",) if has_sform else ()
    if has_sform:
        raise DataError(
            f"{path}: its affine is singular or not finite: the sform is, and the qform is {wrong} (set the true one "
            "with nibabel's set_sform, or sform_code to 0 if nothing but the voxel size is known)",
            why="it does not say where voxels lie",
        )
    if has_qform:
        raise DataError(f"{path}: its orientation is damaged: the qform is {wrong}, and no sform is set")
    return np.asarray(header.get_base_affine(), np.float64), ("unoriented",)


def _usable(affine: Any) -> Matrix | None:
    """The affine, if it tells where voxels lie."""
    affine = np.array(affine, np.float64)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        cell = np.abs(np.linalg.det(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)))
    return affine if np.isfinite(affine).all() and cell > SINGULAR else None


def _qform(header: Any) -> tuple[Matrix | None, str]:
    """The qform, or why there is none that can be used."""
    if header["pixdim"][0] not in (-1, 1):
        header["pixdim"][0] = 1  # what the standard says of 0
    try:
        qform = _usable(header.get_qform())
    except ValueError as error:
        return None, f"no rotation ({error})"
    return qform, "not finite"


def _agree(a: Matrix, b: Matrix, most: float | None) -> bool:
    """Whether two affines put voxels alike, wherever the first one lies: of one size, and turned by `most` degrees.

    A qform cannot say that `a` leans: it may miss its axes by that angle.
    """
    sizes, others = np.array(voxel_size(a)), np.array(voxel_size(b))
    if (np.abs(sizes - others) > SAME_SIZE * sizes).any():
        return False
    cosines = ((a[:3, :3] / sizes) * (b[:3, :3] / others)).sum(axis=0)
    return most is None or bool((cosines > np.cos(np.radians(most + shear(a)))).all())
