"""The grid that is wanted: three sides and voxel sizes along the body, and volumes that lean set upright."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import wdm
from dicom_factory import PIXEL, SIDE, SLICES, STEP, mr_slice, phantom, write_series

from wdm_cli.engine.data.header import shear
from wdm_cli.engine.data.volume import read_nifti, write_nifti
from wdm_cli.engine.dicom import Policy, scan
from wdm_cli.engine.errors import ConfigError, DataError
from wdm_cli.engine.preprocess import Target, plan_lidc
from wdm_cli.engine.preprocess.nifti import prepare
from wdm_cli.engine.preprocess.resample import straighten

TILT = np.tan(np.radians(12))


def world(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """[..., 3] mm of every voxel."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    return index @ affine[:3, :3].T + affine[:3, 3]


@pytest.mark.parametrize("through", [0, 1, 2])
@pytest.mark.parametrize("handed", [1, -1])
def test_a_volume_set_upright_shows_the_same_world(through: int, handed: int) -> None:
    """Values linear in world coordinates stay so, whichever axis the slices are stacked along, in an oblique frame."""
    turn = np.linalg.qr(np.random.default_rng(through).normal(size=(3, 3)))[0] * handed
    affine = np.eye(4)
    affine[:3, :3] = turn * (1.0, 1.5, 2.0)
    plane = [axis for axis in range(3) if axis != through]
    affine[:3, through] += 0.3 * affine[:3, plane[0]] - 0.5 * affine[:3, plane[1]]
    affine[:3, 3] = (-7, 5, 11)
    shape = (12, 14, 16)
    array = (world(affine, shape) @ (1.0, 3.0, 9.0)).astype(np.float32)
    straight, new = straighten(array, affine, -999.0)
    assert shear(new) < 1e-6
    assert straight.shape[through] == shape[through]
    inside = (
        np.linalg.inv(affine)
        @ np.append(world(new, straight.shape), np.ones((*straight.shape, 1)), -1).reshape(-1, 4).T
    )
    inside = inside[:3].T.reshape(*straight.shape, 3)
    deep = ((inside > 2) & (inside < np.array(shape) - 3)).all(-1)
    wanted = world(new, straight.shape) @ (1.0, 3.0, 9.0)
    assert deep.sum() > 300
    assert np.abs(straight - wanted)[deep].max() < 0.05 * np.ptp(array)
    assert np.abs(straight - wanted)[deep].mean() < 0.005 * np.ptp(array)
    far = ((inside < -0.6) | (inside > np.array(shape) - 0.4)).any(-1)
    assert (straight[far] == -999).all()
    corners = np.array([[i, j, k] for i in (0, 11) for j in (0, 13) for k in (0, 15)])
    found = np.linalg.inv(new) @ np.append(corners @ affine[:3, :3].T + affine[:3, 3], np.ones((8, 1)), 1).T
    assert (found[:3].min(1) > -0.5).all()
    assert (found[:3].max(1) < np.array(straight.shape) - 0.5).all()  # nothing is cut off


