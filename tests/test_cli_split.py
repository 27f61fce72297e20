"""`wdm split`, and what it held out in training, scores and report: the real commands on small folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from command import Result, sets, wdm
from small import SETS

from wdm_cli.engine.data.phantom import write_phantoms
from wdm_cli.engine.data.split import read_split
from wdm_cli.engine.errors import DataError
from wdm_cli.engine.metrics.held_out import divide
from wdm_cli.engine.metrics.volumes import open_folder


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root


def fill(root: Path, *names: str, size: int = 8) -> Path:
    """Finished volumes in [0, 1]."""
    rng = np.random.default_rng(len(names))
    for name in names:
        path = root / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(rng.uniform(size=(size,) * 3).astype(np.float32), np.eye(4)), path)
    return root


def fine(result: Result) -> Result:
    assert result.code == 0, result.err
    return result


def test_patients_that_are_guessed_are_said(tmp_path: Path) -> None:
    data = touch(tmp_path, *(f"case_{case:03}_{channel:04}" for case in range(10) for channel in range(2)))
    result = fine(wdm("split", data, "--val", 0.3))
    assert "warning: patients are not stated by 20 of 20 cases; guessed: 10 patients, e.g. case_" in result.err
    assert "--patient REGEX" in result.err
    assert result.out.splitlines() == ["part\tcases\tpatients", "train\t14\t7", "val\t6\t3"]
    drawn = read_split(data / "split.json")
    assert not {case[:8] for case in drawn.train} & {case[:8] for case in drawn.val}
    assert drawn.patients["case_003_0001"] == "case_003"
    result = fine(wdm("split", data, "--patient", r"case_(\d+)", "--overwrite", "--json"))
    assert "warning" not in result.err
    assert json.loads(result.out)["told"] == {"pattern": r"case_(\d+)"}
    assert read_split(data / "split.json").patients["case_003_0001"] == "003"


def test_the_cases_of_another_contrast_or_of_label_maps_are_split_as_they_are_trained_on(tmp_path: Path) -> None:
    data = touch(tmp_path / "t2", *(f"BraTS-GLI-0000{case}-000-t2w" for case in range(4)))
    result = wdm("split", data)
    assert result.code == 3
    assert "--set data.contrast=t2w" in result.err
    fine(wdm("split", data, "--set", "data.contrast=t2w"))
    assert len(read_split(data / "split.json").train) == 3
    maps = touch(tmp_path / "maps", *(f"P{case}/x_seg" for case in range(4)))
    result = wdm("split", maps)
    assert "`wdm train`, `verify` and `split` take --set data.label_maps=take" in result.err
    result = fine(wdm("split", maps, "--set", "data.label_maps=take"))
    assert result.out.splitlines()[1:] == ["train\t3\t3", "val\t1\t1"]


def test_patients_that_names_state_need_no_warning(tmp_path: Path) -> None:
    data = touch(tmp_path, *(f"UPENN-GBM-{case:05}_{visit}_T1" for case in range(10) for visit in (11, 21)))
    result = fine(wdm("split", data, "--dataset", "nifti", "--val", 0.3))
    assert "warning" not in result.err
    assert "names of a known data set (20)" in result.err


def test_patients_of_a_table(tmp_path: Path) -> None:
    data, table = touch(tmp_path / "data", "x1", "x2", "x3"), tmp_path / "who.csv"
    table.write_text("\ufefffile,patient\r\nx1.nii.gz,p\r\nx2.nii.gz,p\r\nx3.nii.gz,q\r\nx4.nii.gz,q\r\n")
    result = fine(wdm("split", data, "--patients", table, "--val", 0.5))
    assert "1 of its names are of no case" in result.err
    assert read_split(data / "split.json").patients == {"x1": "p", "x2": "p", "x3": "q"}
    table.write_text("file,patient\nx1,p\n")
    result = wdm("split", data, "--patients", table, "--overwrite")
    assert (result.code, "e.g. x2" in result.err) == (3, True)
    assert wdm("split", data, "--patients", table, "--patient", "x", "--overwrite").code == 2
    assert wdm("split", data, "--patient", "", "--overwrite").code == 2
    assert wdm("split", data, "--patient", "(", "--overwrite").code == 2


def test_one_patient_of_a_whole_archive_has_a_way_out(tmp_path: Path) -> None:
    data = touch(tmp_path, *(f"sub-0123456789ab-{scan}/preprocessed" for scan in ("aaaaaaaa", "bbbbbbbb")))
    lines = [{"case": path.parent.name, "patient": "sub-0123456789ab", "output": f"{path.parent.name}/{path.name}"}
             for path in data.glob("*/*.nii.gz")]  # fmt: skip
    (data / "manifest.jsonl").write_text("\n".join(map(json.dumps, lines)))
    result = wdm("split", data)
    assert result.code == 3
    for words in ("2 cases of 1 patient", "PatientID", "--patient REGEX", "--patients TABLE"):
        assert words in result.err
    fine(wdm("split", data, "--patient", r"sub-\w+-(\w+)"))
    assert read_split(data / "split.json").told == {"pattern": r"sub-\w+-(\w+)"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six phantoms, a split of them, a run on its training part, and two samples of it."""
    root = tmp_path_factory.mktemp("held_out")
    write_phantoms(root / "data", 6, 8)
    fine(wdm("split", root / "data", "--val", 0.4))
    part = ("--set", "data.part=train")
    fine(wdm("train", "--preset", "tiny", "--data-dir", root / "data", "--out", root / "run", "--steps", 2,
             *sets(*SETS), *part))  # fmt: skip
    fine(wdm("sample", "-n", 2, "--run", root / "run", "--out", root / "samples"))
    return root


