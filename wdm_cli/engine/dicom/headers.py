"""What the files of a folder say: one record a file, from its header alone.

Only the tags in TAGS are parsed. PatientID is turned into a code at once and the names, dates and
numbers that identify a person are never looked at, so no later step can leak them.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pydicom
from pydicom.config import disable_value_validation
from pydicom.errors import BytesLengthException, InvalidDicomError

Vector = tuple[float, ...]
DICOM_SUFFIXES = {".dcm", ".dicom", ".dic", ".ima"}
KNOWN_SUFFIX = re.compile(r"\.[a-z0-9]{1,5}")
DICOMDIR_CLASS = "1.2.840.10008.1.3.10"
DEFLATED = b"1.2.840.10008.1.2.1.99"
TAGS = [
    *("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "Modality", "ImageType"),
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated"),
    *("PixelRepresentation", "RescaleSlope", "RescaleIntercept", "PixelPaddingValue", "PixelSpacing"),
    *("ImagePositionPatient", "ImageOrientationPatient"),
    *("SeriesDescription", "ProtocolName", "AcquisitionNumber"),
    *("EchoTime", "EchoNumbers", "InversionTime", "FlipAngle", "TemporalPositionIdentifier"),
    *("DiffusionBValue", "DiffusionGradientOrientation"),
]
CONTRAST = (*TAGS[-7:], "ImageType")
"""What tells MR images of one place apart."""
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
    contrast, acquisition (MR): what tells images of one place apart. protocol: free text, in lower case; it is
    matched with what the user asks for and never written, since people type anything into it.
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
    acquisition: int | None = None
    protocol: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class OtherFile:
    """A file that is no DICOM image: `ignored` because it never was one, `skipped` because it should be one."""

    path: Path
    verdict: Literal["ignored", "skipped"]
    reason: str


def count_files(folder: Path) -> int:
    """How many files `scan` will look at, but for linked folders."""
    return sum(len(names) for _, _, names in os.walk(folder))


def scan(folder: Path) -> Iterator[Slice | OtherFile]:
    """Every file under `folder`, in a fixed order, as a Slice or an OtherFile. Symbolic links are not followed."""
    unreadable: list[OSError] = []
    for root, folders, names in os.walk(folder, onerror=unreadable.append):
        folders.sort()
        for name in sorted(names + [name for name in folders if Path(root, name).is_symlink()]):
            yield read_header(Path(root, name))
    for error in unreadable:
        yield OtherFile(Path(error.filename), "skipped", f"cannot be listed: {error.strerror}")


def read_header(path: Path) -> Slice | OtherFile:
    """What one file says. Never raises for what is in the file."""
    try:
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            return OtherFile(path, "ignored", "symbolic link, not followed")
        if not stat.S_ISREG(mode):
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
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(TAGS))
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
    return Slice(
        path=path,
        patient=patient_code(_text(header, "PatientID"), _text(header, "StudyInstanceUID")),
        series_uid=series_uid,
        modality=re.sub(r"[^A-Z0-9]", "", modality)[:16] or "of unknown modality",
        sop_class=sop_class,
        transfer_syntax=syntax,
        image_type=tuple(str(part).upper() for part in _many(header, "ImageType")),
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
        contrast=_contrast(header) if modality == "MR" else (),
        acquisition=_integer(header, "AcquisitionNumber"),
        protocol=f"{_text(header, 'SeriesDescription')} {_text(header, 'ProtocolName')}".strip().lower(),
    )


def patient_code(patient_id: str, study_uid: str) -> str:
    """A name for a patient that tells nobody who it is; the public LIDC-IDRI numbers stay as they are,
    and the codes that ADNI gives its participants.

    Without a PatientID the study stands for the patient, so that strangers are not taken for one.
    """
    if re.fullmatch(r"LIDC-IDRI-[0-9]{4}", patient_id):
        return patient_id
    if re.fullmatch(r"[0-9]{3}_S_[0-9]{4}", patient_id):
        return f"ADNI_{patient_id}"
    source = f"patient {patient_id}" if patient_id else f"study {study_uid}"
    return f"sub-{hashlib.sha256(source.encode(errors='surrogateescape')).hexdigest()[:12]}"


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


def _contrast(header: Any) -> tuple[str, ...]:
    """NAME=VALUE of what is there of CONTRAST; numbers rounded as writers round them."""
    found = []
    for name in CONTRAST:
        parts = _many(header, name) if name in header else []
        numbers = [_number(part) for part in parts]
        values = [str(part) if n is None else f"{n:.3f}" for part, n in zip(parts, numbers, strict=True)]
        if values:
            found.append(f"{name}={'/'.join(re.sub(r'[^A-Za-z0-9_. -]', '', value)[:24] for value in values[:8])}")
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
