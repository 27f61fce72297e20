"""What lies in a folder: links, files that are not there, company, other formats, the layout that fits."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from command import wdm
from dicom_factory import write_series

from wdm_cli.engine.data import Adni, Brats, Lidc, MrNet, Nifti, guess_kind
from wdm_cli.engine.data.formats import format_of, is_company
from wdm_cli.engine.data.inventory import require_whole, walk
from wdm_cli.engine.data.labelmaps import PHASE
from wdm_cli.engine.data.phantom import phantom
from wdm_cli.engine.data.presence import why_absent
from wdm_cli.engine.data.volume import write_nifti
from wdm_cli.engine.errors import DataError
from wdm_cli.engine.preprocess import Target, plan_brats, plan_nifti, run, tally

MR = Target(modality="mr", size=None, spacing=None)
HEAD = phantom(0, 16).array


def heads(root: Path, *names: str) -> Path:
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_nifti(root / name, phantom(seed, 16).array, np.diag([2.0, 2, 2, 1]))
    return root


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x" * 9)
    return root


def verify(*arguments: object) -> tuple[int, str]:
    result = wdm("verify", *arguments, "--preset", "tiny", "--workers", "1")
    return result.code, result.out + result.err


def train(folder: Path, out: Path) -> tuple[int, str]:
    options = ("--device", "cpu", "--workers", "1", "--set", "data.image_size=16", "--dry-run")
    result = wdm("train", "--preset", "tiny", "--data-dir", folder, "--out", out, *options)
    return result.code, result.out + result.err


def test_links_are_followed_once_and_in_a_fixed_order(tmp_path: Path) -> None:
    root = touch(tmp_path / "root", "a/one.nii.gz", "a/deep/two.nii.gz")
    touch(tmp_path / "store", "sub-1/T1w.nii.gz", "sub-2/T1w.nii.gz", "inner/x.nii.gz")
    (root / "sub-1").symlink_to("../store/sub-1")
    (root / "sub-2").symlink_to(tmp_path / "store" / "sub-2")
    (root / "zz").symlink_to(tmp_path / "store")  # holds both, and x
    (root / "a" / "loop").symlink_to(root)
    (root / "a" / "up").symlink_to(tmp_path)
    (root / "again").symlink_to("a/deep")
    (root / "file.nii.gz").symlink_to("a/one.nii.gz")
    os.link(root / "a" / "one.nii.gz", root / "hard.nii.gz")
    found = [path.relative_to(root).as_posix() for path in walk(root).files]
    assert found == ["a/deep/two.nii.gz", "a/one.nii.gz", "sub-1/T1w.nii.gz", "sub-2/T1w.nii.gz", "zz/inner/x.nii.gz"]
    assert {path.relative_to(root).as_posix(): reason for path, reason in walk(root).ignored} == {
        "a/loop": "link to a folder that is read already",
        "a/up": "link to a folder above this one",
        "again": "link to a folder that is read already",
        "file.nii.gz": "another name of a file that is read already",
        "hard.nii.gz": "another name of a file that is read already",
    }
    names = [case.name for case in Nifti().find(root).cases]
    assert len(set(names)) == 5
    assert names == [case.name for case in Nifti().find(root).cases]


def test_cases_of_lidc_behind_links_are_named_by_their_folders(tmp_path: Path) -> None:
    touch(tmp_path / "store", "LIDC-IDRI-0001/preprocessed.nii.gz", "b/LIDC-IDRI-0002/preprocessed.nii.gz")
    root = touch(tmp_path / "root", "LIDC-IDRI-0003/preprocessed.nii.gz")
    (root / "LIDC-IDRI-0001").symlink_to(tmp_path / "store" / "LIDC-IDRI-0001")
    (root / "more").symlink_to(tmp_path / "store" / "b")
    (root / "twice").symlink_to(tmp_path / "store" / "b" / "LIDC-IDRI-0002")
    assert [case.name for case in Lidc().find(root).cases] == [f"LIDC-IDRI-000{n}" for n in (1, 2, 3)]


POINTERS = {
    "annexed link": "`datalad get FILE` or `git annex get FILE`",
    "annex pointer": "`git annex get FILE`",
    "lfs pointer": "`git lfs pull`",
    "link to nowhere": "is a link to ../gone.nii.gz, which is not there",
    "link to itself": "which leads nowhere",
    "in iCloud": "still in iCloud",
    "empty": "is empty (0 bytes)",
}


def put_aside(path: Path, kind: str) -> None:
    """Make a volume one whose content is not on this machine."""
    path.unlink()
    if kind == "annexed link":
        path.symlink_to("../.git/annex/objects/ab/cd/SHA256E-s9--ef.nii.gz/SHA256E-s9--ef.nii.gz")
    elif kind == "link to nowhere":
        path.symlink_to("../gone.nii.gz")
    elif kind == "link to itself":
        path.symlink_to(path.name)
    elif kind == "in iCloud":
        (path.parent / f".{path.name}.icloud").write_bytes(b"bplist00")
    else:
        pointer = {
            "annex pointer": "/annex/objects/SHA256E-s9--ef\n",
            "lfs pointer": "version https://git-lfs.github.com/",
        }
        path.write_text(pointer.get(kind, ""))


@pytest.mark.parametrize("kind", POINTERS)
def test_files_whose_content_is_not_here_are_unusable_and_say_what_fetches_them(tmp_path: Path, kind: str) -> None:
    root = heads(tmp_path / "d", "a.nii.gz", "b.nii.gz", "c.nii.gz")
    put_aside(root / "b.nii.gz", kind)
    assert POINTERS[kind] in why_absent(root / "b.nii.gz")
    code, text = verify(root)
    assert code == 4
    assert POINTERS[kind] in text
    with pytest.raises(DataError, match=r"1 files or folders cannot be read") as caught:
        require_whole(Nifti().find(root))
    assert POINTERS[kind] in caught.value.what
    entries = list(run(plan_nifti(root, MR), tmp_path / "out"))
    assert tally(entries)["skipped"] == (1, 1)
    said = POINTERS[kind].replace("../gone.nii.gz", "another file")  # a manifest names no places
    assert said in next(entry for entry in entries if entry.verdict == "skipped").reasons[0]
    assert why_absent(root / "a.nii.gz") == ""


def test_training_refuses_what_is_not_here_and_linked_patients_that_are_gone(tmp_path: Path) -> None:
    root = heads(tmp_path / "d", "sub-1/T1w.nii.gz", "sub-2/T1w.nii.gz")
    (root / "sub-3").symlink_to("../store/sub-3")
    code, text = train(root, tmp_path / "run")
    assert code == 3
    assert "sub-3: link to ../store/sub-3, which is not there" in text
    assert verify(root)[0] == 4
    (root / "sub-3").unlink()
    assert train(root, tmp_path / "run")[0] == 0
    put_aside(root / "sub-2" / "T1w.nii.gz", "annexed link")
    code, text = train(root, tmp_path / "run")
    assert code == 3
    assert "datalad get" in text


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open every folder")
def test_a_folder_that_cannot_be_opened_is_no_whole_folder(tmp_path: Path) -> None:
    heads(tmp_path, "a.nii.gz", "locked/b.nii.gz")
    (tmp_path / "locked").chmod(0)
    try:
        assert "cannot be opened" in Nifti().find(tmp_path).closed[0][1]
        assert verify(tmp_path)[0] == 4
    finally:
        (tmp_path / "locked").chmod(0o755)


def test_own_files_are_not_counted_and_company_is_one_group(tmp_path: Path) -> None:
    own = (
        "manifest.jsonl",
        "run.json",
        "split.json",
        "contact_sheet.png",
        "previews/a.png",
        "samples.csv",
        "preview.png",
    )
    more = ("report.html", "eval.json", "fingerprint.json", "progress.png", "MODEL_CARD.md", "metrics.csv")
    company = (
        "README",
        "LICENSE",
        "participants.tsv",
        "dataset_description.json",
        "a.json",
        "CHANGES",
        "x.bval",
        "notes.md",
    )
    touch(tmp_path, "a.nii.gz", *own, *more, *company, "odd.xyz")
    assert Nifti().find(tmp_path).reasons() == {"text, tables, pictures": len(company), "not NIfTI (.xyz)": 1}
    assert not is_company("a.nii.gz")
    assert not is_company("readme_scan.mgz")
    assert format_of("a.nii.gz") is not None


@pytest.mark.parametrize(
    ("dataset", "files", "said"),
    [
        (Brats(), ("C1/C1-t1n", "C1/C1-t2w", "C2/C2-t2w", "C2/C2-seg"), "1 case has other contrasts but no t1n: C2"),
        (
            Brats(contrast="t2f"),
            ("C1_t1", "C1_flair", "C2_t1", "C3_t1"),
            "2 cases have other contrasts but no t2f: C2, C3",
        ),
        (
            Adni(),
            ("sub-ADNI002S0001_ses-M00_T1w", "sub-ADNI002S0001_ses-M12_FLAIR"),
            "1 case has other images but no T1w: sub-ADNI002S0001_ses-M12",
        ),
        (
            Lidc(),
            ("A/preprocessed", "B/ct"),
            "1 case has other files but no preprocessed.nii.gz or processed.nii.gz: B",
        ),
        (Nifti(), ("c1_0000", "c1_0001", "c2_0001"), "1 case lacks a channel that others have: c2 (no 0000)"),
        (Nifti(), ("s_0000", "s_0001", "s_0002"), ""),
        (Nifti(), ("s_0007", "t_0019", "t_0020"), ""),
        (Nifti(), ("c1_0000", "c1_0001"), ""),
    ],
)
def test_cases_that_lack_what_is_wanted_are_named(
    tmp_path: Path, dataset: Nifti, files: tuple[str, ...], said: str
) -> None:
    touch(tmp_path, *(f"{name}.nii.gz" for name in files))
    assert dataset.find(tmp_path).notes == ((said,) if said else ())


def test_planes_that_are_missing_are_named_and_proposed(tmp_path: Path) -> None:
    touch(tmp_path, "train/sagittal/0000.npy", "train/axial/0000.npy", "train/axial/0001.npy")
    assert MrNet().find(tmp_path).notes == ("1 case has other planes but no sagittal one: 0001",)
    with pytest.raises(DataError, match="no volume found") as caught:
        MrNet(plane="coronal").find(tmp_path)
    assert "data.plane=" in caught.value.hint


@pytest.mark.slow
def test_commands_name_cases_that_lack_the_contrast(tmp_path: Path) -> None:
    names = [f"C{n}/C{n}-{kind}.nii.gz" for n in range(4) for kind in ("t1n", "t2w") if (n, kind) != (2, "t1n")]
    root = heads(tmp_path / "d", *names)
    said = "1 case has other contrasts but no t1n: C2"
    assert said in verify(root)[1]
    assert said in train(root, tmp_path / "run")[1]
    assert plan_brats(root, MR).notes == ("1 of 4 cases has no t1n: C2",)
    assert (
        "warning: 1 of 4 cases has no t1n: C2"
        in wdm("preprocess", "brats", "--data-dir", root, "--out", tmp_path / "o").err
    )


@pytest.mark.parametrize(
    ("kind", "files"),
    [
        ("nifti", [*(f"s{n}.nii.gz" for n in range(7)), "s7_t1.nii.gz"]),
        ("brats", ["C1-t1n.nii.gz", "C1-t2w.nii.gz", "C1-seg.nii.gz", "atlas.nii.gz"]),
        ("brats", ["C1_t1.nii.gz", "x.nii.gz"]),
        ("nifti", ["preprocessed.nii.gz", *(f"other/s{n}.nii.gz" for n in range(3))]),
        ("lidc-idri", ["A/preprocessed.nii.gz", "A/raw.nii.gz", "A/lung.nii.gz", "B/processed.nii.gz"]),
        ("adni", ["sub-ADNI002S0001_ses-M00_T1w.nii.gz", "sub-ADNI002S0001_ses-M00_FLAIR.nii.gz"]),
        ("mrnet", ["train/axial/0000.npy", "train/axial/0001.npy", "x.nii.gz"]),
        ("nifti", ["train/axial/0000.npy", "x.nii.gz", "y.nii.gz"]),
        ("fastmri", ["file1000001.h5"]),
        ("nifti", ["a.nii.gz", "notes.txt"]),
        ("nifti", ["A/preprocessed_seg.nii.gz", "a.nii.gz"]),
    ],
)
def test_the_layout_that_most_files_follow(tmp_path: Path, kind: str, files: list[str]) -> None:
    assert guess_kind(touch(tmp_path, *files)) == kind


def test_commands_take_a_folder_for_the_same(tmp_path: Path) -> None:
    root = heads(tmp_path / "d", *(f"s{n}.nii.gz" for n in range(4)), "s4_t1.nii.gz")
    code, text = train(root, tmp_path / "run")
    assert code == 0
    assert "taken as nifti" in text
    assert "5 cases in" in text
    code, text = verify(root)
    assert code == 0
    assert "taken as nifti" in text
    assert wdm("split", root, "--val", "0.3").code == 0
    code, text = verify(root, "--dataset", "brats")
    assert "taken as brats: 1 of 5 volumes are cases, the others not named as in BraTS" in text
    chosen = wdm("train", "--preset", "tiny", "--data-dir", root, "--dataset", "brats", "--dry-run", "--device", "cpu")
    assert "1 of 5 volumes are cases" in chosen.err
    set_kind = wdm(
        "train", "--preset", "tiny", "--data-dir", root, "--set", "data.kind=brats", "--dry-run", "--device", "cpu"
    )
    assert "1 of 5 volumes are cases" in set_kind.err


def test_volumes_of_other_formats_are_not_ignored(tmp_path: Path) -> None:
    root = heads(tmp_path / "d", "a.nii.gz", "b.nii.gz")
    nib.save(nib.MGHImage(HEAD, np.eye(4)), root / "c.mgz")
    touch(root, "d.mnc", "features.npy")
    code, text = verify(root)
    assert code == 4
    assert f"1 files\tFreeSurfer volumes (e.g. c.mgz): `wdm preprocess nifti --data-dir {root}` converts them" in text
    assert "mnc2nii" in text
    assert "arrays (.npy)" in text
    code, text = train(root, tmp_path / "run")
    assert code == 0
    assert "warning: 1 files are left out, FreeSurfer volumes (e.g. c.mgz)" in text
    plan = plan_nifti(root, MR)
    assert plan.notes == (
        "several formats are read (2 NIfTI volumes; 1 FreeSurfer volumes): the same scan may be here twice",
    )
    entries = list(run(plan, tmp_path / "out"))
    assert tally(entries) == {"accepted": (3, 3), "repaired": (0, 0), "skipped": (1, 1), "ignored": (1, 1)}


def test_what_preprocess_writes_names_no_place_and_is_not_read_again(tmp_path: Path) -> None:
    root, out = heads(tmp_path / "Smith_John", "a.nii.gz", "b.nii.gz"), tmp_path / "out"
    (root / "b.nii.gz").unlink()
    (root / "b.nii.gz").symlink_to("/store/Smith_John/b.nii.gz")
    (root / "patient").symlink_to("/store/Smith_John")
    touch(root, "Smith_John/c.mnc", "Smith_John/d.mgz", "Smith_John/e.hdr")
    assert wdm("preprocess", "nifti", "--data-dir", root, "--out", out, "--workers", "1").code == 4
    assert "Smith" not in (out / "manifest.jsonl").read_text()
    shutil.rmtree(root / "Smith_John")
    (root / "made").symlink_to(out)
    again = wdm("preprocess", "nifti", "--data-dir", root, "--out", out, "--workers", "1")
    assert again.code == 2
    assert "leads into it" in again.err


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_a_folder_of_dicom_gets_the_command_for_its_modality(tmp_path: Path, modality: str) -> None:
    write_series(tmp_path / "d", slices=3, Modality=modality)
    for path in (tmp_path / "d").rglob("*.dcm"):
        path.rename(path.with_suffix(""))  # as archives name them
    command = f"`wdm preprocess {'lidc' if modality == 'CT' else 'mr'} --dicom-dir {tmp_path / 'd'}`"
    for arguments in (
        ("verify", tmp_path / "d"),
        ("preprocess", "nifti", "--data-dir", tmp_path / "d", "--out", tmp_path / "o"),
    ):
        found = wdm(*arguments)
        assert found.code == 3
        assert command in found.err
        assert "3 DICOM files" in found.err


def test_verify_takes_files(tmp_path: Path) -> None:
    root = heads(tmp_path / "d", "a.nii.gz", "C1-t2w.nii.gz", "b_mask.nii.gz", "A/preprocessed.nii.gz")
    code, text = verify(root / "a.nii.gz")
    assert code == 0
    assert "1\t16×16×16\t2×2×2 mm\tRAS" in text
    assert verify(root / "a.nii.gz", root / "C1-t2w.nii.gz")[0] == 0
    assert verify(root / "C1-t2w.nii.gz")[0] == 0  # whatever the contrast of the preset
    code, text = verify(root / "b_mask.nii.gz")
    assert code == 3
    assert "label map or mask by its name" in text
    (root / "cut.nii.gz").write_bytes((root / "a.nii.gz").read_bytes()[:-9])
    touch(root, "notes.txt", "x.mgz")
    code, text = verify(root / "a.nii.gz", root / "cut.nii.gz", root / "notes.txt", root / "x.mgz")
    assert code == 4
    for words in ("the gzip data are truncated", "text, tables, pictures", "FreeSurfer volumes"):
        assert words in text
    assert verify(root / "none.nii.gz")[0] == 3
    assert verify(root / "a.nii.gz", root)[0] == 2
    shutil.rmtree(root / "A")
    code, text = verify(root / "a.nii.gz", "--json")
    assert '"usable": 1' in text


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            ["BRAIN_000_0000", "BRAIN_000_0001", "BRAIN_001_0000", "BRAIN_001_0001"],
            "2 cases have several volumes (0000, 0001;",
        ),
        (
            ["sub-0/anat/sub-0_T1w", "sub-0/anat/sub-0_T2w", "sub-1/anat/sub-1_T1w", "sub-1/anat/sub-1_T2w"],
            "(T1w, T2w;",
        ),
        (["p0/dwi", "p0/adc", "p1/dwi", "p1/adc"], "(adc, dwi; e.g. p0)"),
        (["scan_0001", "scan_0002", "scan_0003"], ""),  # cases by number
        (["p0_T1w", "p1_T1w", "p2_T1w"], ""),
        (["p0/a", "p0/b"], ""),
    ],
)
def test_contrasts_side_by_side_are_said_where_every_file_is_a_case(
    tmp_path: Path, names: list[str], said: str
) -> None:
    touch(tmp_path, *(f"{name}.nii.gz" for name in names))
    notes = " ".join(Nifti().find(tmp_path).notes)
    assert said in notes if said else not notes


@pytest.mark.parametrize(
    "name", ["sub-0_part-phase_T2starw", "sub-0_phasediff", "sub-0_part-imag_bold", "sub-0_fieldmap"]
)
def test_phase_and_field_maps_of_bids_are_no_volumes(tmp_path: Path, name: str) -> None:
    touch(tmp_path, f"{name}.nii.gz", "sub-0_part-mag_T2starw.nii.gz", "phase2trial_T1w.nii.gz")
    found = Nifti().find(tmp_path)
    assert [case.name for case in found.cases] == ["phase2trial_T1w", "sub-0_part-mag_T2starw"]
    assert found.reasons() == {PHASE: 1}


def test_tissue_maps_of_spm_are_told_by_the_scan_beside_them(tmp_path: Path) -> None:
    touch(tmp_path, "p0.nii", "c1p0.nii", "mwc2p0.nii", "c1.nii", "p1.nii.gz", "c2_scan.nii.gz")
    assert [case.name for case in Nifti().find(tmp_path).cases] == ["c1", "c2_scan", "p0", "p1"]