def memorization(made: Path, held_out: Path, *more: object, part: str = "train") -> Result:
    raw = ("--preset", "tiny", *sets(*SETS, f"data.part={part}"), "--held-out", held_out)
    return wdm("eval", "memorization", "--real", made / "data", "--fake", made / "samples", *raw, *more)


def test_the_split_that_was_trained_on_says_what_was_held_out(made: Path, tmp_path: Path) -> None:
    drawn = read_split(made / "data" / "split.json")
    assert (len(drawn.train), len(drawn.val)) == (4, 2)
    for part in ("train", "all", "val"):
        result = fine(memorization(made, made / "data" / "split.json", "--out", tmp_path / "eval.json", part=part))
        assert "may have been trained on" not in result.err
        protocol = json.loads((tmp_path / "eval.json").read_text())["protocol"]
        assert (protocol["real"]["n"], protocol["held_out"]["n"]) == (4, 2)
    result = fine(wdm("report", made / "run", made / "samples", "--held-out", made / "data" / "split.json", "--out",
                      tmp_path / "page.html", "--no-viewer"))  # fmt: skip
    assert "may have been trained on" not in result.err
    assert "threshold from 2 held-out volumes" in (tmp_path / "page.html").read_text()
    raw = ("--preset", "tiny", *sets(*SETS, "data.part=train"), "--held-out", made / "data" / "split.json")
    result = fine(wdm("eval", "all", "--real", made / "data", "--fake", made / "samples", "--weights", "random",
                      "--device", "cpu", "--quick", *raw))  # fmt: skip
    assert "thresholds from 2 held-out volumes" in result.out + result.err


def test_another_split_than_the_one_trained_on_is_said(made: Path, tmp_path: Path) -> None:
    fine(wdm("split", made / "data", "--val", 0.4, "--seed", 5, "--out", tmp_path / "other.json"))
    assert read_split(tmp_path / "other.json").val != read_split(made / "data" / "split.json").val
    result = fine(memorization(made, tmp_path / "other.json", part="all"))
    assert "was trained on 4 cases, which are not the 4 of the training part" in result.err
    result = memorization(made, tmp_path / "other.json")
    assert "held-out volumes are in the training part of the data" in result.err


