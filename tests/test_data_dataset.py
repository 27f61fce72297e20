"""Which files are cases, which are not and why; and how a case becomes a training volume."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from wdm_cli.engine.data import Brats, Lidc, Nifti, guess_kind
from wdm_cli.engine.data.labelmaps import BY_NAME
from wdm_cli.engine.data.volume import write_nifti
from wdm_cli.engine.errors import DataError, FieldError

RAS = np.diag([1.0, 1, 1, 1])


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 9)
    return root


def names(dataset, root):
    return [case.name for case in dataset.find(root).cases]


def reasons(dataset, root):
    return {path.relative_to(root).as_posix(): reason for path, reason in dataset.find(root).ignored}


def test_brats_layout_at_any_depth_with_old_and_new_names(tmp_path):
    touch(
        tmp_path,
        "b/BraTS-GLI-00002-000/BraTS-GLI-00002-000-t1n.nii.gz",
        "b/BraTS-GLI-00002-000/BraTS-GLI-00002-000-t1c.nii.gz",
        "b/BraTS-GLI-00002-000/BraTS-GLI-00002-000-seg.nii.gz",
        "BraTS20_Training_001/BraTS20_Training_001_t1.nii.gz",
        "BraTS20_Training_001/BraTS20_Training_001_t1ce.nii",
        "BraTS20_Training_001/BraTS20_Training_001_flair.nii.gz",
        "BraTS20_Training_001/W39_1998.09.19_Segm.nii",
        "name_mapping.csv",
        "README",
        ".hidden/x-t1n.nii.gz",
        ".partial/y-t1n.nii.gz",
        "b/.DS_Store",
        "b/._z-t1n.nii.gz",
    )
    assert names(Brats(), tmp_path) == ["BraTS-GLI-00002-000", "BraTS20_Training_001"]
    assert names(Brats(contrast="t1c"), tmp_path) == ["BraTS-GLI-00002-000", "BraTS20_Training_001"]
    assert names(Brats(contrast="t2f"), tmp_path) == ["BraTS20_Training_001"]
    assert reasons(Brats(), tmp_path) == {
        "b/BraTS-GLI-00002-000/BraTS-GLI-00002-000-t1c.nii.gz": "other contrast (t1c)",
        "b/BraTS-GLI-00002-000/BraTS-GLI-00002-000-seg.nii.gz": BY_NAME,
        "BraTS20_Training_001/BraTS20_Training_001_t1ce.nii": "other contrast (t1c)",
        "BraTS20_Training_001/BraTS20_Training_001_flair.nii.gz": "other contrast (t2f)",
        "BraTS20_Training_001/W39_1998.09.19_Segm.nii": BY_NAME,
        "name_mapping.csv": "text, tables, pictures",
        "README": "text, tables, pictures",
    }
    assert guess_kind(tmp_path) == "brats"


def test_lidc_layout_takes_one_file_a_case(tmp_path):
    touch(
        tmp_path,
        "LIDC-IDRI-0002/preprocessed.nii.gz",
        "LIDC-IDRI-0002/processed.nii.gz",
        "LIDC-IDRI-0001/processed.nii.gz",
        "LIDC-IDRI-0001/mask.nii.gz",
    )
    assert names(Lidc(), tmp_path) == ["LIDC-IDRI-0001", "LIDC-IDRI-0002"]
    assert reasons(Lidc(), tmp_path) == {
        "LIDC-IDRI-0002/processed.nii.gz": "second file of its case",
        "LIDC-IDRI-0001/mask.nii.gz": BY_NAME,
    }
    assert Lidc().find(tmp_path).cases[1].path.name == "preprocessed.nii.gz"
    assert guess_kind(tmp_path) == "lidc-idri"


def test_names_are_unique_and_safe(tmp_path):
    touch(tmp_path, "a/scan.nii.gz", "b/scan.nii.gz", "b/Scan.nii", "c/an odd näme.nii", "d.nii", "d.nii.gz")
    found = Nifti().find(tmp_path)
    assert len({case.name.lower() for case in found.cases}) == len(found.cases) == 5
    assert all(
        set(case.name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
        for case in found.cases
    )
    assert [case.name for case in found.cases] == sorted(case.name for case in found.cases)
    assert found.ignored == ((tmp_path / "d.nii", "the same name exists as .nii.gz"),)
    assert guess_kind(tmp_path) == "nifti"


def test_missing_empty_and_wrong_folders_say_what_was_expected_and_found(tmp_path):
    with pytest.raises(DataError, match="no such folder") as caught:
        Brats().find(tmp_path / "none")
    assert "check the path" in caught.value.hint  # whatever the layout: nothing is known of a folder that is not there
    with pytest.raises(DataError, match="nothing in it"):
        Nifti().find(tmp_path)
    touch(tmp_path, "c/c-t2w.nii.gz", "c/c-seg.nii.gz", "x.txt")
    with pytest.raises(DataError, match="is a file"):
        Lidc().find(tmp_path / "x.txt")
    with pytest.raises(DataError, match=r"only: .*1 other contrast \(t2w\)") as caught:
        Brats().find(tmp_path)
    assert caught.value.hint == "take another contrast: --set data.contrast=t2w"
    for dataset in (Lidc(), Brats(contrast="t1c")):
        with pytest.raises(DataError, match="no volume found"):
            dataset.find(tmp_path)
    touch(tmp_path / "dicom", "1.dcm")
    with pytest.raises(DataError, match="1 DICOM files") as caught:
        Lidc().find(tmp_path / "dicom")
    assert "wdm preprocess" in caught.value.hint


def ct(tmp_path, array, name="processed.nii.gz"):
    path = tmp_path / "case" / name
    path.parent.mkdir(exist_ok=True)
    write_nifti(path, array.astype(np.float32), np.diag([0.7, 0.7, 2.5, 1]))
    return path


def test_load_gives_the_contract_for_every_data_set(tmp_path):
    hu = np.random.default_rng(0).uniform(-1000, 1200, (33, 40, 21))
    path = ct(tmp_path, hu)
    for dataset in (
        Brats(image_size=16),
        Lidc(image_size=(16, 32, 8)),
        Nifti(image_size=16),
        Nifti(image_size=16, modality="ct"),
        Lidc(image_size=64, intensity="fixed-window"),
    ):
        volume = dataset.load(path)
        assert volume.shape == dataset.shape
        assert volume.array.dtype == np.float32
        assert -1 <= volume.array.min() < volume.array.max() <= 1
        factor = dataset.prepare(path).facts.factor
        np.testing.assert_allclose(volume.spacing, np.multiply(factor, (0.7, 0.7, 2.5)), rtol=1e-6)


def test_fixed_window_keeps_hu_exactly(tmp_path):
    from wdm_cli.engine.data.transforms import to_window

    hu = np.random.default_rng(1).integers(-1000, 1001, (8, 8, 8)).astype(np.float32)
    volume = Lidc(image_size=8, intensity="fixed-window").load(ct(tmp_path, hu))
    np.testing.assert_array_equal(to_window(volume.array, (-1000, 1000)), hu)


def test_ct_in_unit_range_under_both_schemes(tmp_path):
    unit = np.random.default_rng(2).uniform(0, 1, (8, 8, 8)).astype(np.float32)
    path = ct(tmp_path, unit)
    np.testing.assert_allclose(Lidc(image_size=8).load(path).array, 2 * unit - 1, atol=1e-6)
    with pytest.raises(DataError, match="no HU are left") as caught:
        Lidc(image_size=8, intensity="fixed-window").load(path)
    assert str(path) in caught.value.what
    assert "data.intensity=paper" in caught.value.hint
    path = ct(tmp_path, unit * 255, "preprocessed.nii.gz")
    with pytest.raises(DataError, match="are no HU") as caught:
        Lidc(image_size=8).load(path)
    assert "data.modality=mr" in caught.value.hint


def test_cropped_anatomy_is_said_in_millimetres(tmp_path):
    path = ct(tmp_path, np.random.default_rng(3).uniform(-1000, 900, (18, 16, 16)))
    facts = Lidc(image_size=16, crop_margin=0.2).prepare(path).facts
    np.testing.assert_allclose(facts.lost, ((0.7, 0.7), (0, 0), (0, 0)), rtol=1e-6)
    assert "cropped by 1/1, 0/0, 0/0 mm" in facts.warning
    assert (facts.sides, facts.orientation, facts.factor) == ((18, 16, 16), "RAS", (1, 1, 1))
    assert Lidc(image_size=16, crop_margin=0).prepare(path).facts.warning == ""


def test_fixed_window_is_for_ct():
    for settings in (Lidc(intensity="fixed-window"), Nifti(intensity="fixed-window", modality="ct")):
        assert settings.voxel_settings() != replace(settings, intensity="paper").voxel_settings()
    for kind in (Brats, Nifti):
        with pytest.raises(FieldError, match="for CT"):
            kind(intensity="fixed-window")


def test_settings_that_change_voxels_are_in_the_cache_key():
    base = Brats().voxel_settings()
    for other in (
        Brats(image_size=64),
        Brats(crop_margin=0.2),
        Brats(voxel=2.0),
        Brats(voxel="own"),
        Brats(cache="int16"),
        Nifti(),
    ):
        assert other.voxel_settings() != base
    assert Brats(voxel=2).voxel_settings() == Brats(voxel=(2.0, 2.0, 2.0)).voxel_settings()
    for same in (Brats(dir="x"), Brats(contrast="t2w"), Brats(window=(0, 9)), Brats(image_size=(128, 128, 128))):
        assert same.voxel_settings() == base
