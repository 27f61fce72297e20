"""`wdm preprocess lidc` against the direct computation, and two workers against one.

    python benchmarks/preprocess.py [DICOM_FOLDER] [--cases 16] [--json FILE]

The direct computation is what the official script does in effect: pydicom pixels, HU, SciPy's cubic zoom of the
whole volume to 1 mm, a 256³ crop of the middle, min-max. Ours includes reading and judging all headers; writing
is timed apart. Without a folder a synthetic chest of 128 slices of 512² is made. One CT series is expected.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import resource
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command does: parallel cases, not parallel sums

import numpy as np
import pydicom
from scipy import ndimage

from wdm_cli.engine.dicom import Policy, scan
from wdm_cli.engine.preprocess import Plan, Target, plan_lidc, run
from wdm_cli.engine.preprocess.ct import plan as grid
from wdm_cli.engine.preprocess.ct import prepare
from wdm_cli.engine.preprocess.work import make

SIZE, SLICES = 256, 128
BODY = -500.0  # HU
REPEATS = 3


def synthetic(folder: Path) -> None:
    """A body with lungs, ribs and vessels, 128 slices of 2.5 mm."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    rng = np.random.default_rng(0)
    y, x = (np.mgrid[:512, :512] - 255.5) / 256
    noise = ndimage.gaussian_filter(rng.normal(size=(512, 512)), 3)
    for number in range(SLICES):
        z = number / SLICES - 0.5
        hu = np.where((x / 0.85) ** 2 + (y / 0.6) ** 2 < 1 - z**2, 40 + 400 * noise, -1000.0)
        for side in (-0.4, 0.4):
            hu[((x - side) / 0.28) ** 2 + (y / 0.42) ** 2 < 1 - 3 * z**2] = -850
        hu[np.hypot(x, y - 0.35) < 0.1 + 0.02 * np.sin(60 * z)] = 700
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, ExplicitVRLittleEndian
        ds = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
        ds.SOPClassUID, ds.SOPInstanceUID, ds.SeriesInstanceUID = CTImageStorage, f"1.2.3.{number + 1}", "1.2.3"
        meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.Modality, ds.PatientID, ds.Rows, ds.Columns = "CT", "LIDC-IDRI-0001", 512, 512
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
        ds.RescaleSlope, ds.RescaleIntercept, ds.PixelSpacing = 1, -1024, [0.74, 0.74]
        ds.ImageOrientationPatient, ds.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [-189.1, -189.1, number * 2.5]
        ds.PixelData = np.rint(hu + 1024).astype("<u2").tobytes()
        ds["PixelData"].VR = "OW"
        ds.save_as(folder / f"{number:03}.dcm", enforce_file_format=True)


