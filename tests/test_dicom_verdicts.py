"""R1, R4: every hostile series gets the verdict of the catalogue, a file is named, every file is counted."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_factory import SLICES, dataset, only, phantom, series_uid, set_hu, without, write, write_series
from pydicom.uid import UID, EnhancedCTImageStorage, SecondaryCaptureImageStorage

from wdm_cli.engine.dicom import Policy, scan
from wdm_cli.engine.errors import DataError
from wdm_cli.engine.preprocess import Entry, Plan, Target, plan_lidc, tally

TARGET = Target(size=16, spacing=8.0, intensity="fixed-window")
Build = Callable[[Path], object]


def outcome(folder: Path, policy: Policy) -> list[Entry]:
    """Verdicts after headers and pixels, without writing volumes."""
    plan: Plan = plan_lidc(scan(folder), folder, policy, TARGET)
    entries = list(plan.settled)
    for job in plan.jobs:
        common: dict[str, Any] = {"case": job.case, "source": job.source, "files": len(job.files)}
        try:
            repairs = (*job.repairs, *job.prepare().repairs)
            entries.append(Entry(**common, verdict="repaired" if repairs else "accepted", repairs=repairs))
        except DataError as error:
            entries.append(Entry(**common, verdict="skipped", reasons=(error.what,)))
    seen = sum(1 for path in folder.rglob("*") if path.is_symlink() or path.is_file())
    assert sum(files for _, files in tally(entries).values()) == seen
    return entries


def tilted(number: int, ds: Any) -> Any:
    x, y, z = ds.ImagePositionPatient
    ds.ImagePositionPatient = [x, y + 4.0 * number * np.tan(np.radians(12)), z]
    return ds


def constant(value: int) -> np.ndarray:
    return np.full((SLICES, 16, 16), value, np.int16)


def metal() -> np.ndarray:
    volume = phantom()
    volume[10, 5:9, 5:9] = 9000
    return volume


def doubled(folder: Path, *, differ: bool) -> None:
    paths = write_series(folder)
    ds = pydicom.dcmread(paths[7])
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3.4")
    if differ:
        set_hu(ds, phantom()[7] + 5)
    write(ds, folder / "copy.dcm")


def localizers(folder: Path, count: int) -> None:
    write_series(folder)
    for number in range(count):
        ds = dataset(phantom()[0], 90 + number, series_uid("series"))
        write(ds, folder / f"scout{number}.dcm", ImageOrientationPatient=[1, 0, 0, 0, 0, -1])


def two_downloads(folder: Path) -> None:
    write_series(folder / "first")
    shutil.copytree(folder / "first", folder / "second")


def two_spacings(number: int, ds: Any) -> Any:
    if number > 25:
        ds.ImagePositionPatient[2] -= 2.0 * (number - 25)
    return ds


def padded_outside(folder: Path) -> None:
    volume = phantom()
    volume[:, :, :2] = -2000

    def change(number: int, ds: Any) -> Any:
        set_hu(ds, volume[number], intercept=-2000)
        ds.add_new("PixelPaddingValue", "US", 0)
        return ds

    write_series(folder, change)


def cut(folder: Path, number: int, size: int) -> None:
    path = write_series(folder)[number]
    path.write_bytes(path.read_bytes()[:size])


def replaced(folder: Path, content: bytes) -> None:
    write_series(folder)[3].write_bytes(content)


def without_preamble(folder: Path) -> None:
    path = write_series(folder)[3]
    path.write_bytes(path.read_bytes()[132:])


def compressed_garbage(number: int, ds: Any) -> Any:
    ds.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.90")
    ds.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f\xff\x51" + bytes(100) + b"\xff\xd9"])
    ds["PixelData"].VR = "OB"
    return ds


def syntax(uid: str) -> Callable[[int, Any], Any]:
    def change(number: int, ds: Any) -> Any:
        compressed_garbage(number, ds)
        ds.file_meta.TransferSyntaxUID = UID(uid)
        return ds

    return change


def series(change: Any = None, **options: Any) -> Build:
    return lambda folder: write_series(folder, change, **options)


ANY = only(*range(SLICES), RescaleIntercept=0)
# name: (row of the catalogue, what to build, policy, verdict, words of the reason or repair)
CASES: dict[str, tuple[int, Build, Policy, str, str]] = {
    "one missing": (1, series(without(10)), Policy(), "skipped", "spacing 8.000 mm after 1-010.dcm, median 4.000"),
    "one missing, bridged": (1, series(without(10)), Policy(max_gap=1), "repaired", "1 missing slices interpolated"),
    "many missing": (2, series(without(*range(9, 18))), Policy(max_gap=3), "skipped", "9 slices missing.*1-009.dcm"),
    "copy of a slice": (3, lambda f: doubled(f, differ=False), Policy(), "repaired", "1 further files"),
    "two at a position": (4, lambda f: doubled(f, differ=True), Policy(), "skipped", "(copy.*1-008|1-008.*copy).dcm"),
    "two, first": (4, lambda f: doubled(f, differ=True), Policy(on_duplicate="first"), "repaired", "kept"),
    "two downloads": (5, two_downloads, Policy(), "repaired", "32 further files"),
    "two spacings": (6, series(two_spacings), Policy(), "skipped", "6 irregular steps.*1-0.*dcm"),
    "two spacings, resampled": (6, series(two_spacings), Policy(on_irregular="resample"), "repaired", "6 irregular"),
    "localizer": (7, lambda f: localizers(f, 2), Policy(), "repaired", "dropped 2.*scout0.dcm"),
    "localizers": (7, lambda f: localizers(f, 3), Policy(), "skipped", "3 slices have another.*scout0.dcm"),
    "tilt": (8, series(tilted), Policy(), "skipped", "1-001.dcm: gantry tilt 12.0°"),
    "tilt, sheared": (8, series(tilted), Policy(tilt="resample"), "repaired", "12.0° sheared back"),
    "no numbers": (9, series(InstanceNumber=None), Policy(), "accepted", ""),
    "empty": (13, lambda f: replaced(f, b""), Policy(), "skipped", "1-004.dcm: empty file"),
    "web page": (13, lambda f: replaced(f, b"<html>404"), Policy(), "skipped", "1-004.dcm: a web page"),
    "header cut": (13, lambda f: cut(f, 3, 200), Policy(), "skipped", "1-004.dcm: its DICOM header"),
    "text": (13, lambda f: replaced(f, b"not found"), Policy(), "skipped", "1-004.dcm: truncated after 9 bytes"),
    "pixels cut": (14, lambda f: cut(f, 3, -100), Policy(), "skipped", "1-004.dcm: truncated: 4.. of 512 bytes"),
    "pixels cut a little": (14, lambda f: cut(f, 3, -2), Policy(), "skipped", "1-004.dcm: "),
    "bad compression": (15, series(compressed_garbage), Policy(), "skipped", "1-001.dcm: its pixels .JPEG 2000"),
    "video": (15, series(syntax("1.2.840.10008.1.2.4.102")), Policy(), "skipped", "1-001.dcm.*1.2.840.10008.1.2.4.102"),
    "no preamble": (16, without_preamble, Policy(), "skipped", "1-004.dcm: not a DICOM Part 10 file"),
    "no slope": (17, series(RescaleSlope=None), Policy(), "skipped", "1-001.dcm: RescaleSlope"),
    "slope 0": (17, series(only(5, RescaleSlope=0)), Policy(), "skipped", "1-006.dcm: RescaleSlope"),
    "slope NaN": (17, series(only(5, RescaleSlope=float("nan"))), Policy(), "skipped", "1-006.dcm: RescaleSlope"),
    "no intercept": (17, series(RescaleIntercept=None), Policy(), "skipped", "1-001.dcm: Rescale"),
    "padding": (19, padded_outside, Policy(), "repaired", "1,024 voxels of padding"),
    "padding in tissue": (19, series(PixelPaddingValue=1100), Policy(), "skipped", "1-001.dcm: PixelPaddingValue"),
    "no pixel spacing": (20, series(PixelSpacing=None), Policy(), "skipped", "1-001.dcm: PixelSpacing is absent"),
    "pixel spacing 0": (20, series(PixelSpacing=[0, 8]), Policy(), "skipped", "1-001.dcm: PixelSpacing"),
    "pixel spacing < 0": (20, series(PixelSpacing=[-8, 8]), Policy(), "skipped", "1-001.dcm: PixelSpacing"),
    "pixel spacing 11": (20, series(PixelSpacing=[11, 11]), Policy(), "skipped", "1-001.dcm: PixelSpacing"),
    "another matrix": (21, series(only(4, Rows=8, Columns=32)), Policy(), "skipped", "another Rows and Columns: 1-005"),
    "another spacing": (21, series(only(4, PixelSpacing=[7, 7])), Policy(), "skipped", "another PixelSpacing: 1-005"),
    "anisotropic": (22, series(PixelSpacing=[8, 10]), Policy(), "accepted", ""),
    "flipped": (23, series(ImageOrientationPatient=[-1, 0, 0, 0, -1, 0]), Policy(), "repaired", "from RAS to RAS"),
    "oblique": (
        23,
        series(ImageOrientationPatient=[0.8, 0.6, 0, -0.6, 0.8, 0]),
        Policy(),
        "skipped",
        "oblique by 36.9",
    ),
    "sheared": (23, series(ImageOrientationPatient=[1, 0, 0, 0.3, 0.95, 0]), Policy(), "skipped", "perpendicular"),
    "three slices": (24, series(slices=3), Policy(), "skipped", "1-001.dcm: slices: 3, at least 4"),
    "short": (24, series(slices=20), Policy(), "skipped", "1-001.dcm: covers 80 mm"),
    "multi-frame": (25, series(NumberOfFrames=4), Policy(), "skipped", "1-001.dcm: multi-frame"),
    "enhanced": (25, series(SOPClassUID=EnhancedCTImageStorage), Policy(), "skipped", "1-001.dcm: multi-frame"),
    "MONOCHROME1": (26, series(PhotometricInterpretation="MONOCHROME1"), Policy(), "skipped", "MONOCHROME1"),
    "RGB": (26, series(PhotometricInterpretation="RGB", SamplesPerPixel=3), Policy(), "skipped", "1-001.dcm.*RGB"),
    "8 bits": (26, series(BitsAllocated=8), Policy(), "skipped", "1-001.dcm: 8 bits"),
    "capture": (26, series(SOPClassUID=SecondaryCaptureImageStorage), Policy(), "skipped", "secondary capture"),
    "MIP": (26, series(ImageType=["DERIVED", "SECONDARY", "MIP"]), Policy(), "skipped", "1-001.dcm.*MIP"),
    "small": (27, series(slices=26), Policy(), "repaired", "padded by 24 mm z"),
    "metal": (28, series(volume=metal()), Policy(), "repaired", "16 voxels above 3071 HU clipped"),
    "constant": (29, series(volume=constant(40)), Policy(), "skipped", "1-001.dcm …: every voxel is 40 HU"),
    "air": (29, series(volume=constant(-1000) + np.arange(16, dtype=np.int16)), Policy(), "skipped", "nothing but air"),
    "no position": (20, series(ImagePositionPatient=None), Policy(), "skipped", "1-001.dcm: no ImagePositionPatient"),
    "no orientation": (23, series(ImageOrientationPatient=None), Policy(), "skipped", "no ImageOrientationPatient"),
    "no series UID": (30, series(SeriesInstanceUID=None), Policy(), "skipped", "1-001.dcm: no SeriesInstanceUID"),
}


@pytest.mark.parametrize("name", CASES)
def test_verdict(name: str, tmp_path: Path) -> None:
    _, build, policy, verdict, words = CASES[name]
    build(tmp_path)
    entries = outcome(tmp_path, policy)
    (case,) = [entry for entry in entries if entry.case]
    assert case.verdict == verdict
    text = "; ".join(case.reasons + case.repairs)
    assert len(text) < 400
    assert "\n" not in text
    assert re.search(words, text), text


def test_the_table_is_big_enough() -> None:
    assert len(CASES) >= 34
    assert {row for row, *_ in CASES.values()} >= set(range(1, 30)) - {10, 11, 12, 18}  # those stand below
