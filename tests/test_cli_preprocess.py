"""wdm preprocess and wdm split on real files: tables, JSON, exit codes, every option's effect."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dicom_factory import SLICES, dataset, phantom, series_uid, set_hu, without, write, write_series
from typer.testing import CliRunner

from wdm_cli.cli.main import app
from wdm_cli.engine.data.volume import read_nifti, write_nifti

SMALL = ["--size", "16", "--spacing", "8", "--workers", "1"]


def wdm(*arguments: object) -> tuple[int, str]:
    """Exit code and stdout, errors as the command line shows them."""
    from wdm_cli.cli import console

    def command() -> None:
        result = CliRunner().invoke(app, [str(part) for part in arguments], catch_exceptions=True)
        outcome.append(result.stdout)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        code.append(result.exit_code)

    outcome: list[str] = []
    code: list[int] = []
    try:
        console.run(command)
    except SystemExit as stopped:
        code.append(int(stopped.code or 0))
    return code[0], outcome[0]


def lidc(source: Path, out: Path, *more: object) -> tuple[int, str]:
    return wdm("preprocess", "lidc", "--dicom-dir", source, "--out", out, *SMALL, *more)


def test_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    write_series(good)
    write_series(bad, without(10))
    assert lidc(good, tmp_path / "o0")[0] == 0
    assert lidc(bad, tmp_path / "o3")[0] == 3
    assert "no usable case: 1 skipped" in capsys.readouterr().err
    both = tmp_path / "both"
    write_series(both / "a")
    write_series(both / "b", without(10), name="other")
    code, table = lidc(both, tmp_path / "o4")
    assert code == 4
    assert "1-010.dcm" in table
    assert "skipped\t1\t31" in table
    assert f"seen\t2\t{2 * SLICES - 1}" in table
    assert lidc(both, tmp_path / "o3b", "--strict")[0] == 3
    assert "--strict stops" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert lidc(tmp_path / "empty", tmp_path / "o5")[0] == 3
    assert lidc(tmp_path / "missing", tmp_path / "o5")[0] == 3
    assert lidc(good, good / "out")[0] == 2
    assert "never written to" in capsys.readouterr().err
    assert lidc(good, tmp_path / "o5", "--max-gap", 9)[0] == 2
    assert lidc(good, tmp_path / "o5", "--tilt", "maybe")[0] == 2
    assert lidc(good, tmp_path / "o5", "--size", 2)[0] == 2
    assert not (tmp_path / "o5").exists()


def uneven(number: int, ds):  # type: ignore[no-untyped-def]
    ds.ImagePositionPatient[2] -= 2.0 * max(0, number - 25)
    return ds


def tilted(number: int, ds):  # type: ignore[no-untyped-def]
    ds.ImagePositionPatient[1] += 0.5 * number
    return ds


def twins(number: int, ds):  # type: ignore[no-untyped-def]
    if number == 6:
        ds.ImagePositionPatient[2] -= 4.0
        set_hu(ds, phantom()[5] + 7)
    return ds


@pytest.mark.parametrize(
    ("change", "option"),
    [
        (without(10), ("--max-gap", 1)),
        (uneven, ("--on-irregular", "resample")),
        (tilted, ("--tilt", "resample")),
        (twins, ("--on-duplicate", "first", "--max-gap", 1)),
    ],
)
def test_an_option_turns_skipped_into_repaired(tmp_path: Path, change, option) -> None:  # type: ignore[no-untyped-def]
    write_series(tmp_path / "in", change)
    assert lidc(tmp_path / "in", tmp_path / "skipped", "--json")[0] == 3
    code, text = lidc(tmp_path / "in", tmp_path / "repaired", *option, "--json")
    assert code == 0
    assert json.loads(text)["repaired"] == {"cases": 1, "files": len(list((tmp_path / "in").iterdir()))}


def test_series_policy_and_intensity(tmp_path: Path) -> None:
    write_series(tmp_path / "in" / "a")
    write_series(tmp_path / "in" / "b", name="other")
    write(dataset(phantom()[0], 0, series_uid("dx")), tmp_path / "in" / "dx.dcm", Modality="DX")
    for policy, count in (("all", 2), ("first", 1), ("thinnest", 1)):
        out = tmp_path / policy
        code, text = lidc(tmp_path / "in", out, "--series-policy", policy, "--intensity", "fixed-window", "--json")
        answer = json.loads(text)
        assert code == 0
        assert answer["accepted"]["cases"] == count
        assert answer["files_seen"] == 2 * SLICES + 1
        assert len(list(out.glob("*/preprocessed.nii.gz"))) == count
        assert (out / "contact_sheet.png").is_file()
        hu = read_nifti(next(out.glob("*/preprocessed.nii.gz"))).array
        assert hu.min() == -1000
        assert 400 < hu.max() <= 3071


@pytest.mark.slow
def test_the_real_command_in_two_processes(tmp_path: Path) -> None:
    """As a user types it, with two workers; then again, then a split of the result."""
    for number in range(3):
        write_series(tmp_path / "in" / str(number), name=f"s{number}", patient=f"LIDC-IDRI-000{number}")
    command = [sys.executable, "-m", "wdm_cli", "preprocess", "lidc", "--dicom-dir", str(tmp_path / "in"), "--out"]
    command += [str(tmp_path / "out"), "--size", "16", "--spacing", "8", "--workers", "2"]
    for _ in range(2):
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stderr
        assert "accepted\t3\t96" in made.stdout
    assert len((tmp_path / "out" / "manifest.jsonl").read_text().splitlines()) == 3
    assert wdm("split", tmp_path / "out", "--val", "0.34")[0] == 0
    drawn = json.loads((tmp_path / "out" / "split.json").read_text())
    assert (len(drawn["train"]), len(drawn["val"])) == (2, 1)
    assert wdm("split", tmp_path / "out", "--val", "0.34")[0] == 2  # never silently another split


def test_nifti_and_brats_commands(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    volume = np.abs(rng.normal(size=(12, 12, 12))).astype(np.float32)
    write_nifti(tmp_path / "in" / "BraTS-GLI-00001-000-t1n.nii.gz", volume, np.diag([-1.0, -1, 1, 1]))
    nifti, brats = tmp_path / "nifti", tmp_path / "brats"
    assert wdm("preprocess", "nifti", "--data-dir", tmp_path / "in", "--out", nifti, "--size", 16)[0] == 0
    assert read_nifti(nifti / "BraTS-GLI-00001-000-t1n.nii.gz").shape == (16, 16, 16)
    assert wdm("preprocess", "brats", "--data-dir", tmp_path / "in", "--out", brats, "--spacing", 2)[0] == 0
    made = read_nifti(brats / "BraTS-GLI-00001-000" / "BraTS-GLI-00001-000-t1n.nii.gz")
    assert made.shape == (6, 6, 6)
    bad = ("--modality", "mr", "--intensity", "fixed-window")
    assert wdm("preprocess", "nifti", "--data-dir", tmp_path / "in", "--out", tmp_path / "no", *bad)[0] == 2
