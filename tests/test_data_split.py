"""Splits by patient: drawn, written, read, kept to when the folder grows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wdm_cli.engine.data import Brats, Nifti
from wdm_cli.engine.data.patients import Patients, recognise, tell
from wdm_cli.engine.data.split import Split, read_split, split, write_split
from wdm_cli.engine.data.volume import write_nifti
from wdm_cli.engine.errors import ConfigError, DataError


def of_names(*cases: str) -> Patients:
    return Patients({case: recognise(case) or case for case in cases}, {"names": len(cases)})


def touch(root: Path, *names: str) -> Path:
    """Files that are found, though not read."""
    for name in names:
        path = root / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root


def test_a_split_holds_out_patients(tmp_path: Path) -> None:
    cases = [f"LIDC-IDRI-{n:04}-{scan}" for n in range(50) for scan in ("aaaaaaaa", "bbbbbbbb")]
    drawn = split(of_names(*cases), 0.1)
    assert (len(drawn.train), len(drawn.val), drawn.counts) == (90, 10, (45, 5))
    assert not {case[:14] for case in drawn.train} & {case[:14] for case in drawn.val}
    assert split(of_names(*reversed(cases)), 0.1) == drawn
    assert split(of_names(*cases), 0.1, seed=1) != drawn
    write_split(tmp_path / "split.json", drawn)
    assert read_split(tmp_path / "split.json") == drawn
    assert json.loads((tmp_path / "split.json").read_text())["patients"][cases[0]] == "LIDC-IDRI-0000"


@given(
    st.dictionaries(st.text(min_size=1, max_size=4), st.integers(0, 9).map(str), min_size=2),
    st.floats(0.01, 0.99),
    st.integers(0, 2**32),
)
def test_no_patient_stands_on_both_sides(of: dict[str, str], share: float, seed: int) -> None:
    if len(set(of.values())) < 2:
        return
    drawn = split(Patients(of, {}), share, seed)
    train, val = ({of[case] for case in part} for part in (drawn.train, drawn.val))
    assert train and val and not train & val  # noqa: PT018
    assert sorted([*drawn.train, *drawn.val]) == sorted(of)


def test_splits_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--val 1"):
        split(of_names("a", "b"), 1.0)
    for told, why in (
        ({"manifest.jsonl": 2}, "PatientID"),
        ({"pattern": "s"}, "--patient finds"),
        ({"table": "t"}, "the table of --patients"),
        ({"names of a known data set": 2}, "their names"),
    ):
        with pytest.raises(DataError, match=r"2 cases of 1 patient \(x\) cannot be split") as caught:
            split(Patients({"a": "x", "b": "x"}, told), 0.5)
        assert why in caught.value.why
        assert "--patient REGEX" in caught.value.hint
        assert "--patients TABLE" in caught.value.hint
    with pytest.raises(DataError, match="1 case cannot be split"):
        split(of_names("a"), 0.5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"seed": 0, "share": 0.1, "train": ["a"], "val": ["a", "b"]}', "1 cases stand on both sides, e.g. a"),
        (
            '{"seed": 0, "share": 0.1, "train": ["a"], "val": ["b"], "patients": {"a": "p", "b": "p"}}',
            "1 patients stand on both sides, e.g. p",
        ),
        ("{", "no split file"),
        ("[]", "no split file"),
        ('{"seed": 0, "share": 0.1, "train": ["a"], "val": ["b"], "patients": 7}', "no split file"),
    ],
)
def test_files_that_are_no_split(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "split.json").write_text(text)
    with pytest.raises(DataError, match=words):
        read_split(tmp_path / "split.json")


def test_files_of_earlier_versions_and_with_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    path = touch(tmp_path, "a", "b") / "split.json"
    path.write_text('\ufeff{"seed": 3, "share": 0.1, "train": ["a"], "val": ["b"]}', encoding="utf-8")
    assert read_split(path) == Split(3, 0.1, ("a",), ("b",))
    assert [case.name for case in Nifti(part="val").find(tmp_path).cases] == ["b"]


def test_a_data_set_keeps_to_its_part_and_takes_more_scans_of_its_patients(tmp_path: Path) -> None:
    for number in range(4):
        write_nifti(tmp_path / f"sub-{number}_T1w.nii.gz", np.ones((4, 4, 4), np.float32) + number, np.eye(4))
    with pytest.raises(DataError, match="no such file, and data"):
        Nifti(part="train").find(tmp_path)
    drawn = split(tell(Nifti().find(tmp_path)), 0.25)
    write_split(tmp_path / "split.json", drawn)
    train, val = (Nifti(part=part).find(tmp_path) for part in ("train", "val"))
    assert tuple(case.name for case in train.cases) == drawn.train
    assert tuple(case.name for case in val.cases) == drawn.val
    assert train.reasons()["in the other part of the split"] == 1
    held = drawn.val[0].replace("_T1w", "_T2w")
    touch(tmp_path, held)
    assert [case.name for case in Nifti(part="val").find(tmp_path).cases] == [drawn.val[0], held]
    assert len(Nifti(part="train").find(tmp_path).cases) == 3
    touch(tmp_path, "sub-9_T1w")
    with pytest.raises(DataError, match=r"1 cases of the folder are in no part, e\.g\. sub-9_T1w"):
        Nifti(part="val").find(tmp_path)


@pytest.mark.parametrize(("pattern", "new"), [(r"^[a-z]+\d", "x1q9"), ("", "x1_0001")])
def test_more_scans_go_to_their_patients_by_the_recorded_pattern_or_rule(
    tmp_path: Path, pattern: str, new: str
) -> None:
    touch(tmp_path, *(f"x{number}_0000" for number in range(4)))
    drawn = split(tell(Nifti().find(tmp_path), pattern), 0.5)
    write_split(tmp_path / "split.json", drawn)
    touch(tmp_path, new)
    part = "val" if "x1_0000" in drawn.val else "train"
    assert new in [case.name for case in Nifti(part=part).find(tmp_path).cases]


def test_a_table_says_nothing_of_cases_that_came_later(tmp_path: Path) -> None:
    touch(tmp_path, "sub-1_a", "sub-2_a")
    (tmp_path / "t.csv").write_text("case,patient\nsub-1_a,p\nsub-2_a,q\n")
    write_split(tmp_path / "split.json", split(tell(Nifti().find(tmp_path), table=tmp_path / "t.csv"), 0.5))
    touch(tmp_path, "sub-1_b")
    with pytest.raises(DataError, match=r"in no part, e\.g\. sub-1_b"):
        Nifti(part="train").find(tmp_path)


def test_a_split_of_one_contrast_serves_the_others_whatever_the_names(tmp_path: Path) -> None:
    """Cases of one name in several folders are named by their paths, which name the contrast."""
    homes = ("a/C1", "b/C1", "c/blank and ü", "d/BraTS-GLI-00001-000", "d/BraTS-GLI-00001-001")
    touch(tmp_path, *(f"{home}-{kind}" for home in homes for kind in ("t1n", "t2w")))
    write_split(tmp_path / "split.json", split(tell(Brats(contrast="t1n").find(tmp_path)), 0.5))
    for part in ("train", "val"):
        sides = [
            {
                str(case.path).removesuffix(f"-{kind}.nii.gz")
                for case in Brats(contrast=kind, part=part).find(tmp_path).cases
            }
            for kind in ("t1n", "t2w")
        ]
        assert sides[0] == sides[1]
