"""Small CT series for tests: a body in air whose voxels tell where they are, and any number of things wrong with it.

Voxel (column c, row r, slice s) holds CODE = 100 + 11 s + 3 r + c HU inside the body and −1000 outside, so a
wrong order, flip or intercept cannot go unseen.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)

SIDE, SLICES, STEP, PIXEL = 16, 32, 4.0, 8.0  # 128 mm along every axis
Change = Callable[[int, Dataset], Dataset | None]


def phantom(slices: int = SLICES, rows: int = SIDE, columns: int = SIDE) -> np.ndarray:
    """[slices, rows, columns] int16 HU."""
    s, r, c = np.ogrid[:slices, :rows, :columns]
    inside = (abs(r - (rows - 1) / 2) < rows * 0.4) & (abs(c - (columns - 1) / 2) < columns * 0.4) & (s >= 0)
    return np.where(inside, 100 + 11 * s + 3 * r + c, -1000).astype(np.int16)


def dataset(hu: np.ndarray, number: int, series: str, patient: str = "LIDC-IDRI-0001") -> FileDataset:
    """One ordinary axial CT slice."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, UID(f"{series}.{number + 1}")
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.PatientID, ds.PatientName = patient, "Nobody^Known"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = f"{series}.9", series
    ds.Modality, ds.ImageType, ds.InstanceNumber = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"], number + 1
    ds.Rows, ds.Columns = hu.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    ds.PixelSpacing, ds.SliceThickness = [PIXEL, PIXEL], STEP
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.ImagePositionPatient = [-60.5, -50.25, number * STEP - 300.0]
    set_hu(ds, hu)
    return ds


def set_hu(ds: Dataset, hu: np.ndarray, slope: float = 1, intercept: float = -1024, signed: bool = False) -> None:
    """Store HU with a slope and intercept."""
    stored = np.rint((hu - intercept) / slope)
    big = ds.file_meta.TransferSyntaxUID == ExplicitVRBigEndian
    kind = np.dtype("i2" if signed else "u2").newbyteorder(">" if big else "<")
    ds.RescaleSlope, ds.RescaleIntercept, ds.PixelRepresentation = slope, intercept, int(signed)
    ds.PixelData = stored.astype(kind).tobytes()
    ds["PixelData"].VR = "OW"


def series_uid(name: str) -> str:
    return str(generate_uid(entropy_srcs=[name]))[:50].rstrip(".")


def write(ds: Dataset, path: Path, **tags: Any) -> Path:
    """Save with some tags set; None deletes one."""
    for tag, value in tags.items():
        if value is None:
            del ds[tag]
        else:
            setattr(ds, tag, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    syntax = ds.file_meta.TransferSyntaxUID
    implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    pydicom.dcmwrite(path, ds, implicit_vr=implicit, little_endian=little, enforce_file_format=True)
    return path


def write_series(folder: Path, change: Change | None = None, *, name: str = "series", **options: Any) -> list[Path]:
    """A series of files 1-001.dcm …; `change(number, slice)` may alter a slice or drop it by returning None.

    Options: slices, volume (HU [n, rows, columns]), patient; all others are DICOM tags set on every slice.
    """
    slices, patient = options.pop("slices", SLICES), options.pop("patient", "LIDC-IDRI-0001")
    volume = options.pop("volume", None)
    volume = phantom(slices) if volume is None else volume
    paths = []
    for number, hu in enumerate(volume):
        made: Dataset | None = dataset(hu, number, series_uid(name), patient)
        for tag, value in options.items():
            if value is None:
                del made[tag]
            else:
                setattr(made, tag, value)
        made = change(number, made) if change else made
        if made is not None:
            paths.append(write(made, folder / f"1-{number + 1:03}.dcm"))
    return paths


def only(*numbers: int, **tags: Any) -> Change:
    """A change of some slices: tags set, or deleted where None."""

    def change(number: int, ds: Dataset) -> Dataset:
        if number in numbers:
            for tag, value in tags.items():
                if value is None:
                    del ds[tag]
                else:
                    setattr(ds, tag, value)
        return ds

    return change


def without(*numbers: int) -> Change:
    return lambda number, ds: None if number in numbers else ds


def mr_slice(number: int, ds: Dataset) -> Dataset:
    """The CT slice as an MR one: no HU, a sequence's figures, the same code in its voxels."""
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = MRImageStorage
    if ds.Modality == "CT":
        ds.Modality = "MR"
    if ds.ImageType == ["ORIGINAL", "PRIMARY", "AXIAL"]:
        ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
    ds.EchoTime, ds.RepetitionTime, ds.FlipAngle, ds.AcquisitionNumber = 2.98, 2300.0, 9, 1
    del ds.RescaleSlope, ds.RescaleIntercept
    return ds
