"""NRRD and MetaImage files as volumes, with the suspicion that `read_nifti` has for NIfTI."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK

from wdm_cli.engine.data.volume import DEFLATE_RATIO, MAX_BYTES, Volume, read_nifti, refuse_no_picture, times
from wdm_cli.engine.dicom.geometry import LPS_TO_RAS
from wdm_cli.engine.errors import DataError

SUFFIXES = (".nrrd", ".mha")
HEADER_BYTES = 2**14
ELSEWHERE = re.compile(rb"^\s*(data\s*file\s*:|ElementDataFile\s*=\s*+(?!LOCAL))", re.IGNORECASE | re.MULTILINE)
itk: Any = SimpleITK  # its functions carry no types


def read_volume(path: Path) -> Volume:
    """A NIfTI, NRRD or MetaImage file with its raw intensities.

    Raises:
        DataError: the file cannot be used; it is named.
    """
    return _read_foreign(path) if path.suffix.lower() in SUFFIXES else read_nifti(path)


def _read_foreign(path: Path) -> Volume:
    itk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            if ELSEWHERE.search(file.read(HEADER_BYTES)):
                raise DataError(
                    f"{path}: its voxels lie in another file", why="a header must not name files to open",
                    hint="convert it to one file, e.g. with 3D Slicer",
                )  # fmt: skip
        reader = itk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        _check_header(path, reader, size)
        reader.SetOutputPixelType(itk.sitkFloat32)
        image = reader.Execute()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except RuntimeError as error:
        raise DataError(f"{path}: is damaged, truncated or no {path.suffix[1:].upper()} file") from error
    array = itk.GetArrayFromImage(image).transpose(2, 1, 0)
    refuse_no_picture(path, array)
    affine = np.eye(4)
    affine[:3, :3] = LPS_TO_RAS @ np.reshape(image.GetDirection(), (3, 3)) @ np.diag(image.GetSpacing())
    affine[:3, 3] = LPS_TO_RAS @ np.array(image.GetOrigin())
    return Volume(np.ascontiguousarray(array, np.float32), affine)


def _check_header(path: Path, reader: Any, stored: int) -> None:
    """Everything that can be refused before a voxel is allocated."""
    sides = reader.GetSize()
    if reader.GetDimension() != 3 or min(sides) < 2:
        raise DataError(f"{path}: is no 3D volume ({times(sides)})")
    if reader.GetNumberOfComponents() != 1:
        raise DataError(f"{path}: has {reader.GetNumberOfComponents()} numbers a voxel", why="one is needed")
    memory = math.prod(sides) * 4
    if memory > MAX_BYTES or math.prod(sides) > stored * DEFLATE_RATIO:
        raise DataError(f"{path}: the header claims {times(sides)} voxels, which the file cannot hold or is too much")
    if not all(0 < mm < math.inf for mm in reader.GetSpacing()):
        raise DataError(f"{path}: voxel size {reader.GetSpacing()}", why="it must be finite and not 0")
