"""What the files of a folder say: one record a file, from its header alone.

Only the tags in TAGS are parsed. What identifies a person is turned into codes at once (`patients`), and names are
never looked at, so no later step can leak them. Times only order images and are not written.
"""

from __future__ import annotations

import os
import re
import stat
import struct
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pydicom
from pydicom.config import disable_value_validation
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.tag import Tag

from wdm_cli.engine.dicom.meaning import PRIVATE_TAGS, called_scout, description, not_hu, not_magnitude
from wdm_cli.engine.dicom.patients import Owner, owner

Vector = tuple[float, ...]
DICOM_SUFFIXES = {".dcm", ".dicom", ".dic", ".ima"}
KNOWN_SUFFIX = re.compile(r"\.[a-z0-9]{1,5}")
DICOMDIR_CLASS = "1.2.840.10008.1.3.10"
DEFLATED = b"1.2.840.10008.1.2.1.99"
POINTERS = {b"/annex/objects/": "`datalad get`", b"version https://git-lfs": "`git lfs pull`"}
MARKS = (
    *("AcquisitionNumber", "TemporalPositionIdentifier", "NominalPercentageOfCardiacPhase", "TriggerTime"),
    *("NominalCardiacTriggerDelayTime", "ContrastBolusAgentPhase", "ContrastBolusAgent", "ConvolutionKernel", "KVP"),
    *("FilterType", "ReconstructionDiameter", "StackID", "AcquisitionUID", "IrradiationEventUID", "SliceThickness"),
    *("ImageType", "FrameReferenceTime", "ScanOptions", "EchoNumbers", "AcquisitionTime", "AcquisitionDateTime"),
)
"""What may tell acquisitions of one place apart, in any modality, the surest first."""
ORDER = ("AcquisitionNumber", "InstanceNumber", "AcquisitionTime", "ContentTime")
TAGS: list[Any] = [
    *("PatientBirthDate", "PatientSex", "PatientIdentityRemoved", "SOPInstanceUID", "RescaleType", "Units"),
    *("ModalityLUTSequence", "RealWorldValueMappingSequence", "ComplexImageComponent", *MARKS, *ORDER, *PRIVATE_TAGS),
    *("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "Modality", "ImageType"),
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated"),
    *("PixelRepresentation", "RescaleSlope", "RescaleIntercept", "PixelPaddingValue", "PixelSpacing"),
    *("ImagePositionPatient", "ImageOrientationPatient"),
    *("SeriesDescription", "ProtocolName", "AcquisitionNumber"),
    *("EchoTime", "EchoNumbers", "InversionTime", "FlipAngle", "TemporalPositionIdentifier"),
    *("DiffusionBValue", "DiffusionGradientOrientation"),
]
CONTRAST = (*[str(name) for name in TAGS[-7:]], "ImageType")
"""What tells MR images of one place apart."""
OWNER = ("PatientID", "StudyInstanceUID", "PatientBirthDate", "PatientSex", "PatientIdentityRemoved")
PARSED = [Tag(name) for name in TAGS]
PARSE_ERRORS = (
    *(ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, RuntimeError, TypeError, ValueError),
    *(struct.error, BytesLengthException, InvalidDicomError),
)
"""What pydicom is known to raise on damaged files."""


@dataclass(frozen=True, slots=True)
class Slice:
    """One DICOM image. Lengths in mm, LPS coordinates; a value that is absent or unreadable is None.

    patient: a code, never the PatientID itself unless that is a public number of LIDC-IDRI or ADNI.
    spacing: (between rows, between columns). orientation: directions of a row and of a column.
    pixel_bytes: bytes of the file from the start of the pixel data on.
    contrast: NAME=VALUE of what tells images of one place apart in MR, or was found to do so. marks: the same of
    what may do so in any modality. order: numbers by which files were made, None where absent. instance: of the SOP.
    not_image: why the numbers are no HU, or show no magnitude; empty for ordinary images. thickness: of the slice.
    protocol: free text, in lower case; it is matched with what the user asks for and never written, since people
    type anything into it. title: the words of protocols in it. scout: whether it calls the series a localizer.
    """

    path: Path
    patient: str
    series_uid: str
    modality: str
    sop_class: str
    transfer_syntax: str
    image_type: tuple[str, ...]
    rows: int
    columns: int
    frames: int
    samples: int
    photometric: str
    bits: int
    signed: bool
    slope: float | None
    intercept: float | None
    padding: int | None
    spacing: Vector | None
    position: Vector | None
    orientation: Vector | None
    pixel_bytes: int
    contrast: tuple[str, ...] = ()
    marks: tuple[str, ...] = field(default=(), repr=False)
    order: tuple[float | None, ...] = field(default=(), repr=False)
    instance: str = field(default="", repr=False)
    not_image: str = ""
    thickness: float | None = None
    owner: Owner | None = field(default=None, repr=False)
    protocol: str = field(default="", repr=False)
    title: str = ""
    scout: bool = False


@dataclass(frozen=True, slots=True)
class OtherFile:
    """A file that is no DICOM image: `ignored` because it never was one, `skipped` because it should be one."""

    path: Path
    verdict: Literal["ignored", "skipped"]
    reason: str


def read_header(path: Path) -> Slice | OtherFile:
    """What one file says. Never raises for what is in the file."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return OtherFile(path, "ignored", "not a regular file")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(1024)
            if head[128:132] != b"DICM":
                return _no_dicom(path, head, size)
            if path.name.upper() == "DICOMDIR":
                return OtherFile(path, "ignored", "DICOMDIR, not followed")
            if DEFLATED in head:  # pydicom would unpack all of it, to whatever size, to see the first tag
                return OtherFile(path, "skipped", "a deflated DICOM file; convert it, e.g. with gdcmconv")
            file.seek(0)
            return _parse(path, file, size)
    except OSError as error:
        return OtherFile(path, "skipped", f"cannot be read: {error.strerror or error}")


def _no_dicom(path: Path, head: bytes, size: int) -> OtherFile:
    """A file without the DICM mark: a bystander by its name, or a DICOM file that is damaged."""
    like_data_set = head[:4] in (b"\x08\0\x05\0", b"\x08\0\x00\0", b"\x08\0\x08\0", b"\x02\0\0\0")
    if path.suffix.lower() not in DICOM_SUFFIXES and not like_data_set:
        suffix = path.suffix.lower()
        return OtherFile(path, "ignored", f"other file ({suffix if KNOWN_SUFFIX.fullmatch(suffix) else 'no suffix'})")
    for mark, fetch in POINTERS.items():
        if head.startswith(mark):
            return OtherFile(path, "skipped", f"its content is not here: fetch it with {fetch}")
    if size == 0:
        return OtherFile(path, "skipped", "empty file")
    if head.lstrip()[:1] == b"<":
        return OtherFile(path, "skipped", "a web page or XML, not DICOM (a download that failed?)")
    if size < 132:
        return OtherFile(path, "skipped", f"truncated after {size} bytes")
    return OtherFile(path, "skipped", "not a DICOM Part 10 file: no DICM mark at byte 128")


def _parse(path: Path, file: Any, size: int) -> Slice | OtherFile:
    try:
        with warnings.catch_warnings(), disable_value_validation():
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=PARSED)
            rest = size - file.tell()
            syntax = str(header.file_meta.get("TransferSyntaxUID", "") or "")
            if str(header.file_meta.get("MediaStorageSOPClassUID", "")) == DICOMDIR_CLASS:
                return OtherFile(path, "ignored", "DICOMDIR, not followed")
            return _slice(path, header, syntax, rest)
    except PARSE_ERRORS as error:
        return OtherFile(path, "skipped", f"its DICOM header cannot be read ({type(error).__name__})")


def _slice(path: Path, header: Any, syntax: str, rest: int) -> Slice | OtherFile:
    modality = _text(header, "Modality").upper()
    series_uid = _text(header, "SeriesInstanceUID")
    sop_class = _text(header, "SOPClassUID")
    if not sop_class or not (modality or series_uid):
        return OtherFile(path, "skipped", "its DICOM header holds no SOPClassUID or no series (truncated?)")
    image_type = tuple(str(part).upper() for part in _many(header, "ImageType"))
    who = owner(*(_text(header, name) for name in OWNER))
    names = [_text(header, name) for name in ("SeriesDescription", "ProtocolName")]
    kind = {"CT": not_hu, "MR": not_magnitude}.get(modality)
    return Slice(
        path=path,
        patient=who.code,
        series_uid=series_uid,
        modality=re.sub(r"[^A-Z0-9]", "", modality)[:16] or "of unknown modality",
        sop_class=sop_class,
        transfer_syntax=syntax,
        image_type=image_type,
        rows=_integer(header, "Rows") or 0,
        columns=_integer(header, "Columns") or 0,
        frames=_integer(header, "NumberOfFrames") or 1,
        samples=_integer(header, "SamplesPerPixel") or 1,
        photometric=_text(header, "PhotometricInterpretation").upper(),
        bits=_integer(header, "BitsAllocated") or 0,
        signed=_integer(header, "PixelRepresentation") == 1,
        slope=_rescale(header, "RescaleSlope", 1.0),
        intercept=_rescale(header, "RescaleIntercept", 0.0),
        padding=_padding(header),
        spacing=_vector(header, "PixelSpacing", 2),
        position=_vector(header, "ImagePositionPatient", 3),
        orientation=_vector(header, "ImageOrientationPatient", 6),
        pixel_bytes=rest,
        contrast=_named(header, CONTRAST) if modality == "MR" else (),
        marks=_named(header, MARKS),
        order=tuple(_number(header.get(name)) for name in ORDER),
        instance=_text(header, "SOPInstanceUID"),
        not_image=kind(header, image_type) if kind else "",
        thickness=_number(header.get("SliceThickness")) or None,
        owner=who,
        protocol=" ".join(names).strip().lower(),
        title=description(*names),
        scout=called_scout(names[0] or names[1]),
    )


def _text(header: Any, name: str) -> str:
    value = header.get(name)
    return "" if value is None else str(value).strip()


def _many(header: Any, name: str) -> list[Any]:
    value = header.get(name)
    if value is None or value == "":
        return []
    return [value] if isinstance(value, (str, int, float)) else list(value)


def _number(value: Any) -> float | None:
    """A finite number, or None."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if abs(number) < 1e9 else None  # NaN compares false


def _integer(header: Any, name: str) -> int | None:
    number = _number(header.get(name))
    return None if number is None else int(number)


def _rescale(header: Any, name: str, usual: float) -> float | None:
    """MR images need no slope and intercept; CT without them means nothing."""
    if name not in header and _text(header, "Modality").upper() == "MR":
        return usual
    return _number(header.get(name))


def _named(header: Any, names: tuple[str, ...]) -> tuple[str, ...]:
    """NAME=VALUE of the tags that are there; numbers rounded as writers round them."""
    found = []
    for name in names:
        parts = _many(header, name) if name in header else []
        numbers = [_number(part) for part in parts]
        values = [str(part) if n is None else f"{n:.3f}" for part, n in zip(parts, numbers, strict=True)]
        if values:
            longest = 64 if name.endswith("UID") else 24
            text = "/".join(re.sub(r"[^A-Za-z0-9_. -]", "", value)[:longest] for value in values[:8])
            found.append(sys.intern(f"{name}={text}"))
    return tuple(found)


def _vector(header: Any, name: str, length: int) -> Vector | None:
    numbers = [_number(part) for part in _many(header, name)]
    if len(numbers) != length or any(number is None for number in numbers):
        return None
    return tuple(number for number in numbers if number is not None)


def _padding(header: Any) -> int | None:
    """PixelPaddingValue as a stored pixel value; writers mix up its sign, so it is taken modulo 2^16."""
    value = _integer(header, "PixelPaddingValue")
    if value is None:
        return None
    value &= 0xFFFF
    return value - 0x10000 if value > 0x7FFF and _integer(header, "PixelRepresentation") == 1 else value
