"""Volumes of other formats than NIfTI, with the suspicion that `read_nifti` has.

NRRD and MetaImage are read by SimpleITK, FreeSurfer's files and pairs (.hdr, .img) as NIfTI with another header. A
header may name the file of its voxels only if that lies beside it.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK

from wdm_cli.engine.data.formats import CONVERTED, suffix_of
from wdm_cli.engine.data.presence import refuse_absent, why_absent
from wdm_cli.engine.data.volume import (
    DEFLATE_RATIO,
    MAX_BYTES,
    MAX_TRAILING,
    Volume,
    read_nifti,
    refuse_no_picture,
    times,
)
from wdm_cli.engine.dicom.geometry import LPS_TO_RAS
from wdm_cli.engine.errors import DataError
from wdm_cli.engine.preprocess.pairs import read_mgh, read_pair

HEADER_BYTES = 2**16
VOXELS = re.compile(rb"(?:Element)?data ?file\s*[:=]+[ \t]*([^\r\n]*)", re.IGNORECASE)
PLAIN = re.compile(r"(?!LIST\b)[^./\\%\0][^/\\%\0]*", re.IGNORECASE)
PACKED = re.compile(rb"CompressedData\s*[:=]\s*True|encoding\s*:\s*(gz|bz|txt|ascii|hex|text)", re.IGNORECASE)
itk: Any = SimpleITK  # its functions carry no types
BYTES = {
    1: (itk.sitkUInt8, itk.sitkInt8), 2: (itk.sitkUInt16, itk.sitkInt16),
    4: (itk.sitkUInt32, itk.sitkInt32, itk.sitkFloat32), 8: (itk.sitkUInt64, itk.sitkInt64, itk.sitkFloat64),
}  # fmt: skip


def read_volume(path: Path) -> Volume:
    """A volume of any format that is known, with its raw intensities.

    Raises:
        DataError: the file cannot be used; it is named.
    """
    refuse_absent(path)
    suffix = suffix_of(path.name)
    if suffix not in CONVERTED:
        return read_nifti(path)
    if suffix in (".mgz", ".mgh"):
        return read_mgh(path)
    return read_pair(path) if suffix == ".hdr" else _read_itk(path)


def _read_itk(path: Path) -> Volume:
    itk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        head = _head(path)
        voxels = _voxels_of(path, head)
        reader = itk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        _check_header(path, reader, voxels.stat().st_size, packed=bool(PACKED.search(head)))
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


def _head(path: Path) -> bytes:
    """All of a header; refused where it may go on, since what stands there could name any file to open."""
    with path.open("rb") as file:
        block = file.read(HEADER_BYTES)
    if path.suffix.lower() in (".nrrd", ".nhdr"):
        head, blank, _ = block.replace(b"\r\n", b"\n").partition(b"\n\n")
        whole = bool(blank) or len(block) < HEADER_BYTES
    else:
        head, whole = block, VOXELS.search(block) is not None
    if not whole:
        raise DataError(f"{path}: its header does not end within {HEADER_BYTES:,} bytes", why="it is damaged")
    return head


def _voxels_of(path: Path, head: bytes) -> Path:
    """The file that holds the voxels: the file itself, or one beside a .mhd or .nhdr header."""
    names = [name.strip().decode(errors="surrogateescape") for name in VOXELS.findall(head)]
    if all(name.upper() == "LOCAL" for name in names):
        return path
    name = names[0]
    if path.suffix.lower() not in (".mhd", ".nhdr") or len(names) > 1 or not PLAIN.fullmatch(name):
        raise DataError(
            f"{path}: its voxels lie in another file", why="a header must not name files to open but one beside it",
            hint="convert it to one file, e.g. with 3D Slicer",
        )  # fmt: skip
    beside = path.with_name(name)
    if not beside.is_file():
        reason = why_absent(beside)
        raise DataError(f"{path}: {name}, the file of its voxels, is not beside it{reason and f' ({reason})'}")
    return beside


def _check_header(path: Path, reader: Any, stored: int, *, packed: bool) -> None:
    """Everything that can be refused before a voxel is allocated."""
    sides = reader.GetSize()
    if reader.GetDimension() != 3 or min(sides) < 2:
        raise DataError(f"{path}: is no 3D volume ({times(sides)})")
    if reader.GetNumberOfComponents() != 1:
        raise DataError(f"{path}: has {reader.GetNumberOfComponents()} numbers a voxel", why="one is needed")
    width = next((size for size, kinds in BYTES.items() if reader.GetPixelID() in kinds), 1)
    size = math.prod(sides) * width
    if math.prod(sides) * 4 > MAX_BYTES or size > stored * (DEFLATE_RATIO if packed else 1):
        raise DataError(f"{path}: the header claims {times(sides)} voxels, which the file cannot hold or is too much")
    if not packed and stored - size > HEADER_BYTES + MAX_TRAILING:
        raise DataError(f"{path}: the voxels go on after the last of {times(sides)}", why="the header is damaged")
    if not all(0 < mm < math.inf for mm in reader.GetSpacing()):
        raise DataError(f"{path}: voxel size {reader.GetSpacing()}", why="it must be finite and not 0")
