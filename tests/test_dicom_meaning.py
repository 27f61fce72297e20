"""What the numbers measure, whose the images are, and what the series is called: read off headers, right or refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import wdm
from dicom_factory import SLICES, mr_slice, only, phantom, write_series
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID

from wdm_cli.engine.data import Lidc
from wdm_cli.engine.data.patients import by_manifest
from wdm_cli.engine.dicom import Policy, scan
from wdm_cli.engine.dicom.meaning import called_scout, description
from wdm_cli.engine.preprocess import Plan, Target, plan_lidc, plan_mr, run

CT = Target(size=16, spacing=8.0)
MR = Target(modality="mr", size=None, spacing=None)
FEW = 12  # slices, enough for MR
Change = Callable[[int, Any], Any]


def ct_plan(folder: Path, policy: Policy | None = None, target: Target = CT) -> Plan:
    return plan_lidc(scan(folder), folder, policy or Policy(), target)


def mr_plan(folder: Path) -> Plan:
    return plan_mr(scan(folder), folder, Policy(), MR)


def every(**tags: Any) -> Change:
    return only(*range(SLICES), **tags)


def real_world(unit: str) -> Change:
    def change(number: int, ds: Any) -> Any:
        code, mapping = Dataset(), Dataset()
        code.CodeValue, mapping.RealWorldValueSlope = unit, 1.0
        mapping.MeasurementUnitsCodeSequence = Sequence([code])
        ds.RealWorldValueMappingSequence = Sequence([mapping])
        return ds

    return change


def lookup(number: int, ds: Any) -> Any:
    ds.ModalityLUTSequence = Sequence([Dataset()])
    del ds.RescaleSlope, ds.RescaleIntercept
    return ds


def image_type(*parts: str) -> Change:
    return every(ImageType=["DERIVED", "PRIMARY", *parts])


NO_HU: dict[str, Change] = {
    **{f"RescaleType is {kind}": every(RescaleType=kind) for kind in ("MGML", "Z_EFF", "ED", "HU_MOD", "PCT")},
    "ImageType says IODINE": image_type("AXIAL", "IODINE"),
    "ImageType says ELECTRON_DENSITY": image_type("AXIAL", "ELECTRON_DENSITY"),
    "ImageType says EFF_ATOMIC_NUM": image_type("AXIAL", "EFF_ATOMIC_NUM"),
    "ImageType says PERFUSION_CBF": image_type("AXIAL", "PERFUSION_CBF"),
    "ImageType says SUBTRACTION": image_type("SUBTRACTION"),
    "RealWorldValueMapping is in MG/ML": real_world("mg/ml"),
    "Units is BQML": every(Units="BQML"),
    "ModalityLUTSequence": lookup,
    "not of the class CT": every(SOPClassUID="1.2.840.10008.5.1.4.1.1.128"),
}


@pytest.mark.parametrize("words", NO_HU)
def test_ct_that_is_not_in_hu_is_skipped_by_name(tmp_path: Path, words: str) -> None:
    write_series(tmp_path, NO_HU[words])
    plan = ct_plan(tmp_path)
    assert not plan.jobs
    assert [entry.verdict for entry in plan.settled] == ["skipped"]
    assert re.search(rf"1-001.dcm: .*{re.escape(words)}", plan.settled[0].reasons[0])


IN_HU: dict[str, Change] = {
    "HU": every(RescaleType="HU"),
    "US": every(RescaleType="US"),
    "in words": every(RescaleType="Hounsfield Units"),
    "absent in some": only(3, 4, RescaleType="HU"),
    "monoenergetic": image_type("AXIAL", "VMI", "MONO_E_70"),
    "without iodine": image_type("AXIAL", "IODINE_REMOVED"),
    "iterative": image_type("AXIAL", "ADMIRE"),
    "mapped": real_world("[hnsf'U]"),
}


@pytest.mark.parametrize("name", IN_HU)
def test_ct_in_hu_is_taken(tmp_path: Path, name: str) -> None:
    write_series(tmp_path, IN_HU[name])
    (job,) = ct_plan(tmp_path).jobs
    assert job.repairs == ()


def test_a_map_beside_its_scan_is_no_part_of_it(tmp_path: Path) -> None:
    """Under one UID: at the same places the scan is used, the map skipped; in turn with it nothing is."""
    write_series(tmp_path / "a" / "scan")
    write_series(tmp_path / "a" / "map", every(RescaleType="MGML"))
    plan = ct_plan(tmp_path / "a")
    assert [job.files[0].parent.name for job in plan.jobs] == ["scan"]
    assert [entry.verdict for entry in plan.settled] == ["skipped"]
    write_series(tmp_path / "b", only(*range(0, SLICES, 2), RescaleType="MGML"))
    plan = ct_plan(tmp_path / "b", Policy(max_gap=3, on_irregular="resample"))
    assert not plan.jobs
    assert "RescaleType is MGML" in plan.settled[0].reasons[0]


def private(group: int, creator: str, element: int, kind: str, value: Any, block: int = 0x10) -> Change:
    def change(number: int, ds: Any) -> Any:
        ds.add_new((group, block), "LO", creator)
        ds.add_new((group, (block << 8) + element), kind, value)
        return ds

    return change


NO_ANATOMY: dict[str, Change] = {
    "GE phase": private(0x43, "GEMS_PARM_01", 0x2F, "SS", 1),
    "GE imaginary, another block": private(0x43, "GEMS_PARM_01", 0x2F, "SS", 3, 0x11),
    "GE, value representation lost": private(0x43, "GEMS_PARM_01", 0x2F, "UN", b"\x02\x00"),
    "component": every(ComplexImageComponent="PHASE"),
    "Philips": private(0x2005, "Philips MR Imaging DD 001", 0x11, "CS", "P"),
    "Siemens": private(0x51, "SIEMENS MR HEADER", 0x16, "LO", "P/ND"),
    "Philips image type": every(ImageType=["ORIGINAL", "PRIMARY", "B0 MAP", "B0", "UNSPECIFIED"]),
    "Philips inversion recovery": every(ImageType=["ORIGINAL", "PRIMARY", "R_IR", "R", "IR"]),
    "field map": every(ImageType=["DERIVED", "PRIMARY", "FIELD_MAP"]),
    "real world": real_world("Hz"),
}
ANATOMY: dict[str, Change] = {
    "GE": private(0x43, "GEMS_PARM_01", 0x2F, "SS", 0),
    "another creator": private(0x43, "SOMEBODY ELSE", 0x2F, "SS", 1),
    "component": every(ComplexImageComponent="MAGNITUDE"),
    "Philips": private(0x2005, "Philips MR Imaging DD 001", 0x11, "CS", "M"),
    "Siemens": private(0x51, "SIEMENS MR HEADER", 0x16, "LO", "M/ND/NORM"),
    "Philips image type": every(ImageType=["ORIGINAL", "PRIMARY", "M_FFE", "M", "FFE"]),
}


def mr_series(folder: Path, change: Change | None = None, **options: Any) -> list[Path]:
    options = {"slices": FEW, **options}
    return write_series(folder, lambda n, ds: change(n, mr_slice(n, ds)) if change else mr_slice(n, ds), **options)


@pytest.mark.parametrize("name", NO_ANATOMY)
def test_what_vendors_call_no_magnitude_is_ignored(tmp_path: Path, name: str) -> None:
    mr_series(tmp_path / "phase", NO_ANATOMY[name], name="phase")
    mr_series(tmp_path / "good", name="good")
    plan = mr_plan(tmp_path)
    assert [job.files[0].parent.name for job in plan.jobs] == ["good"]
    assert [(entry.verdict, entry.files) for entry in plan.settled] == [("ignored", FEW)]


@pytest.mark.parametrize("name", ANATOMY)
def test_magnitude_is_taken(tmp_path: Path, name: str) -> None:
    mr_series(tmp_path, ANATOMY[name])
    assert len(mr_plan(tmp_path).jobs) == 1


def test_phase_under_the_uid_of_its_magnitude(tmp_path: Path) -> None:
    mr_series(tmp_path / "m", ANATOMY["GE"])
    mr_series(tmp_path / "p", NO_ANATOMY["GE phase"])
    (job,) = mr_plan(tmp_path).jobs
    assert {path.parent.name for path in job.files} == {"m"}
    shutil.rmtree(tmp_path)
    mr_series(tmp_path, lambda n, ds: NO_ANATOMY["GE phase"](n, ds) if n % 2 else ds)
    plan = mr_plan(tmp_path)
    assert not plan.jobs
    assert "a phase, real, imaginary or field map ((0043,xx2f))" in plan.settled[0].reasons[0]


def archive(folder: Path, *patients: dict[str, Any]) -> None:
    """One series and study of each."""
    for number, tags in enumerate(patients):
        study = {"StudyInstanceUID": f"1.2.9.{number}", "patient": tags.pop("PatientID"), **tags}
        write_series(folder / str(number), name=f"series {number}", **study)


REMOVED = {"PatientIdentityRemoved": "YES"}
SHARED: dict[str, tuple[list[dict[str, Any]], int, str]] = {
    "a word": ([{"PatientID": "Anonymous"}] * 3, 3, "is a placeholder"),
    "zeros": ([{"PatientID": "0000"}, {"PatientID": "0000"}, {"PatientID": "P7"}], 3, "is a placeholder"),
    "removed": ([{"PatientID": "K-12", **REMOVED}] * 3, 3, "PatientIdentityRemoved is YES"),
    "sexes": (
        [{"PatientID": "K1", "PatientSex": "F"}, {"PatientID": "K1", "PatientSex": "M"}],
        2,
        "PatientSex differs",
    ),
    "births": (
        [{"PatientID": "K1", "PatientBirthDate": "19470101"}, {"PatientID": "K1", "PatientBirthDate": "19600101"}],
        2,
        "PatientBirthDate differs",
    ),
    "spellings of a word": ([{"PatientID": "ANON"}, {"PatientID": "anon"}], 2, "is a placeholder"),
    "spellings": ([{"PatientID": "ab 12"}, {"PatientID": "AB12"}, {"PatientID": "cd"}], 2, "spelled in several ways"),
    "follow-ups": ([{"PatientID": "K1"}, {"PatientID": "K1"}, {"PatientID": "K2"}], 2, ""),
    "a public collection": ([{"PatientID": "LIDC-IDRI-0001", **REMOVED}] * 3, 1, "all 3 studies carry one PatientID"),
    "nothing": ([{"PatientID": ""}] * 2, 2, ""),
}


@pytest.mark.parametrize("name", SHARED)
def test_who_is_a_patient(tmp_path: Path, name: str) -> None:
    patients, people, words = SHARED[name]
    archive(tmp_path, *(dict(tags) for tags in patients))
    plan = ct_plan(tmp_path, Policy(series="thinnest"))
    assert len(plan.jobs) == len({job.patient for job in plan.jobs}) == people
    assert any(words in text for text in plan.notes) if words else plan.notes == ()
    said = f"{plan.notes} {[job.case for job in plan.jobs]}"
    assert not any(secret in said for secret in ("K-12", "K1", "1947", "1960", "AB12"))


def test_a_placeholder_is_told_and_an_earlier_folder_goes_on(tmp_path: Path) -> None:
    """No case is made twice; the manifest learns who is who."""
    archive(tmp_path / "in", *({"PatientID": "ANON", **REMOVED} for _ in range(2)))
    plan, out = ct_plan(tmp_path / "in"), tmp_path / "out"
    list(run(plan, out))
    manifest = out / "manifest.jsonl"
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    assert all("PatientID" in line["patient_is"] for line in lines)
    old = [{**line, "patient": "sub-0000"} for line in lines]  # as a version wrote it that believed the PatientID
    manifest.write_text("".join(f"{json.dumps(line)}\n" for line in old))
    made = wdm("preprocess", "lidc", "--dicom-dir", tmp_path / "in", "--out", out, "--size", 16, "--spacing", 8)
    assert made.code == 0
    assert "warning: a PatientID is a placeholder" in made.err
    assert len(list(out.rglob("*.nii.gz"))) == 2
    assert len(set(by_manifest(Lidc().find(out)).values())) == 2


WORDS = {
    "Sag MPRAGE": "sag_mprage",
    "Ax T2 FLAIR": "ax_t2_flair",
    "t1_mprage_sag_p2_iso_1.0mm": "t1_mprage_sag_p2_iso_1",
    "CHEST W/O CONTRAST": "chest_without_contrast",
    "T1 20240301": "t1",
    "2024-03-01 12:30:01": "",
    "T1 for Hans Castorp": "t1",
    "Meier^Anna 4711": "",
    "IRSPGR": "irspgr",
    "": "",
}


@pytest.mark.parametrize("text", WORDS)
def test_descriptions_hold_words_of_protocols_only(text: str) -> None:
    made = description(text)
    assert made == WORDS[text]
    assert re.fullmatch("[a-z0-9_]{0,24}", made)
    assert not re.search(r"\d{5}", made)


def test_descriptions_name_mr_cases_and_earlier_ones_keep_their_names(tmp_path: Path) -> None:
    mr_series(tmp_path / "in" / "a", name="a", patient="002_S_0295", SeriesDescription="MP-RAGE")
    mr_series(tmp_path / "in" / "b", name="b", patient="P1", SeriesDescription="Ax T2 FLAIR")
    mr_series(tmp_path / "in" / "c", name="c", patient="P1", SeriesDescription="Scout 3 plane")
    line = ("preprocess", "mr", "--dicom-dir", tmp_path / "in", "--out", tmp_path / "out")
    made = wdm(*line)
    assert made.code == 0
    names = sorted(path.name for path in (tmp_path / "out").glob("*.nii.gz"))
    assert re.fullmatch(r"ADNI_002_S_0295_MR_mp_rage_[0-9a-f]{8}.nii.gz", names[0])
    assert re.fullmatch(r"sub-[0-9a-f]{12}-ax_t2_flair-[0-9a-f]{8}.nii.gz", names[1])
    assert "mp_rage\t1" in made.out
    assert "MR localizer" in made.out
    manifest = tmp_path / "out" / "manifest.jsonl"
    lines = [json.loads(text) for text in manifest.read_text().splitlines()]
    assert {line.get("description") for line in lines} == {"mp_rage", "ax_t2_flair", "scout_3_plane"}
    for entry in lines:  # names as an earlier version gave them
        if "output" in entry:
            old = f"{entry['patient']}-{entry['source'][:8]}"
            (tmp_path / "out" / entry["output"]).rename(tmp_path / "out" / f"{old}.nii.gz")
            entry.update(case=old, output=f"{old}.nii.gz")
    manifest.write_text("".join(f"{json.dumps(entry)}\n" for entry in lines))
    before = sorted(path.name for path in (tmp_path / "out").glob("*.nii.gz"))
    assert wdm(*line).code == 0
    assert sorted(path.name for path in (tmp_path / "out").glob("*.nii.gz")) == before
    file = next((tmp_path / "in" / "b").iterdir())
    file.touch()  # made anew under its new name, and not twice
    assert wdm(*line).code == 0
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 2


def three_planes(number: int, ds: Any) -> Any:
    axes = ([1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, -1], [0, 1, 0, 0, 0, -1])
    ds.ImageOrientationPatient = axes[number % 3]
    return ds


@pytest.mark.parametrize(
    ("change", "text"), [(None, "localizer"), (None, "AAHead_Scout"), (None, "Survey"), (three_planes, "")]
)
def test_localizers_that_image_type_does_not_tell(tmp_path: Path, change: Change | None, text: str) -> None:
    mr_series(tmp_path / "a", change, name="a", SeriesDescription=text)
    mr_series(tmp_path / "b", name="b", SeriesDescription="t1 local fov")
    plan = mr_plan(tmp_path)
    assert [job.files[0].parent.name for job in plan.jobs] == ["b"]
    assert [(entry.verdict, entry.reasons) for entry in plan.settled] == [("ignored", ("MR localizer",))]
    assert not called_scout("block", "surveyed", "T1 location")


def test_what_is_cropped_is_told_with_the_size_that_holds_it(tmp_path: Path) -> None:
    """Of a body of 13 × 13 columns and rows over all 32 slices, of 8 × 8 × 4 mm."""
    write_series(tmp_path / "in")
    line = ("preprocess", "lidc", "--dicom-dir", tmp_path / "in", "--spacing", 4)
    made = wdm(*line, "--size", 16, "--out", tmp_path / "small")
    assert made.code == 0
    (entry,) = [json.loads(text) for text in (tmp_path / "small" / "manifest.jsonl").read_text().splitlines()]
    body = phantom()[0] > -500
    inside = int(body[4:12, 4:12].sum()) * 16
    assert entry["lost_share"] == round(1 - inside / (int(body.sum()) * SLICES), 4)
    assert entry["cropped_mm"] == [64, 64, 64]
    assert entry["size_needed"] == 32
    assert "warning: 1 of 1 cases are cropped, by up to 64 × 64 × 64 mm (x × y × z)" in made.err
    assert f"{entry['lost_share']:.1%} of the body lies outside the volume; --size 32 would hold it" in made.err
    whole = wdm(*line, "--size", entry["size_needed"], "--out", tmp_path / "whole")
    assert "lies outside" not in whole.err


def test_mr_tells_what_is_cropped(tmp_path: Path) -> None:
    volume = np.zeros((SLICES, 16, 16), np.int16)
    volume[4:28, 2:14, 2:14] = 1000
    mr_series(tmp_path, volume=volume)
    (job,) = plan_mr(scan(tmp_path), tmp_path, Policy(), Target(modality="mr", size=16, spacing=4.0)).jobs
    facts = job.prepare().facts
    assert facts["lost_share"] == round(1 - 8 * 8 * 16 / (24 * 12 * 12), 4)
    assert facts["size_needed"] == 32


@pytest.mark.parametrize(("text", "jobs"), [("LOC MPRAGE", 1), ("3-plane MPRAGE", 1), ("AAHead_Scout", 0)])
def test_a_volume_of_many_slices_is_no_localizer_for_a_short_word(tmp_path: Path, text: str, jobs: int) -> None:
    mr_series(tmp_path / "a", name="a", slices=64, SeriesDescription=text)
    mr_series(tmp_path / "b", name="b")
    assert len(mr_plan(tmp_path).jobs) == 1 + jobs


def annexed(folder: Path, path: Path) -> None:
    """The file as a git-annex link whose content was not fetched."""
    path.unlink()
    path.symlink_to("../.git/annex/objects/Xx/Yy/MD5E-s1--0.dcm/MD5E-s1--0.dcm")


def test_content_that_was_not_fetched_is_named_with_the_remedy(tmp_path: Path) -> None:
    for number in range(5):
        write_series(tmp_path / str(number), name=f"s{number}", patient=f"P{number}")
    annexed(tmp_path, tmp_path / "0" / "1-004.dcm")
    (tmp_path / "1" / "1-004.dcm").write_bytes(b"/annex/objects/MD5E-s527358--0.dcm\n")
    (tmp_path / "2" / "1-004.dcm").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    (tmp_path / "3" / "1-004.dcm").unlink()
    (tmp_path / "3" / "1-004").symlink_to("/nowhere/1-004")
    (tmp_path / "4" / "notes.xml").symlink_to("/nowhere/notes.xml")
    plan = ct_plan(tmp_path)
    assert [job.files[0].parent.name for job in plan.jobs] == ["4"]
    reasons = sorted(entry.reasons[0] for entry in plan.settled if entry.case)
    assert len(reasons) == 4
    assert sum("`datalad get`" in reason for reason in reasons) == 2
    assert sum("`git lfs pull`" in reason for reason in reasons) == 1
    assert sum("1-004: a broken link" in reason for reason in reasons) == 1


def test_an_archive_of_links_is_read_and_version_control_is_not(tmp_path: Path) -> None:
    """As DataLad keeps it: names are links, content lies in .git."""
    content = tmp_path / "in" / ".git" / "annex" / "objects"
    (tmp_path / "in" / "p").mkdir(parents=True)
    for path in write_series(content):
        (tmp_path / "in" / "p" / path.name).symlink_to(path)
    (job,) = ct_plan(tmp_path / "in").jobs
    assert [path.parent.name for path in job.files] == ["p"] * SLICES
    job.prepare()


def test_two_files_of_one_name_are_shown_with_their_folders(tmp_path: Path) -> None:
    """On the terminal; folders may be called after patients and are not written."""
    write_series(tmp_path / "in" / "Castorp^Hans")

    def again(number: int, ds: Any) -> Any:
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID(f"1.2.{number}")
        ds.PixelData = bytes(len(ds.PixelData))
        return ds

    write_series(tmp_path / "in" / "Settembrini", again)
    out = tmp_path / "out"
    made = wdm("preprocess", "lidc", "--dicom-dir", tmp_path / "in", "--out", out, "--size", 16, "--spacing", 8)
    assert made.code == 3
    assert re.search(
        r"(Castorp\^Hans/1-001.dcm and Settembrini|Settembrini/1-001.dcm and Castorp\^Hans)/1-001", made.out
    )
    assert "two acquisitions that no tag tells apart" in made.out
    assert "Castorp" not in (out / "manifest.jsonl").read_text()
