"""wdm verify, the real command on real files."""

import json
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from wdm_cli.cli.main import app
from wdm_cli.engine.data.phantom import write_phantoms
from wdm_cli.engine.data.volume import write_nifti
from wdm_cli.engine.errors import DataError, PartialError


@pytest.fixture
def heads(tmp_path):
    write_phantoms(tmp_path / "data", 3, size=40)
    return tmp_path / "data"


def wdm(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "wdm_cli", "verify", *map(str, arguments)], capture_output=True, text=True, check=False
    )


def answer(*arguments):
    """In this process; the JSON answer and the error raised, if any."""
    result = CliRunner().invoke(app, ["verify", *map(str, arguments), "--json", "--workers", "1"])
    return json.loads(result.stdout) if result.stdout else None, result.exception


def test_a_sound_folder(heads):
    (heads / "notes.txt").write_text("x")
    run = wdm(heads, "--preset", "tiny")
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[1].split("\t") == ["3", "40×40×40", "6×6×6 mm", "RAS", "÷2"]
    assert "text, tables, pictures" in run.stdout
    assert "taken as brats" in run.stderr


def test_json_has_every_case(heads):
    found, error = answer(heads, "--preset", "tiny")
    assert error is None
    assert (found["dataset"], found["usable"], found["unusable"], found["image_size"]) == ("brats", 3, 0, [32] * 3)
    assert [case["name"] for case in found["cases"]] == ["phantom_0000", "phantom_0001", "phantom_0002"]
    assert found["cases"][0]["spacing"] == [6.0] * 3
    assert found["notes"] == []


def test_some_unusable_files_end_with_4_and_all_with_3(heads):
    array = np.ones((9, 9, 9), np.float32)
    nib.save(nib.Nifti1Image(array, np.eye(4)), heads / "flat-t1n.nii.gz")
    (heads / "cut-t1n.nii.gz").write_bytes((heads / "flat-t1n.nii.gz").read_bytes()[:80])
    run = wdm(heads, "--workers", 1)
    assert run.returncode == 4
    assert "cut-t1n.nii.gz\tthe gzip data are truncated" in run.stdout
    assert "flat-t1n.nii.gz\tevery voxel is 1" in run.stdout
    assert "2 of 5 files cannot be used" in run.stderr
    assert "Traceback" not in run.stderr
    for path in heads.glob("phantom*/*"):
        path.unlink()
    _, error = answer(heads)
    assert isinstance(error, DataError)
    assert error.exit_code == 3


def test_cropped_anatomy_and_mixtures_are_told(tmp_path):
    draw = np.random.default_rng(0)
    for name, affine in (("a", np.eye(4)), ("b", np.diag([-1, -1, 2, 1]))):
        nib.save(
            nib.Nifti1Image(draw.normal(size=(34, 32, 32)).astype(np.float32), affine), tmp_path / f"{name}.nii.gz"
        )
    found, error = answer(tmp_path, "--preset", "tiny", "--set", "data.voxel=own")
    assert error is None
    assert found["dataset"] == "nifti"
    assert found["cases"][1]["lost"] == [[1, 1], [0, 0], [0, 0]]
    assert all("anatomy cropped by 1/1" in case["warning"] for case in found["cases"])
    notes = " ".join(found["notes"])
    for text in ("no cubes (e.g. b)", "more than one orientation: RAS (1), LPS (1)", "more than one voxel size"):
        assert text in notes


def test_options_reach_the_data_set(heads):
    found, error = answer(heads, "--dataset", "nifti", "--set", "data.modality=ct", "--preset", "tiny")
    assert found["dataset"] == "nifti"
    assert "are no HU" in found["cases"][0]["problem"]
    assert isinstance(error, DataError)


def test_nothing_to_read(tmp_path):
    for arguments, text in (
        ((tmp_path / "none",), "no such folder"),
        ((tmp_path,), "no volume found"),
        ((tmp_path, "--dataset", "brats"), "no volume found"),
    ):
        _, error = answer(*arguments)
        assert isinstance(error, DataError)
        assert text in error.what


def test_a_wrong_data_set_is_a_usage_error(heads):
    _, error = answer(heads, "--dataset", "bratz")
    assert error.exit_code == 2
    assert "did you mean brats" in str(error)
    assert not isinstance(error, PartialError)


def test_files_of_a_prepared_folder_are_read_as_the_folder_is(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(2):
        hu = np.full((16, 16, 16), -1000, np.int16)
        hu[4:12, 4:12, 4:12] = rng.integers(-150, 250, (8, 8, 8))
        write_nifti(tmp_path / f"ct{number}" / "preprocessed.nii.gz", hu, np.eye(4))
    files = sorted(tmp_path.glob("*/*.nii.gz"))
    small = ("--preset", "tiny", "--set", "data.image_size=16", "--workers", "1")
    stated = {"command": "nifti", "modality": "ct", "intensity": "fixed-window"}
    (tmp_path / "run.json").write_text(json.dumps({"protocol": stated}))
    run = wdm(*files, *small)
    assert run.returncode == 0, run.stderr
    assert "data.modality is ct, as wdm preprocess made the folder" in run.stderr
    assert "read as MR" not in run.stderr
    (tmp_path / "run.json").unlink()
    for said, kind in (((), "lidc-idri"), (("--set", "data.kind=nifti"), "nifti")):
        assert answer(*files, *small, *said)[0]["dataset"] == kind
