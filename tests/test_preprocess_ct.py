"""R2: voxels keep their place to 1e-4 mm and their HU exactly, however a series is stored; resampling is SciPy's."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK
from dicom_factory import PIXEL, SIDE, SLICES, STEP, phantom, set_hu, write_series
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

from wdm_cli.engine.dicom import Policy, scan
from wdm_cli.engine.errors import DataError
from wdm_cli.engine.preprocess import Target, plan_lidc
from wdm_cli.engine.preprocess.target import Prepared

NATIVE = Target(size=None, spacing=None, intensity="fixed-window")


def prepared(folder: Path, target: Target = NATIVE, policy: Policy | None = None) -> Prepared:
    plan = plan_lidc(scan(folder), folder, policy or Policy(), target)
    assert not plan.settled
    (job,) = plan.jobs
    return job.prepare()


def reverse_numbers(number: int, ds: Any) -> Any:
    ds.InstanceNumber = SLICES - number
    return ds


def mixed_intercept(number: int, ds: Any) -> Any:
    set_hu(ds, phantom()[number], intercept=-1024 if number % 2 else -2000)
    return ds


def other_slope(number: int, ds: Any) -> Any:
    set_hu(ds, phantom()[number], slope=0.5, intercept=-1000)
    return ds


def signed(number: int, ds: Any) -> Any:
    set_hu(ds, phantom()[number], intercept=0, signed=True)
    return ds


def big_endian(number: int, ds: Any) -> Any:
    ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    set_hu(ds, phantom()[number])
    return ds


def implicit(number: int, ds: Any) -> Any:
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    return ds


def downwards(number: int, ds: Any) -> Any:
    ds.ImagePositionPatient[2] = -number * STEP
    return ds


def turned(*orientation: float) -> Callable[[int, Any], Any]:
    """Slices stacked along the normal of an orientation."""
    normal = np.cross(orientation[:3], orientation[3:])

    def change(number: int, ds: Any) -> Any:
        ds.ImageOrientationPatient = list(orientation)
        ds.ImagePositionPatient = [round(float(x), 6) for x in normal * STEP * number + (10.0, -20.0, 30.0)]
        return ds

    return change


def jpeg2000(number: int, ds: Any) -> Any:
    """GDCM writes the code stream; it is put into the ordinary file."""
    path = SCRATCH / f"{number}.dcm"
    image = SimpleITK.GetImageFromArray((phantom()[number] + 1024).astype(np.uint16)[None])
    writer = SimpleITK.ImageFileWriter()
    writer.SetFileName(str(path))
    writer.UseCompressionOn()
    writer.SetCompressor("JPEG2000")
    writer.Execute(image)
    source = pydicom.dcmread(path)
    ds.file_meta.TransferSyntaxUID = source.file_meta.TransferSyntaxUID
    ds.PixelData = source.PixelData
    ds["PixelData"].VR = "OB"
    return ds


COS, SIN = np.cos(np.radians(10)), np.sin(np.radians(10))
VARIANTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "plain": (None, {}),
    "reversed numbers": (reverse_numbers, {}),
    "no numbers": (None, {"InstanceNumber": None}),
    "downwards": (downwards, {}),
    "feet first": (turned(-1, 0, 0, 0, 1, 0), {}),
    "upside down": (turned(1, 0, 0, 0, -1, 0), {}),
    "coronal": (turned(1, 0, 0, 0, 0, -1), {}),
    "sagittal": (turned(0, 1, 0, 0, 0, -1), {}),
    "oblique": (turned(COS, SIN, 0, -SIN, COS, 0), {}),
    "anisotropic": (None, {"PixelSpacing": [8.0, 6.0]}),
    "mixed intercept": (mixed_intercept, {}),
    "slope 0.5": (other_slope, {}),
    "signed": (signed, {}),
    "big endian": (big_endian, {}),
    "implicit": (implicit, {}),
    "JPEG 2000": (jpeg2000, {}),
}
SCRATCH = Path()


@pytest.mark.parametrize("name", VARIANTS)
def test_every_voxel_is_where_it_was(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(sys.modules[__name__], "SCRATCH", scratch)
    change, tags = VARIANTS[name]
    paths = write_series(tmp_path / "series", change, **tags)
    result = prepared(tmp_path / "series")
    assert nib.aff2axcodes(result.affine) == ("R", "A", "S")
    assert result.array.dtype == np.int16
    assert result.array.size == SLICES * SIDE * SIDE
    inverse = np.linalg.inv(result.affine)
    for path, hu in zip(paths, phantom(), strict=True):
        ds = pydicom.dcmread(path, stop_before_pixels=True)
        down, across = (float(mm) for mm in ds.PixelSpacing)
        row, column = np.array(ds.ImageOrientationPatient[:3], float), np.array(ds.ImageOrientationPatient[3:], float)
        r, c = np.mgrid[:SIDE, :SIDE]
        lps = np.array(ds.ImagePositionPatient, float) + c[..., None] * across * row + r[..., None] * down * column
        voxels = (lps * (-1, -1, 1)) @ inverse[:3, :3].T + inverse[:3, 3]
        nearest = np.rint(voxels).astype(int)
        apart = np.linalg.norm((voxels - nearest) @ result.affine[:3, :3].T, axis=-1)
        assert apart.max() < 1e-4
        i, j, k = np.moveaxis(nearest, -1, 0)
        assert np.array_equal(result.array[i, j, k], hu)


def test_compressed_pixels_that_end_early_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GDCM would fill up what is missing; the file is named instead."""
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(sys.modules[__name__], "SCRATCH", tmp_path / "scratch")

    def cut(number: int, ds: Any) -> Any:
        jpeg2000(number, ds)
        if number == 4:
            frame = pydicom.encaps.get_frame(ds.PixelData, 0, number_of_frames=1)
            ds.PixelData = pydicom.encaps.encapsulate([frame[: len(frame) * 2 // 3]])
        return ds

    write_series(tmp_path / "series", cut)
    with pytest.raises(DataError, match=r"1-005\.dcm: its pixels \(JPEG 2000 lossless\) are truncated"):
        prepared(tmp_path / "series")


def test_padding_is_air_before_interpolation(tmp_path: Path) -> None:
    """Outside the round field of view lie −2000 HU; a cubic spline must not carry them into the body."""
    body = np.full((SLICES, SIDE, SIDE), 40, np.int16)
    body[:, :, :3] = -1000
    hostile = body.copy()
    hostile[:, :, :3] = -2000

    def store(volume: np.ndarray) -> Any:
        return lambda number, ds: (set_hu(ds, volume[number], intercept=-2048), ds)[1]

    write_series(tmp_path / "clean", store(body))
    write_series(tmp_path / "hostile", store(hostile))
    target = Target(size=64, spacing=2.0, intensity="fixed-window")
    clean, padded = prepared(tmp_path / "clean", target), prepared(tmp_path / "hostile", target)
    assert np.array_equal(clean.array, padded.array)
    assert "set to -1000" in padded.repairs[0]
    assert not clean.repairs


def test_crop_and_padding_are_symmetric_and_reported(tmp_path: Path) -> None:
    write_series(tmp_path)
    small = prepared(tmp_path, Target(size=16, spacing=4.0, intensity="fixed-window"))
    large = prepared(tmp_path, Target(size=48, spacing=4.0, intensity="fixed-window"))
    assert small.facts["cropped_mm"] == [64, 64, 64]
    assert large.facts["padded_mm"] == [64, 64, 64]
    assert np.array_equal(large.array[16:32, 16:32, 16:32], small.array)
    for axis in range(3):
        outer = np.take(large.array, [*range(7), *range(41, 48)], axis)
        assert (outer == -1000).all()
    middle = lambda p: (p.affine @ [*((np.array(p.array.shape) - 1) / 2), 1])[:3]  # noqa: E731
    assert np.allclose(middle(small), middle(large))


def test_intensity_schemes(tmp_path: Path) -> None:
    write_series(tmp_path)
    hu = prepared(tmp_path).array.astype(np.float64)
    unit = prepared(tmp_path, Target(size=None, spacing=None, intensity="paper")).array
    assert unit.dtype == np.float32
    high = np.quantile(hu, 0.999)
    assert np.abs(unit - (np.clip(hu, -1000, high) + 1000) / (high + 1000)).max() < 1e-6
    assert (unit.min(), unit.max()) == (0, 1)


def test_missing_slices_and_uneven_steps_use_true_positions(tmp_path: Path) -> None:
    """A phantom linear along z is restored across a gap and across a change of spacing."""

    def along_z(number: int, ds: Any) -> Any:
        z = ds.ImagePositionPatient[2] = number * STEP if number < 20 else 20 * STEP + (number - 20) * 5.0
        pixels = np.full((SIDE, SIDE), round(3 * z))
        pixels[0] = -1000  # air, which every CT has
        set_hu(ds, pixels)
        return None if number == 10 else ds

    write_series(tmp_path, along_z)
    policy = Policy(max_gap=1, on_irregular="resample")
    result = prepared(tmp_path, Target(size=24, spacing=4.0, intensity="fixed-window"), policy)
    z = result.affine[2, 2] * np.arange(24) + result.affine[2, 3]
    error = np.abs(result.array[12, 12] - 3 * z)
    assert error[3:-3].max() <= 1


def test_a_tilted_gantry_is_sheared_back(tmp_path: Path) -> None:
    """A straight rod along the body's axis leans in tilted slices; shearing makes it straight again."""

    def lean(number: int, ds: Any) -> Any:
        shift = STEP * number * np.tan(np.radians(10))
        ds.ImagePositionPatient[1] = -60.0 + shift
        rows = np.arange(SIDE)[:, None] * PIXEL - 60.0 + shift
        pixels = np.rint(np.where(abs(rows) < 200, 500 * np.exp(-(((rows - 10) / 20) ** 2)), 0) + np.zeros(SIDE))
        pixels[:, 0] = -300  # a CT without anything below −100 is refused
        set_hu(ds, pixels)
        return ds

    write_series(tmp_path, lean)
    target = Target(size=32, spacing=2.0, intensity="fixed-window")
    result = prepared(tmp_path, target, Policy(tilt="resample"))
    y = result.affine[1, 1] * np.arange(32) + result.affine[1, 3]
    profile = result.array[16].astype(float)  # [y, z] in RAS: posterior is −y
    centre = (profile * y[:, None]).sum(0) / profile.sum(0)
    ridge = -y[profile.argmax(axis=0)]
    assert np.abs(ridge - 10).max() <= 2.0
    assert np.ptp(centre) < 1.0
