"""Whether a single DICOM file is a CT slice whose pixels have a known meaning in HU, or an MR slice."""

from __future__ import annotations

import itertools
import re

import numpy as np
import numpy.typing as npt

from wdm_cli.engine.dicom.headers import Slice
from wdm_cli.engine.dicom.meaning import LUT

IMAGE = {"CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4"}
"""Modality -> the SOP class of its single images; those of multi-frame images begin with it and a further part."""
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
MOST_SCOUTS = 60  # images in three planes, or called loc; more are volumes
LARGE_SCOUT = re.compile("scout|survey|locali[sz]er")  # such as AAHead_Scout, a volume of 128
PARALLEL = 0.8  # cosine between normals
MAX_PIXEL = 10.0  # mm
MAX_SIDE = 4096  # pixels
TISSUE = (-900.0, 2000.0)  # HU that padding must not lie in
NATIVE = {
    "1.2.840.10008.1.2": "implicit VR little endian",
    "1.2.840.10008.1.2.1": "explicit VR little endian",
    "1.2.840.10008.1.2.2": "explicit VR big endian",
}
COMPRESSED = {
    "1.2.840.10008.1.2.5": "RLE lossless",
    "1.2.840.10008.1.2.4.51": "JPEG extended",
    "1.2.840.10008.1.2.4.57": "JPEG lossless",
    "1.2.840.10008.1.2.4.70": "JPEG lossless, first-order prediction",
    "1.2.840.10008.1.2.4.80": "JPEG-LS lossless",
    "1.2.840.10008.1.2.4.81": "JPEG-LS near-lossless",
    "1.2.840.10008.1.2.4.90": "JPEG 2000 lossless",
    "1.2.840.10008.1.2.4.91": "JPEG 2000",
}
"""Transfer syntaxes that GDCM, inside SimpleITK, decodes."""


def is_localizer(item: Slice) -> bool:
    """Whether the scanner calls the image a scout view."""
    return "LOCALIZER" in item.image_type


def is_scout_series(slices: list[Slice]) -> bool:
    """Whether MR images are localizers by what they are called, or by lying in three planes at right angles."""
    if slices[0].modality != "MR":
        return False
    if all(item.scout for item in slices):
        return len(slices) <= MOST_SCOUTS or bool(LARGE_SCOUT.search(slices[0].protocol))
    if len(slices) > MOST_SCOUTS:
        return False
    normals: list[npt.NDArray[np.float64]] = []
    for item in slices:
        if item.orientation is None:
            return False
        normal = np.cross(item.orientation[:3], item.orientation[3:])
        if not any(abs(float(normal @ other)) > PARALLEL for other in normals):
            normals.append(normal)
    crossed = [abs(float(one @ other)) for one, other in itertools.combinations(normals, 2)]
    return len(normals) == 3 and max(crossed) < 1 - PARALLEL


def is_phase(item: Slice) -> bool:
    """Whether an MR image shows phase, a field, or a real or imaginary part: no anatomy to learn from."""
    return item.modality == "MR" and item.not_image not in ("", LUT)


def unusable_image(item: Slice) -> str:
    """Why a file's pixels cannot be used as a slice of CT or MR, or nothing."""
    return kind_problem(item) or _value_problem(item) or _place_problem(item) or _data_problem(item)


def kind_problem(item: Slice) -> str:
    """Why a file is no single CT or MR image, or nothing."""
    if not item.series_uid:
        return "no SeriesInstanceUID"
    modality, image = item.modality, IMAGE[item.modality]
    if item.sop_class.startswith(f"{image}.") or item.frames != 1:
        return f"multi-frame {modality} ({item.frames} frames) is not supported; convert it to single frames"
    if item.sop_class.startswith(SECONDARY_CAPTURE):
        return f"a secondary capture, not a {modality} image"
    if item.sop_class != image:
        return f"not of the class {modality} Image Storage"
    if "MOSAIC" in item.image_type:
        return "a mosaic of slices in one picture; convert it, e.g. with dcm2niix"
    projections = {"MIP", "MINIP", "MAX_IP", "MIN_IP", "PROJECTION IMAGE", "SCREEN SAVE"} & set(item.image_type)
    if projections:
        return f"a derived picture ({projections.pop()}), not a {modality} image"
    if item.not_image:
        told = item.modality == "CT" or item.not_image == LUT
        return item.not_image if told else f"a phase, real, imaginary or field map ({item.not_image})"
    if item.photometric != "MONOCHROME2" or item.samples != 1:
        return f"pixels are {item.photometric or 'of unknown meaning'}, not MONOCHROME2"
    if item.bits != 16:
        return f"{item.bits} bits a pixel, not 16"
    return ""


def _value_problem(item: Slice) -> str:
    if not item.slope or item.intercept is None:
        return "RescaleSlope or RescaleIntercept is absent, 0 or not a number"
    if item.padding is not None and item.modality == "CT":
        padding = item.padding * item.slope + item.intercept
        if TISSUE[0] < padding < TISSUE[1]:
            return f"PixelPaddingValue {item.padding} means {padding:g} HU, which tissue has too"
    return ""


def _place_problem(item: Slice) -> str:
    if not (2 <= item.rows <= MAX_SIDE and 2 <= item.columns <= MAX_SIDE):
        return f"Rows × Columns is {item.rows} × {item.columns}"
    if item.spacing is None or not all(0 < mm <= MAX_PIXEL for mm in item.spacing):
        return f"PixelSpacing is {'absent' if item.spacing is None else item.spacing}, not 0 to {MAX_PIXEL:g} mm"
    if item.position is None:
        return "no ImagePositionPatient"
    return ""


def _data_problem(item: Slice) -> str:
    """Truncation and compression, as far as the header tells."""
    if item.transfer_syntax in NATIVE:
        wanted = item.rows * item.columns * 2
        if item.pixel_bytes < wanted:
            return f"truncated: {item.pixel_bytes:,} of {wanted:,} bytes of pixels"
    elif item.transfer_syntax not in COMPRESSED:
        return (
            f"transfer syntax {item.transfer_syntax or 'absent'} cannot be decoded; decompress it (e.g. with gdcmconv)"
        )
    elif item.pixel_bytes <= 0:
        return "truncated: no pixels"
    return ""
