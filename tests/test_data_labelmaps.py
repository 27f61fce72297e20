"""What is a label map or mask: by the names of published layouts, by content, and never an image."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from command import wdm

from wdm_cli.engine.data import Brats, Nifti
from wdm_cli.engine.data.labelmaps import BY_NAME, by_content, by_name
from wdm_cli.engine.data.phantom import phantom
from wdm_cli.engine.data.volume import write_nifti
from wdm_cli.engine.errors import DataError
from wdm_cli.engine.preprocess import Target, plan_brats, plan_nifti, run

LABELS = """
labelsTr/case_000.nii.gz labelsTs/x.nii.gz gt_segmentations/case.nii.gz case_00000/segmentation.nii.gz
aggregated_AND_seg.nii.gz instances/kidney_instance-1_annotation-2.nii.gz s0000/segmentations/liver.nii.gz
sub-01_desc-brain_mask.nii.gz sub-01_dseg.nii.gz sub-01_label-GM_probseg.nii.gz sub-1_label-L_desc-T1lesion_mask.nii.gz
BraTS-GLI-00001-000-seg.nii.gz BraTS20_Training_001_seg.nii W39_1998.09.19_Segm.nii segmentation-0.nii label0001.nii.gz
aparc+aseg.mgz aparc.DKTatlas+aseg.mgz lh.ribbon.mgz wm.seg.mgz patient001_frame01_gt.nii.gz GT.nii.gz MASK.nii.gz
ct_train_1001_label.nii.gz crossmoda_1_Label.nii.gz sub-verse004_seg-vert_msk.nii.gz T1_brain_mask.nii.gz
T1wMask.nii.gz labelstr/x.nii.gz LiverSeg.nii.gz Case00_segmentation.mhd liver-seg001.mhd training01_01_mask1.nii
ground_truth/a.nii.gz wmh.nii.gz x_groundTruth.nii.gz x_ground_truth.nii.gz masks/case1.nii
annotations/a.nii.gz a_lesion.nii.gz roi_3.nii.gz
labels/1.nii
"""
IMAGES = """
imagesTr/case_003_0000.nii.gz volume-0.nii imaging.nii.gz ct.nii.gz maskedT1.nii.gz T1_masked.nii.gz T1_brain.nii.gz
x_skullstripped.nii.gz unlabelled/a.nii.gz unlabeled_001.nii.gz segundo_01.nii.gz Segundo/x.nii.gz brainmask.mgz
images_and_labels/img1.nii.gz MSLesSeg_P1_T1.nii.gz iSeg-2019_subject-1-T1.img TotalSegmentator_s1.nii.gz norm.mgz
lesion-042_T1w.nii.gz no_mask/a.nii.gz a_without_mask.nii.gz sub-mask01_ses-1_T1w.nii.gz Maskarinec_T1.nii masked/a.nii
phantom_0000-t1n.nii.gz x/preprocessed.nii.gz ADNI_002_S_0295_MR_MPR__GradWarp_Br_S13408_I118671.nii gtx_1.nii.gz
MSLesSeg_Dataset/P1/P1_T1.nii.gz COVID-19-CT-Seg_20cases/coronacases_001.nii.gz img_with_labels.nii.gz
"""


@pytest.mark.parametrize("name", LABELS.split())
def test_label_maps_by_name(name: str) -> None:
    assert by_name(Path("/data", name), Path("/data")) == BY_NAME


@pytest.mark.parametrize("name", IMAGES.split())
def test_images_whose_names_come_near(name: str) -> None:
    assert by_name(Path("/labels/mask/seg", name), Path("/labels/mask/seg")) == ""


def patches(values: int) -> np.ndarray:
    """Cubes of 4³ voxels, each of one whole number."""
    cubes = np.random.default_rng(values).integers(0, values, (6, 6, 6)).astype(np.float32)
    return cubes.repeat(4, 0).repeat(4, 1).repeat(4, 2)


def test_label_maps_by_content() -> None:
    assert "two values" in by_content((phantom(0, 24).array > 300).astype(np.float32))
    assert "two values" in by_content((np.random.default_rng(0).random((9, 9, 9)) > 0.5) * np.float32(255))
    for scale in (0.5, 1 / 255):  # masks that were scaled
        assert "two values" in by_content((phantom(0, 24).array > 300) * np.float32(scale))
    for values in (5, 40, 117):
        assert "in patches" in by_content(patches(values)), values
    for values in (3, 4):  # classes that were scaled
        assert f"{values} values only" in by_content(patches(values) * np.float32(0.999))
    scattered = np.random.default_rng(0).random((9, 9, 9))
    for classes in (3, 4):  # tissue classes, however thin
        assert f"{classes} values only" in by_content((scattered * classes).astype(np.uint8).astype(np.float32))


def test_images_by_content() -> None:
    head = phantom(1, 48).array
    noise = np.random.default_rng(0).normal(0, 30, head.shape).astype(np.float32)
    byte = np.rint(np.clip(head + noise, 0, 1020) / 4).astype(np.float32)
    for name, array in {
        "whole numbers without noise": head,
        "8 bits": byte,
        "4 bits": np.rint(byte / 16),
        "doubled voxels": byte[::2, ::2, ::2].repeat(2, 0).repeat(2, 1).repeat(2, 2),
        "slices of 3": byte.repeat(3, 2),
        "clipped CT": np.rint(np.clip(head - 1000 + noise, -1000, -200)),
        "[0, 1]": byte / 255,
        "huge numbers": head * 1e6,
    }.items():
        assert by_content(np.asarray(array, np.float32)) == "", name


def mixed(folder: Path) -> Path:
    """Two images, a label map by name and one under a name that says nothing."""
    for seed, name in enumerate(("a", "b")):
        write_nifti(folder / f"{name}.nii.gz", phantom(seed, 24).array, np.eye(4))
    write_nifti(folder / "a_label.nii.gz", patches(4), np.eye(4))
    write_nifti(folder / "atlas.nii.gz", patches(9), np.eye(4))
    return folder


def test_commands_leave_label_maps_or_take_them(tmp_path: Path) -> None:
    folder = mixed(tmp_path / "d")
    found = wdm("verify", folder, "--preset", "tiny", "--workers", "1")
    assert found.code == 4
    assert "2\t24×24×24" in found.out
    assert "atlas.nii.gz\tholds 9 whole numbers in patches" in found.out
    assert "--set data.label_maps=take" in found.out
    assert f"1\t{BY_NAME}\t{folder / 'a_label.nii.gz'}" in found.out
    taken = wdm("verify", folder, "--preset", "tiny", "--workers", "1", "--set", "data.label_maps=take")
    assert taken.code == 0
    assert "4\t24×24×24" in taken.out


def test_preprocess_leaves_label_maps_or_takes_them(tmp_path: Path) -> None:
    folder = mixed(tmp_path / "d")
    mr = Target(modality="mr", size=None, spacing=None)
    left = {entry.case: entry for entry in run(plan_nifti(folder, mr), tmp_path / "left")}
    assert left["atlas"].verdict == "skipped"
    assert "--label-maps take" in left["atlas"].reasons[0]
    assert left[""].reasons == (BY_NAME,)
    taken = list(run(plan_nifti(folder, mr, "take"), tmp_path / "taken"))
    assert [entry.verdict for entry in taken] == ["accepted"] * 4
    write_nifti(folder / "C1-seg.nii.gz", patches(3), np.eye(4))
    write_nifti(folder / "C1-t1n.nii.gz", phantom(3, 24).array, np.eye(4))
    assert [job.case for job in plan_brats(folder, mr).jobs] == ["C1-t1n"]


def test_a_folder_of_nothing_but_label_maps_says_so(tmp_path: Path) -> None:
    for number in range(3):
        write_nifti(tmp_path / "d" / "labelsTr" / f"c_{number}.nii.gz", patches(4 + number), np.eye(4))
    with pytest.raises(DataError, match=f"3 {BY_NAME}") as caught:
        Nifti().find(tmp_path / "d")
    assert "data.label_maps=take" in caught.value.hint
    with pytest.raises(DataError, match=f"3 {BY_NAME}") as caught:
        plan_nifti(tmp_path / "d", Target(modality="mr", size=None, spacing=None))
    assert caught.value.hint.startswith("--label-maps take")
    inside = Nifti(label_maps="take", image_size=16)  # the user's own folder is not judged by its name
    cases = inside.find(tmp_path / "d" / "labelsTr").cases
    assert [case.name for case in cases] == ["c_0", "c_1", "c_2"]
    assert inside.load(cases[0].path).shape == (16, 16, 16)
    with pytest.raises(DataError, match="as a label map does"):
        Nifti(image_size=16).load(cases[0].path)


def test_taken_label_maps_do_not_wait_in_the_cache_of_others() -> None:
    assert Brats(label_maps="take").voxel_settings() != Brats().voxel_settings()
    assert "label_maps" not in Brats().voxel_settings()


def test_masks_in_scaled_storage_are_masks(tmp_path: Path) -> None:
    """Scaled storage (slope 0.5) of two whole numbers is a mask still."""
    image = nib.Nifti1Image(np.asarray(patches(2), np.int16) * 2, np.eye(4))
    image.header.set_slope_inter(0.5, 0)
    nib.save(image, tmp_path / "x.nii.gz")
    with pytest.raises(DataError, match="two values"):
        Nifti(image_size=16).load(tmp_path / "x.nii.gz")
