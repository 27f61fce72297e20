"""Who is a patient: in the names of known data sets, by the general rule, by a pattern, by a table, in a manifest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wdm_cli.engine.data.inventory import Case, Inventory
from wdm_cli.engine.data.patients import guess, recognise, tell
from wdm_cli.engine.errors import ConfigError, DataError

NAMES = {
    "LIDC-IDRI-0314-a1b2c3d4/preprocessed": "LIDC-IDRI-0314",
    "sub-CSI1_ses-16_T1w": "sub-CSI1",
    "sub-0123456789ab-a1b2c3d4": "sub-0123456789ab",
    "sub-01/ses-1/anat/sub-01_ses-1_run-2_T1w": "sub-01",
    "Brats17_CBICA_AAB_1_t1": "CBICA_AAB",
    "Brats18_2013_2_1/Brats18_2013_2_1_flair": "2013_2",
    "HGG/BraTS19_TCIA01_131_1/BraTS19_TCIA01_131_1_t1ce": "TCIA01_131",
    "BraTS20_Training_001_t1": "BraTS20_Training_001",
    "BraTS2021_00495": "BraTS2021_00495",
    "BraTS-GLI-00005-101-t1n": "BraTS-GLI-00005",
    "BraTS-GLI-02063-100": "BraTS-GLI-02063",
    "BraTS-MET-00002-000": "BraTS-MET-00002",
    "BraTS-SSA-00002-000": "BraTS-SSA-00002",
    "BraTS-PED-00002-000": "BraTS-PED-00002",
    "BraTS-MEN-00002-001": "BraTS-MEN-00002",
    "BraTS-MEN-RT-0000-1": "BraTS-MEN-RT-0000",
    "BraTSReg_001_00_0000_t1": "BraTSReg_001",
    "ADNI_002_S_0295_MR_MPRAGE_br_raw_I118671": "ADNI_002_S_0295",
    "002_S_0295/MPRAGE/2006-04-18/I118671": "ADNI_002_S_0295",
    "sub-ADNI002S0295_ses-M00_T1w": "ADNI_002_S_0295",
    "OAS1_0001_MR1_mpr-1_anon": "OAS10001",
    "OAS2_0001_MR2": "OAS20001",
    "OAS30001_MR_d0129": "OAS30001",
    "sub-OAS30001_ses-d0129_T1w": "OAS30001",
    "IXI002-Guys-0828-T1": "IXI002",
    "UPENN-GBM-00001_11_T1": "UPENN-GBM-00001",
    "UCSF-PDGM-0004_FU003d_T1": "UCSF-PDGM-0004",
    "TCGA-02-0006_1996.08.23_t1": "TCGA-02-0006",
    "Task01_BrainTumour/imagesTr/BRATS_001": "BRATS_001",
    "imagesTr/lung_001": "lung_001",
    "imagesTr/la_003_0000": "la_003",
    "case_00000/imaging": "case_00000",
    "case_00000_0000": "case_00000",
    "amos_0001": "amos_0001",
    "s0001/ct": "s0001",
    "Totalsegmentator_dataset_v201/s0011/ct": "s0011",
    "NLST/100002/01-02-1999-NLST-LSS-1/1": "100002",
    "CT-0/study_0001": "study_0001",
    "volume-covid19-A-0003_ct": "volume-covid19-A-0003",
    "radiopaedia_10_85902_3": "radiopaedia_10_85902",
    "MIDRC-RICORD-1A-419639-000082": "MIDRC-RICORD-1A-419639-000082",
    "ProstateX-0001/t2": "ProstateX-0001",
    "10000_1000000_t2w": "10000",
    "train_1_a_1": "train_1",
    "CC0001_philips_15_55_M": "CC0001",
    "1000012_20252_2_0": "1000012",
    "PPMI_3102_MR_MPRAGE": "PPMI_3102",
    "patient001_frame01": "patient001",
    "Pat12_visit2": "Pat12",
    "sub01/T1": "sub01",
    "ACDC/database/training/patient001/patient001_4d": "patient001",
    "BRATS_001_0001": "BRATS_001",
    "PatientID_0003/Timepoint_1/t1": "PatientID_0003",
    # names that state no patient, or only seem to
    "case_003_0000": "",
    "P001_s0001": "",
    "P1/study_0001": "",
    "P1_sub2": "",
    "P1/sub2/scan": "",
    "P1_patient": "",
    "subset0/1.3.6.1.4.1.14519.5.2.1.6279.6001.105756658031515062000744821260": "",
    "file1000001": "",
    "file_brain_AXT2_200_2000019": "",
    "train/sagittal/0000": "",
    "anything": "",
}


@pytest.mark.parametrize(("name", "patient"), NAMES.items())
def test_patients_in_names(name: str, patient: str) -> None:
    assert recognise(name) == patient


@pytest.mark.parametrize(
    ("pattern", "patients", "scans"),
    [
        ("case_{p:03}_{s:04}", 10, 2),  # nnU-Net channels
        ("FLARE22_Tr_{p:04}_{s:04}", 4, 3),
        ("{p:03}_baseline_{s}", 4, 2),
        ("{p:03}_month{s}", 4, 2),
        ("{p:03}_ses-{s:02}_T1", 4, 3),
        ("P{p}_V{s}_flair", 5, 2),
        ("P{p}_2019030{s}", 5, 2),
        ("P{p}/visit{s}/scan", 4, 2),
        ("P{p}/2020-01-0{s}/T1", 4, 3),
        ("P{p}/run{s}/image", 4, 2),
        ("site1/{p:03}_V{s}", 5, 2),
        ("a1/x{p}/scan_{s}", 5, 2),
        ("T{s}/P{p}", 5, 2),  # a folder a contrast
        ("P{p}_visit{s}_scan.nii.gz_-1a2b3c4{s}", 5, 2),  # as `preprocess nifti` flattens it
        ("P_{p}_visit_{s}-1a2b3c4{s}", 5, 2),  # as it names files with blanks
    ],
)
def test_the_general_rule_takes_scans_of_one_patient_together(pattern: str, patients: int, scans: int) -> None:
    paths = {pattern.format(p=p, s=s + 1): p for p in range(patients) for s in range(scans)}
    found = guess({path: path for path in paths})
    groups = {number: {found[path] for path, owner in paths.items() if owner == number} for number in range(patients)}
    assert all(len(names) == 1 for names in groups.values()), found
    assert len(set(found.values())) == patients


@pytest.mark.parametrize("pattern", ["scan_{}", "brain_scan_{}", "FLARE22_Tr_{:04}", "sample_{:06}", "{:04}", "GE/x{}"])
def test_the_general_rule_keeps_patients_apart_that_only_a_number_names(pattern: str) -> None:
    paths = [pattern.format(number) for number in range(40)]
    assert len(set(guess({path: path for path in paths}).values())) == 40


def inventory(root: Path, *paths: str) -> Inventory:
    return Inventory(root, tuple(Case(path.replace("/", "_"), root / f"{path}.nii.gz") for path in paths))


def test_a_guess_is_said_with_an_example_and_names_of_known_data_sets_are_not(tmp_path: Path) -> None:
    told = tell(inventory(tmp_path, "case_003_0000", "case_003_0001", "case_004_0000", "sub-01_T1w"))
    assert told.of == {"case_003_0000": "case_003", "case_003_0001": "case_003", "case_004_0000": "case_004",
                       "sub-01_T1w": "sub-01"}  # fmt: skip
    assert told.told == {"names of a known data set": 1, "general rule": 3}
    for words in ("3 of 4 cases", "2 patients", "case_003: case_003_0000, case_003_0001", "--patient ", "--patients "):
        assert words in told.doubt()
    assert tell(inventory(tmp_path, "sub-01_T1w", "SUB-01_T2w")).doubt() == ""
    assert len(set(tell(inventory(tmp_path, "sub-01_T1w", "SUB-01_T2w")).of.values())) == 1


def test_a_pattern_is_for_all_cases_and_names_the_one_it_misses(tmp_path: Path) -> None:
    cases = inventory(tmp_path, "A/x7_1", "A/x7_2", "B/x8_1")
    assert list(tell(cases, r"x(\d)").of.values()) == ["7", "7", "8"]
    assert list(tell(cases, r"^[AB]").of.values()) == ["A", "A", "B"]
    with pytest.raises(DataError, match=r"--patient x7: finds no patient in 1 of 3 cases, e.g. B/x8_1"):
        tell(cases, "x7")
    with pytest.raises(ConfigError, match=r"--patient \(: is no regular expression"):
        tell(cases, "(")
    with pytest.raises(ConfigError, match="exclude each other"):
        tell(cases, "x", tmp_path / "t.csv")


@pytest.mark.parametrize(
    "text",
    [
        "case,patient\nA_x1,p\nA_x2,p\nB_x1,q\n",
        "\ufeffFile;Patient ID\r\nA/x1.nii.gz;p\r\nA/x2.nii.gz;p\r\n\r\nB/x1.nii.gz;q\r\n",
        "Subject\tage\tPATH\np\t7\tA/x1\np\t7\tx2\nq\t8\tB\\x1\n",
    ],
)
def test_tables_of_cases(tmp_path: Path, text: str) -> None:
    table = tmp_path / "t.csv"
    table.write_bytes(text.encode())
    told = tell(inventory(tmp_path, "A/x1", "A/x2", "B/x1"), table=table)
    assert told.of == {"A_x1": "p", "A_x2": "p", "B_x1": "q"}
    assert (told.told, told.unused, told.doubt()) == ({"table": "t.csv"}, (), "")


def test_a_table_of_participants_finds_them_in_the_paths(tmp_path: Path) -> None:
    table = tmp_path / "participants.tsv"
    table.write_text("participant_id\tsex\nMS1\tF\nMS12\tM\nMS3\tF\n")
    told = tell(inventory(tmp_path, "a/MS1_x", "b/MS1-y", "MS12/z"), table=table)
    assert list(told.of.values()) == ["MS1", "MS1", "MS12"]
    assert told.unused == ("MS3",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("case,patient\nA_x1,p\n", "names no patient for 2 of 3 cases, e.g. A_x2"),
        ("case,patient\nA_x1,p\nA_x1,q\n", "A_x1 is of two patients, p and q"),
        ("case,patient\nx1,p\n", "x1 is the name of 2 files"),
        ("case,patient\nA_x1,\n", "line 2 names no patient"),
        ("case,age\nA_x1,7\n", "has no column of patients; its header is: case,age"),
        ("", "has no column of patients"),
    ],
)
def test_tables_that_leave_doubt(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=r"t\.csv") as caught:
        tell(inventory(tmp_path, "A/x1", "A/x2", "B/x1"), table=tmp_path / "t.csv")
    assert words in caught.value.what
    with pytest.raises(DataError, match="cannot be read as a table"):
        tell(inventory(tmp_path, "A/x1"), table=tmp_path / "none.csv")


def test_the_manifest_comes_before_names_but_not_where_it_only_repeats_the_case(tmp_path: Path) -> None:
    lines = [
        {"case": "other-t1n", "patient": "Z", "output": "sub-1/a.nii.gz"},
        {"case": "case_003_0000", "patient": "case_003_0000", "output": "case_003_0000.nii.gz"},
    ]
    (tmp_path / "manifest.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"cas')
    told = tell(inventory(tmp_path, "sub-1/a", "case_003_0000", "case_003_0001", "case_004_0000"))
    assert list(told.of.values()) == ["Z", "case_003", "case_003", "case_004"]
    assert told.told == {"manifest.jsonl": 1, "general rule": 3}


@pytest.mark.parametrize(
    ("names", "patients"),
    [
        (["01a", "01b", "02a", "02b"], 2),
        (["knee_000L", "knee_000R", "knee_001L", "knee_001R"], 2),
        (["scan0", "scan0_flipped", "scan1", "scan1_flipped"], 2),
        (["p0_left", "p0_right", "p1_left", "p1_right"], 2),
        (["x1a", "x2b", "x3c"], 3),  # nothing is joined by leaving the letters away
    ],
)
def test_sides_letters_and_copies_are_of_one_patient(names: list[str], patients: int) -> None:
    assert len(set(guess({name: name for name in names}).values())) == patients
