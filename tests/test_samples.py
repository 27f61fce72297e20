"""A folder of samples: files, protocol, table and picture; several processes in it."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from small import small

from wdm_cli.engine.claims import Claims
from wdm_cli.engine.errors import ConfigError, DataError, ResourceError
from wdm_cli.engine.generate import Sample
from wdm_cli.engine.sample_protocol import default_affine
from wdm_cli.engine.samples import SampleFolder

AFFINE = np.array([[-2.0, 0, 0, 10], [0, 3.0, 0, 20], [0, 0, 4.0, 30], [0, 0, 0, 1]])
CT = {"data__kind": "lidc-idri", "data__intensity": "fixed-window", "data__window": [-1000, 1000]}


def folder_at(path: Path, protocol: dict[str, Any] | None = None, overwrite: bool = False, **changes: Any) -> Any:
    folder = SampleFolder(path, small(**changes), AFFINE, protocol or {"steps": 4})
    folder.open({"command": "sample"}, overwrite=overwrite)
    return folder


def sample(index: int, value: float | None = None) -> Sample:
    volume = np.random.default_rng(index).uniform(-1, 1, (8, 8, 8)).astype(np.float32)
    return Sample(index, 100 + index, volume if value is None else np.full((8, 8, 8), value, np.float32), 0.25)


def table(path: Path) -> list[dict[str, str]]:
    with (path / "samples.csv").open() as file:
        return list(csv.DictReader(file))


def test_paper_intensities_are_float32_from_0_to_1(tmp_path: Path) -> None:
    row = folder_at(tmp_path).add(sample(3))
    image = nib.load(tmp_path / "sample_000003.nii.gz")
    assert image.get_data_dtype() == np.float32
    assert np.allclose(np.asarray(image.dataobj), (sample(3).volume + 1) / 2)
    assert np.allclose(image.affine, AFFINE)
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 1)
    assert image.header.get_xyzt_units()[0] == "mm"
    assert (row.index, row.seed, row.file, row.seconds) == (3, 103, "sample_000003.nii.gz", 0.25)
    assert 0 <= row.min < row.mean < row.max <= 1


def test_fixed_windows_are_int16_hu(tmp_path: Path) -> None:
    folder_at(tmp_path, **CT).add(sample(0))
    image = nib.load(tmp_path / "sample_000000.nii.gz")
    assert image.get_data_dtype() == np.int16
    assert np.abs(np.asarray(image.dataobj) - sample(0).volume * 1000).max() <= 0.5 + 1e-3


def test_table_and_picture_are_complete_whatever_was_lost(tmp_path: Path) -> None:
    folder = folder_at(tmp_path)
    for index in (2, 0, 1):
        folder.add(sample(index))
    before = table(tmp_path)
    assert [row["index"] for row in before] == ["2", "0", "1"]
    lines = (tmp_path / "samples.csv").read_text().splitlines(keepends=True)
    (tmp_path / "samples.csv").write_text("".join(lines[:2]) + "0,100,sample")  # a killed process
    folder.finish(100)
    rows = table(tmp_path)
    assert [row["index"] for row in rows] == ["0", "1", "2"]
    assert [row["seed"] for row in rows] == ["100", "101", "102"]
    assert rows[2] == before[0]
    assert float(rows[0]["mean"]) == pytest.approx(float(before[1]["mean"]), abs=1e-5)
    assert rows[0]["seconds"] == ""
    assert (tmp_path / "preview.png").stat().st_size > 500


@pytest.mark.parametrize("changes", [{}, CT])
def test_constant_samples_are_finished_too(changes: dict[str, Any], tmp_path: Path) -> None:
    """A network that has learned nothing gives them; that is no reason to fail after the work is done."""
    folder = folder_at(tmp_path, **changes)
    folder.add(sample(0, 0.0))
    (tmp_path / "samples.csv").unlink()
    folder.finish(0)
    assert len(table(tmp_path)) == 1


def test_a_file_that_decayed_is_named(tmp_path: Path) -> None:
    folder = folder_at(tmp_path)
    folder.add(sample(0))
    path = tmp_path / "sample_000000.nii.gz"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"sample_000000\.nii\.gz: damaged"):
        folder.finish(0)


def test_another_protocol_is_refused_with_both_values(tmp_path: Path) -> None:
    folder_at(tmp_path, {"steps": 4, "seed": 0}).add(sample(0))
    with pytest.raises(ConfigError, match="steps: 4 there, 9 now"):
        folder_at(tmp_path, {"steps": 9, "seed": 0})
    folder_at(tmp_path, {"steps": 4, "seed": 0})  # the same goes on
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(ConfigError, match="steps: None there"):
        folder_at(tmp_path, {"steps": 4, "seed": 0})
    (tmp_path / "run.json").unlink()
    with pytest.raises(ConfigError, match=r"1 samples without a run\.json"):
        folder_at(tmp_path)


def test_two_models_that_begin_at_once_do_not_share_a_folder(tmp_path: Path) -> None:
    first, second = folder_at(tmp_path, {"steps": 4}), folder_at(tmp_path, {"steps": 5})
    assert second.claim(2, 1) == [0]
    with pytest.raises(ConfigError, match="steps: 5 there, 4 now"):
        first.claim(2, 1)


def test_overwrite_removes_samples_and_nothing_else(tmp_path: Path) -> None:
    folder = folder_at(tmp_path)
    folder.add(sample(0))
    folder.finish(0)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "sample_1.nii.gz").write_text("mine")
    folder_at(tmp_path, {"steps": 9}, overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "notes.txt", "run.json", "sample_1.nii.gz"]
    assert json.loads((tmp_path / "run.json").read_text())["protocol"] == {"steps": 9}


HOLDER = """
import sys
from pathlib import Path
from wdm_cli.engine.claims import Claims
claims = Claims(Path(sys.argv[1]))
print([claims.take(index) for index in (1, 2)], flush=True)
sys.stdin.read()
"""


def test_what_another_process_has_claimed_is_left_to_it_until_it_dies(tmp_path: Path) -> None:
    folder = folder_at(tmp_path)
    folder.add(sample(0))
    other = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdin=-1, stdout=-1, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "[True, True]\n"
        assert folder.claim(5, 9) == [3, 4]
        folder.claims.release(3)
        folder.claims.release(4)
        assert folder.claim(5, 1) == [3]
        with pytest.raises(ResourceError, match="another process is at work"):
            folder_at(tmp_path, overwrite=True)
    finally:
        other.kill()
        other.communicate()
    assert folder.claim(5, 9) == [1, 2, 3, 4]


def test_leftovers_of_killed_processes_go_when_nobody_is_at_work(tmp_path: Path) -> None:
    (tmp_path / ".partial").mkdir()
    (tmp_path / ".partial" / "1-a-sample_000000.nii.gz").touch()
    folder_at(tmp_path)
    assert not (tmp_path / ".partial").exists()


def test_a_file_system_without_locks_grants_every_claim(tmp_path: Path, monkeypatch: Any) -> None:
    def none(*args: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.lockf", none)
    claims = Claims(tmp_path)
    assert claims.take(0)
    with claims.shared_files(), claims.alone() as alone:
        assert alone


def test_weights_of_unknown_spacing_get_a_centred_field_of_256_mm() -> None:
    affine = default_affine((128, 128, 64))
    assert np.allclose(np.diag(affine), [2, 2, 2, 1])
    assert np.allclose(affine @ [63.5, 63.5, 31.5, 1], [0, 0, 0, 1])