def test_lists_and_folders_hold_out_too(made: Path, tmp_path: Path) -> None:
    drawn = read_split(made / "data" / "split.json")
    paths = {path.name.split(".")[0]: path for path in (made / "data").rglob("*.nii.gz")}
    held = [next(path for name, path in paths.items() if name.startswith(case)) for case in drawn.val]
    listed = tmp_path / "held.txt"
    for lines in (
        drawn.val,
        [path.name for path in held],
        [str(path) for path in held],
        [path.relative_to(made / "data").as_posix() for path in held],
    ):
        listed.write_bytes(("\ufeff" + "\r\n".join(lines) + "\r\n\r\n").encode())
        assert "thresholds from 2 held-out volumes" in fine(memorization(made, listed)).out
    listed.write_text("nobody\n")
    result = memorization(made, listed)
    assert (result.code, "nobody" in result.err, "no files of" in result.err) == (3, True, True)
    folder = tmp_path / "folder"
    folder.mkdir()
    for path in held:
        shutil.copy(path, folder)
    assert "thresholds from 2 held-out volumes" in fine(memorization(made, folder)).out
    result = memorization(made, made / "data", part="all")  # nothing is left to compare with
    assert (result.code, "both sides need at least two" in result.err) == (3, True)


def names(volumes: object) -> set[str]:
    return {path.relative_to(volumes.root).as_posix() for path in volumes.files}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ([f"LIDC-IDRI-000{n}-x/preprocessed" for n in range(6)], "lidc-idri"),
        ([f"BraTS-GLI-0000{n}-000/BraTS-GLI-0000{n}-000-{c}" for n in range(6) for c in ("t1n", "t2f")], "brats"),
        ([f"P{n}/visit{v}/scan" for n in range(5) for v in (1, 2)], "nifti"),
        ([f"blank and ü {n}" for n in range(5)], "nifti"),
    ],
)
def test_finished_volumes_go_by_the_names_of_the_split(tmp_path: Path, files: list[str], kind: str) -> None:
    fill(tmp_path, *files)
    fine(wdm("split", tmp_path, "--dataset", kind, "--val", 0.4))
    found = divide(open_folder(tmp_path), tmp_path / "split.json")
    assert found.warnings == ()
    assert names(found.train) | names(found.unseen) == {f"{name}.nii.gz" for name in files}
    assert not names(found.train) & names(found.unseen)
    drawn = read_split(tmp_path / "split.json")
    assert len(found.unseen) == len(drawn.val) * (2 if kind == "brats" else 1)
    patients = [{name.split("/")[0] for name in names(side)} for side in (found.train, found.unseen)]
    assert not patients[0] & patients[1]


def test_a_list_that_is_unclear_or_splits_a_patient(tmp_path: Path) -> None:
    data = fill(tmp_path / "data", *(f"sub-{n}/{v}" for n in range(4) for v in ("a", "b")))
    listed = tmp_path / "held.txt"
    listed.write_text("a.nii.gz\n")
    with pytest.raises(DataError, match=r"a\.nii\.gz is the name of 4 files"):
        divide(open_folder(data), listed)
    listed.write_text("sub-0/a.nii.gz\n./sub-1/a.nii.gz\n")
    found = divide(open_folder(data), listed)
    assert names(found.unseen) == {"sub-0/a.nii.gz", "sub-1/a.nii.gz"}
    assert "2 patients have volumes on both sides, e.g. sub-0" in found.warnings[0]
    fill(tmp_path / "other", "x", "y", "z")
    (data / "split.json").write_text(json.dumps({"seed": 0, "share": 0.1, "train": ["q"], "val": ["r"]}))
    with pytest.raises(DataError, match="none of its 2 cases is in"):
        divide(open_folder(tmp_path / "other"), data / "split.json")


def test_preprocessing_flattens_folders_but_keeps_whose_the_files_are(tmp_path: Path) -> None:
    """A folder's name may be a patient's: the manifest has a code of it, and the split still says that it guessed."""
    source, out = tmp_path / "in", tmp_path / "out"
    people = ("Zaphodine", "Trillian", "Marvin", "Arthur")
    fill(source, *(f"{who}/{scan}{n}" for n, who in enumerate(people) for scan in ("early", "late")))
    fine(wdm("preprocess", "nifti", "--data-dir", source, "--out", out))
    assert not any(who in (out / "manifest.jsonl").read_text() for who in people)
    result = fine(wdm("split", out, "--val", 0.5))
    assert "warning: patients are not stated by 8 of 8 cases; guessed: 4 patients, e.g. guess-" in result.err
    drawn = read_split(out / "split.json")
    assert not {case[-1] for case in drawn.train} & {case[-1] for case in drawn.val}
    assert (len(drawn.train), len(drawn.val)) == (4, 4)