def tilted(number: int, ds: Any) -> Any:
    x, y, z = ds.ImagePositionPatient
    ds.ImagePositionPatient = [x, y + (number - SLICES // 2) * STEP * TILT, z]
    return ds


def test_a_tilted_ct_is_the_same_from_nifti_as_from_dicom(tmp_path: Path) -> None:
    write_series(tmp_path / "dicom", tilted)
    target = Target(size=None, spacing=None, intensity="fixed-window", tilt="resample")
    (job,) = plan_lidc(scan(tmp_path / "dicom"), tmp_path / "dicom", Policy(tilt="resample"), target).jobs
    wanted = job.prepare()
    affine = np.diag([-PIXEL, -PIXEL, STEP, 1.0])
    affine[:3, 2] = (0, -STEP * TILT, STEP)
    affine[:3, 3] = (60.5, 50.25 + SLICES // 2 * STEP * TILT, -300)
    write_nifti(tmp_path / "a.nii", phantom().transpose(2, 1, 0).copy(), affine)
    found = prepare(tmp_path / "a.nii", target)
    assert found.repairs[0] == "leaned by 12.0°, sheared back"
    start = np.rint(np.linalg.inv(found.affine) @ wanted.affine[:, 3])[:3].astype(int)
    assert np.allclose(found.affine[:3, :3], wanted.affine[:3, :3], atol=1e-4)
    i, j, k = (slice(a, a + n) for a, n in zip(start, wanted.array.shape, strict=True))
    highest = phantom().max()  # a file's splines are clipped to its own range, a series' to what HU can be
    assert np.abs(found.array[i, j, k].astype(int) - np.minimum(wanted.array, highest)).max() <= 1
    assert found.array.shape[1] > wanted.array.shape[1] == SIDE  # the DICOM way keeps the plane's size


def test_what_leans_along_every_axis_is_refused(tmp_path: Path) -> None:
    affine = np.array([[1, 0.2, 0.3, 0], [0, 1, 0.4, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    write_nifti(tmp_path / "a.nii", np.random.default_rng(0).normal(size=(8, 8, 8)).astype(np.float32), affine)
    with pytest.raises(DataError, match=r"a\.nii: no two of its axes are perpendicular"):
        prepare(tmp_path / "a.nii", Target(modality="mr", size=None, spacing=None, tilt="resample"))


def ball(sides: tuple[int, int, int] = (20, 24, 28)) -> np.ndarray:
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, side) for side in sides), indexing="ij"))
    return np.where((grid**2).sum(0) < 0.7, 500 + 100 * grid[0], 0).astype(np.float32)


TURNED = np.array([[0, 0, -2.0, 9], [1.5, 0, 0, 8], [0, -1.0, 0, 7], [0, 0, 0, 1]])  # stored as A, I, L


@pytest.mark.parametrize("command", ["nifti", "brats"])
def test_three_numbers_are_along_right_anterior_superior(tmp_path: Path, command: str) -> None:
    """Whichever way the array lies; they are recorded, and the same command goes on where it was."""
    write_nifti(tmp_path / "d" / "a-t1n.nii.gz", ball(), TURNED)
    words = ("preprocess", command, "--data-dir", tmp_path / "d", "--out", tmp_path / "o", "--workers", 1)
    grid = ("--spacing", "3,2,5", "--size", "24,16,8")
    result = wdm(*words, *grid)
    assert result.code == 0, result.err
    (path,) = (tmp_path / "o").rglob("*.nii.gz")
    made = read_nifti(path)
    assert made.shape == (24, 16, 8)
    np.testing.assert_allclose(made.affine[:3, :3], np.diag([3, 2, 5]), atol=1e-6)
    protocol = json.loads((tmp_path / "o" / "run.json").read_text())["protocol"]
    assert (protocol["spacing"], protocol["size"], protocol["tilt"]) == ([3, 2, 5], [24, 16, 8], "skip")
    before = path.stat().st_mtime_ns
    assert wdm(*words, *grid).code == 0
    assert path.stat().st_mtime_ns == before
    other = wdm(*words, "--spacing", "3,2,4", "--size", "24,16,8")
    assert other.code == 2
    assert "spacing: [3.0, 2.0, 5.0] there, [3.0, 2.0, 4.0] now" in other.err


def sagittal(number: int, ds: Any) -> Any:
    """Columns run backwards, rows down, slices to the left."""
    ds.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    ds.ImagePositionPatient = [-number * STEP, -60, 60]
    return mr_slice(number, ds)


@pytest.mark.parametrize(("command", "change"), [("lidc", None), ("mr", sagittal)])
def test_three_numbers_of_dicom_series(tmp_path: Path, command: str, change: Any) -> None:
    write_series(tmp_path / "d", change)
    words = ("preprocess", command, "--dicom-dir", tmp_path / "d", "--out", tmp_path / "o", "--workers", 1)
    result = wdm(*words, "--spacing", "8,4,2", "--size", "16,24,32")
    assert result.code == 0, result.err + result.out
    (path,) = (tmp_path / "o").rglob("*.nii.gz")
    made = read_nifti(path)
    assert made.shape == (16, 24, 32)
    np.testing.assert_allclose(made.affine[:3, :3], np.diag([8, 4, 2]), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--spacing", "1,1"), "--spacing 1,1: takes one number or three, e.g. 1 or 0.8,0.8,5"),
        (("--spacing", "fine"), "--spacing fine: takes one number or three"),
        (("--spacing", "1,1,30"), "--spacing 1,1,30: must be 0.1 to 20 mm"),
        (("--spacing", "nan"), "must be 0.1 to 20 mm"),
        (("--size", "64.5"), "--size 64.5: takes one number or three, e.g. 256 or 256,256,48"),
        (("--size", "64,64,4"), "--size 64,64,4: must be 8 to 1024"),
    ],
)
def test_numbers_that_cannot_be(tmp_path: Path, options: tuple[str, str], words: str) -> None:
    write_nifti(tmp_path / "d" / "a.nii.gz", ball(), np.eye(4))
    result = wdm("preprocess", "nifti", "--data-dir", tmp_path / "d", "--out", tmp_path / "o", *options)
    assert result.code == 2
    assert words in result.err
    with pytest.raises(ConfigError):
        Target(size=(64, 64, 2000))


def test_a_grid_that_no_memory_holds_is_refused_by_its_size(tmp_path: Path) -> None:
    write_nifti(tmp_path / "d" / "a.nii.gz", ball(), np.diag([40.0, 40.0, 40.0, 1.0]))
    result = wdm(
        "preprocess", "nifti", "--data-dir", tmp_path / "d", "--out", tmp_path / "o", "--spacing", "0.5,0.5,0.5",
        "--workers", 1,
    )  # fmt: skip
    assert result.code == 3
    assert "a.nii.gz: 1600×1920×2240 voxels of 0.5×0.5×0.5 mm are 25.6 GiB" in result.out
    write_series(tmp_path / "ct")
    result = wdm(
        "preprocess", "lidc", "--dicom-dir", tmp_path / "ct", "--out", tmp_path / "c", "--size", 1024, "--workers", 1
    )
    assert result.code == 3
    assert "1024×1024×1024 voxels of 1×1×1 mm are 4.0 GiB" in result.out
