"""Volumes of other formats: the same world, the same suspicion, the BraTS names."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from wdm_cli.engine.data.brats import Brats
from wdm_cli.engine.data.nifti import Nifti
from wdm_cli.engine.data.patients import by_manifest
from wdm_cli.engine.data.volume import read_nifti, write_nifti
from wdm_cli.engine.errors import DataError
from wdm_cli.engine.preprocess import Target, plan_brats, plan_nifti, run, tally
from wdm_cli.engine.preprocess.foreign import read_volume
from wdm_cli.engine.preprocess.nifti import prepare

MR = Target(modality="mr", size=None, spacing=None)


def head(shape: tuple[int, int, int] = (20, 24, 18)) -> np.ndarray:
    """A bright ellipsoid with a gradient along every axis, on a background of 0."""
    i, j, k = (np.linspace(-1, 1, n) for n in shape)
    inside = i[:, None, None] ** 2 + j[:, None] ** 2 + k**2 < 0.8
    return np.where(inside, 400 + 100 * i[:, None, None] + 50 * j[:, None] + 25 * k, 0).astype(np.float32)


AFFINE = np.array([[-1.5, 0, 0, 10], [0, -2.0, 0, 20], [0, 0, 2.5, -30], [0, 0, 0, 1.0]])


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize("compress", [False, True])
def test_other_formats_hold_the_same_world(tmp_path: Path, suffix: str, compress: bool) -> None:
    """NIfTI by nibabel and NRRD/MHA by SimpleITK give equal voxels and affines."""
    write_nifti(tmp_path / "a.nii.gz", head(), AFFINE)
    image = SimpleITK.ReadImage(str(tmp_path / "a.nii.gz"))
    SimpleITK.WriteImage(image, str(tmp_path / f"a{suffix}"), compress)
    ours, other = read_nifti(tmp_path / "a.nii.gz"), read_volume(tmp_path / f"a{suffix}")
    assert np.array_equal(ours.array, other.array)
    assert np.allclose(ours.affine, other.affine, atol=1e-5)


def test_volumes_are_turned_to_ras_and_stay_where_they_are(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii.gz", head(), AFFINE)
    made = prepare(tmp_path / "a.nii.gz", MR)
    assert nib.aff2axcodes(made.affine) == ("R", "A", "S")
    spot = made.affine @ (3, 5, 7, 1)
    old = np.rint(np.linalg.inv(AFFINE) @ spot).astype(int)
    unit = np.clip(head(), *np.quantile(head().astype(np.float64), (0.001, 0.999)))
    unit = (unit - unit.min()) / (unit.max() - unit.min())
    assert made.array[3, 5, 7] == pytest.approx(unit[tuple(old[:3])], abs=1e-6)
    assert (made.array.min(), made.array.max()) == (0, 1)
    assert made.array.dtype == np.float32


def test_mr_resampled_and_cropped(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii.gz", head(), AFFINE)
    made = prepare(tmp_path / "a.nii.gz", Target(modality="mr", size=32, spacing=2.0))
    assert made.array.shape == (32, 32, 32)
    assert np.allclose(np.linalg.norm(made.affine[:3, :3], axis=0), 2)
    assert made.facts["padded_mm"] == [34, 16, 19]
    assert made.array[0].max() == made.array[:, 0].max() == 0  # background around it
    assert not made.repairs


def test_ct_volumes_follow_the_rules_of_ct(tmp_path: Path) -> None:
    hu = np.where(head() > 0, head() - 400, -1000).astype(np.int16)
    hu[:2] = -2048
    hu[10, 12, 9] = 6000
    write_nifti(tmp_path / "a.nii.gz", hu, np.diag([2.0, 2, 2, 1]))
    made = prepare(tmp_path / "a.nii.gz", Target(size=24, spacing=2.0, intensity="fixed-window"))
    assert made.array.dtype == np.int16
    assert (made.array.min(), made.array.max()) == (-1000, 3071)
    words = " ".join(made.repairs)
    assert "864 voxels of padding or below -1024 HU" in words
    assert "1 voxels above 3071" in words
    assert "padded by 8 mm x, 12 mm z" in words


MHA = "ObjectType = Image\nNDims = 3\nDimSize = {0} {0} {0}\nElementType = MET_SHORT\nElementDataFile = {1}\n"
NRRD = "NRRD0004\ntype: double\ndimension: {0}\nsizes: {1}\nencoding: {2}\n"
HOSTILE = {
    "detached.mha": MHA.format(2, "/etc/passwd").encode(),
    "detached.nrrd": (NRRD.format(3, "2 2 2", "raw") + "data file: /etc/passwd\n\n").encode(),
    "bomb.nrrd": (NRRD.format(3, "9999 9999 9999", "gzip") + "\n").encode() + gzip.compress(bytes(99)),
    "short.mha": MHA.format(30, "LOCAL").encode() + b"xx",
    "flat.nrrd": (NRRD.format(2, "2 2", "raw") + "\n").encode() + bytes(32),
    "page.nrrd": b"<html>404</html>",
    "empty.mha": b"",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_of_other_formats(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / name).write_bytes(HOSTILE[name])
    with pytest.raises(DataError, match=name):
        read_volume(tmp_path / name)


def test_values_that_are_no_numbers(tmp_path: Path) -> None:
    for value, words in ((np.nan, "NaN"), (0.0, "every voxel is 0")):
        image = SimpleITK.GetImageFromArray(np.full((4, 4, 4), value, np.float32))
        SimpleITK.WriteImage(image, str(tmp_path / "a.mha"))
        with pytest.raises(DataError, match=words):
            read_volume(tmp_path / "a.mha")


def test_a_mixed_folder(tmp_path: Path) -> None:
    """Good and bad volumes, equal names, other files: all counted, the good ones made, hidden text left behind."""
    source, out = tmp_path / "source", tmp_path / "out"
    for sub in ("x", "y"):
        (source / sub).mkdir(parents=True)
        write_nifti(source / sub / "scan.nii.gz", head() + ord(sub), AFFINE)
    image = nib.Nifti1Image(head(), AFFINE)
    image.header["descrip"] = b"Qwertz Zaphodine"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Qwertz Zaphodine"))
    nib.save(image, source / "sub-01_T1w.nii.gz")
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(head()), str(source / "sub-02.mha"))
    (source / "bad.nii.gz").write_bytes((source / "x" / "scan.nii.gz").read_bytes()[:-9])
    (source / "notes.txt").write_text("x")
    plan = plan_nifti(source, MR)
    entries = list(run(plan, out))
    assert tally(entries) == {"accepted": (4, 4), "repaired": (0, 0), "skipped": (1, 1), "ignored": (1, 1)}
    assert len(Nifti(dir=str(out)).find(out).cases) == 4
    for path in out.rglob("*"):
        if path.is_file():
            data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            assert b"Zaphodine" not in data
    assert by_manifest(Nifti().find(out))["sub-01_T1w"] == "sub-01"


def test_brats_cases_of_any_year(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    for name in (
        *(f"BraTS-GLI-00000-000/BraTS-GLI-00000-000-{kind}" for kind in ("t1n", "t1c", "t2w", "t2f", "seg")),
        *(f"BraTS20_Training_001/BraTS20_Training_001_{kind}" for kind in ("t1", "flair")),
        "other",
    ):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        write_nifti(source / f"{name}.nii.gz", head(), AFFINE)
    entries = list(run(plan_brats(source, MR), out))
    assert tally(entries)["accepted"] == (6, 6)
    assert {entry.reasons[0] for entry in entries if entry.verdict == "ignored"} == {
        "label map or mask by its name", "not named as in BraTS",
    }  # fmt: skip
    t1 = Brats(dir=str(out)).find(out)
    assert [case.name for case in t1.cases] == ["BraTS-GLI-00000-000", "BraTS20_Training_001"]
    assert len(Brats(dir=str(out), contrast="t2f").find(out).cases) == 2
    (tmp_path / "no").mkdir()
    write_nifti(tmp_path / "no" / "a.nii.gz", head(), AFFINE)
    with pytest.raises(DataError, match="found 1 not named as in BraTS"):
        plan_brats(tmp_path / "no", MR)


def test_brats_cases_of_one_name_in_several_folders_stay_apart_and_usable(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    for name in ("a/C1-t1n", "a/C1-t2f", "b/C1-t1n", "b/C1-t2f", "b/C1_t1", "c/blank and ü-t1n"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        write_nifti(source / f"{name}.nii.gz", head(), AFFINE)
    (source / "c" / "cut-t1n.nii.gz").write_bytes((source / "a" / "C1-t1n.nii.gz").read_bytes()[:99])
    entries = list(run(plan_brats(source, MR), out))
    assert tally(entries) == {"accepted": (5, 5), "repaired": (0, 0), "skipped": (1, 1), "ignored": (1, 1)}
    cases = [case.name for case in Brats(dir=str(out)).find(out).cases]
    assert [name.rpartition("-")[0] for name in cases] == ["a_C1_", "b_C1_", "blank_and_"]
    assert {case.name for case in Brats(dir=str(out), contrast="t2f").find(out).cases} == set(cases[:2])
    assert [entry.reasons for entry in entries if entry.verdict == "ignored"] == [
        ("a second file of the same case and contrast",)
    ]
    assert str(source) not in (out / "manifest.jsonl").read_text()