def direct(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """[256, 256, 256] in [0, 1], RAS; and the middle of its grid in RAS mm."""
    slices = [pydicom.dcmread(path) for path in sorted(folder.rglob("*.dcm"))]
    slices.sort(key=lambda ds: float(ds.ImagePositionPatient[2]))
    hu = np.stack([ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept) for ds in slices])
    step = float(slices[1].ImagePositionPatient[2]) - float(slices[0].ImagePositionPatient[2])
    spacing = np.array([step, *map(float, slices[0].PixelSpacing)])
    zoomed = ndimage.zoom(np.maximum(hu, -1000), spacing, order=3, mode="nearest", grid_mode=True)
    start = [max(0, (n - SIZE) // 2) for n in zoomed.shape]
    cropped = zoomed[tuple(slice(s, s + SIZE) for s in start)]
    high = np.quantile(cropped, 0.999)
    unit = (np.clip(cropped, -1000, high) + 1000) / (high + 1000)
    first = np.array([float(mm) for mm in slices[0].ImagePositionPatient])[::-1]
    per_voxel = np.array(hu.shape) * spacing / zoomed.shape
    middle = first - spacing / 2 + (np.array(start) + SIZE / 2) * per_voxel  # z, y, x in LPS
    return unit.transpose(2, 1, 0)[::-1, ::-1], middle[::-1] * (-1, -1, 1)


def best(function: Any) -> tuple[float, Any]:
    """The shortest of some runs, and the last result."""
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - started)
    return min(times), result


def agreement(folder: Path, reference: np.ndarray, middle: np.ndarray) -> dict[str, float]:
    """PSNR inside the body on the direct computation's own grid, and how far the two crops lie apart."""
    target = Target(size=SIZE, spacing=1.0)
    (job,) = plan_lidc(scan(folder), folder, Policy(), target).jobs
    series = job.series  # type: ignore[attr-defined]
    made = prepare(series, Policy(), target)
    ours = (made.affine @ [*(np.array(made.array.shape) - 1) / 2, 1])[:3]
    shift = (middle - ours) * (-1, -1, 1)  # along columns, rows, slices
    axes = grid(series.stack, target)
    moved = [dataclasses.replace(axis, middle=axis.middle + mm) for axis, mm in zip(axes, shift, strict=True)]
    same = prepare(series, Policy(), target, moved).array
    hu = prepare(series, Policy(), dataclasses.replace(target, intensity="fixed-window"), moved).array
    error = float(np.mean((same[hu > BODY] - reference[hu > BODY]) ** 2))
    flipped = float(np.mean((same[::-1][hu > BODY] - reference[hu > BODY]) ** 2))
    return {
        "psnr_in_body_db": -10 * np.log10(error),
        "psnr_if_left_and_right_were_swapped_db": -10 * np.log10(flipped),
        "crop_apart_voxels": float(np.abs(shift).max()),
    }


def cpu_seconds() -> float:
    """Spent so far by this process and those it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def workers(folder: Path, cases: int) -> dict[str, float]:
    """Seconds for many cases of the same series with one worker and with two, start of the processes included.

    Beside the ratio by the clock, which other programs on the machine spoil, stands the one that two idle cores
    would give: CPU seconds of one worker by half of those of two.
    """
    plan = plan_lidc(scan(folder), folder, Policy(), Target(size=SIZE))
    (job,) = plan.jobs
    series = [dataclasses.replace(job.series, case=f"case-{n}", source=f"{n}") for n in range(cases)]  # type: ignore
    plan = Plan([dataclasses.replace(job, series=item) for item in series], [], plan.protocol)  # type: ignore
    clock, cpu = {}, {}
    for count in (1, 2):
        with tempfile.TemporaryDirectory() as out:
            started, used = time.perf_counter(), cpu_seconds()
            assert all(entry.output for entry in run(plan, Path(out), workers=count))
            clock[count], cpu[count] = time.perf_counter() - started, cpu_seconds() - used
    return {
        "one_worker_s": clock[1],
        "two_workers_s": clock[2],
        "ratio": clock[1] / clock[2],
        "ratio_by_cpu_seconds": 2 * cpu[1] / cpu[2],
    }


def measure(folder: Path, cases: int) -> dict[str, Any]:
    def ours() -> Any:
        (job,) = plan_lidc(scan(folder), folder, Policy(), Target(size=SIZE)).jobs
        return job, job.prepare()

    ours_seconds, (job, _) = best(ours)
    with tempfile.TemporaryDirectory() as out:
        whole_seconds, _ = best(lambda: make(job, Path(out)))
    direct_seconds, (reference, middle) = best(lambda: direct(folder))
    return {
        "direct_s": direct_seconds,
        "ours_s": ours_seconds,
        "ours_with_writing_s": whole_seconds,
        "ratio": direct_seconds / ours_seconds,
        "ratio_with_writing": direct_seconds / whole_seconds,
        "agreement": agreement(folder, reference, middle),
        "workers": workers(folder, cases),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--cases", type=int, default=16, help="how many for the comparison of workers")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch)
        if arguments.folder is None:
            synthetic(folder)
        result = measure(folder, arguments.cases)
    result |= {
        "date": date.today().isoformat(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
    }
    print(json.dumps(result, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
