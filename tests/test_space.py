"""Too little space is known before the work, and every refusal of a file system has its own words."""

from __future__ import annotations

import errno
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from command import sets, wdm
from dicom_factory import write_series
from small import SETS, small, trainer

from wdm_cli.engine.checkpoint import Checkpoint, export
from wdm_cli.engine.data.phantom import write_phantoms
from wdm_cli.engine.data.volume import write_nifti
from wdm_cli.engine.errors import ResourceError
from wdm_cli.engine.estimate import checkpoint_bytes
from wdm_cli.engine.files import shortage, write_error
from wdm_cli.engine.run import checkpoint_path, space_for_checkpoints, train

ONE = checkpoint_bytes(small())


def leave(monkeypatch: pytest.MonkeyPatch, free: float, below: Path | None = None) -> None:
    """Let so many bytes be free on the disk of a folder, or of all."""
    true = shutil.disk_usage

    def usage(path: Any) -> Any:
        found = true(path)
        return found if below and not Path(path).is_relative_to(below) else type(found)(2**40, 2**40, int(free))

    monkeypatch.setattr(shutil, "disk_usage", usage)


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heads")
    write_phantoms(folder, 3, size=8)
    return folder


def training(heads: Path, out: Path, *more: Any) -> Any:
    settings = sets(*SETS, "train.batch_size=1", "train.save_every=2", "train.steps=20")
    return wdm("train", "--preset", "tiny", "--data-dir", heads, "--out", out, "--workers", 1, *settings, *more)


@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["train", "dry run"])
def test_a_training_whose_first_checkpoint_has_no_place_is_refused(
    dry: list[str], heads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(monkeypatch, 0.9 * ONE, below=tmp_path)
    result = training(heads, tmp_path / "run", *dry)
    assert result.code == 5
    assert "it needs 1 MB, 1 MB are free" in result.err
    assert not re.search("^training", result.err, re.MULTILINE)  # the progress of steps
    assert not (tmp_path / "run").exists()


def test_one_that_ends_later_is_warned_of(heads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(monkeypatch, 2.5 * ONE, below=tmp_path)
    result = training(heads, tmp_path / "run", "--steps", 6)
    assert result.code == 0, result.err
    assert "warning: " in result.err.partition("caching")[0]
    assert "3 checkpoints of " in result.err


def test_checkpoints_that_are_there_and_milestones_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preset = small(train__steps=100, train__save_every=10, train__keep=3)

    def needed(**changes: Any) -> int:
        """Checkpoints that a shortage speaks of."""
        tables = {f"train__{key}": value for key, value in ({"steps": 100, "save_every": 10} | changes).items()}
        return int(space_for_checkpoints(tmp_path, small(**tables)).split()[-5])

    leave(monkeypatch, ONE)
    assert needed(keep=3) == 4
    assert needed(keep=5) == 6
    assert needed(keep=3, keep_every=20) == 4 + 5
    assert needed(steps=20) == 2
    monkeypatch.undo()
    list(train(trainer(small(train__steps=3, train__save_every=1)), tmp_path))
    leave(monkeypatch, ONE)
    assert space_for_checkpoints(tmp_path, preset) == ""  # the last three are there: one more at a time
    leave(monkeypatch, ONE - 1)
    with pytest.raises(ResourceError, match="cannot write"):
        space_for_checkpoints(tmp_path, preset)
    assert space_for_checkpoints(tmp_path, small(train__steps=3)) == ""  # nothing left to do


def test_the_size_is_that_of_the_file(tmp_path: Path) -> None:
    list(train(trainer(small(train__steps=1)), tmp_path))
    assert 0 < checkpoint_path(tmp_path, 1).stat().st_size - ONE < 200_000  # names and places of tensors


def test_samples_and_cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, out = tmp_path / "run", tmp_path / "s"
    list(train(trainer(small(train__steps=1)), run))
    leave(monkeypatch, 8**3 * 4 * 2.5)
    some = wdm("sample", "-n", 3, "--out", out, "--run", run, "--device", "cpu")
    assert some.code == 0
    assert "3 samples take up to 0 MB, 0 MB are free; those that are finished are kept" in some.err
    assert "take up to" not in wdm("sample", "-n", 5, "--out", out, "--run", run, "--device", "cpu").err
    leave(monkeypatch, 8**3 * 4 - 1)
    none = wdm("sample", "-n", 6, "--out", out, "--run", run, "--device", "cpu")
    assert none.code == 5
    assert "sampling" not in none.err
    write_series(tmp_path / "dicom")
    line = ["preprocess", "lidc", "--dicom-dir", tmp_path / "dicom", "--size", 16, "--spacing", 8, "--workers", 1]
    result = wdm(*line, "--out", tmp_path / "ct")
    assert result.code == 0, result.err
    assert "1 cases take up to 0 MB, 0 MB are free" in result.err
    assert "take up to" not in wdm(*line, "--out", tmp_path / "ct").err


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_exported_weights(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Checkpoint(Path("a.pt"), trainer().state().weights)
    leave(monkeypatch, 1000)
    with pytest.raises(ResourceError, match="it needs 0 MB, 0 MB are free"):
        export(tmp_path / f"a.{suffix}", source, small())
    assert not list(tmp_path.iterdir())


WORDS = {
    errno.ENOSPC: ("no space left (", "free some space"),
    errno.EDQUOT: ("disk quota exceeded", "quota -s"),
    errno.EFBIG: ("larger than a file may be here", "ulimit -f"),
    errno.EROFS: ("the file system is read-only", "another"),
    errno.ENAMETOOLONG: ("the name is too long", "255"),
    errno.EACCES: ("Permission denied", "permissions"),
}


@pytest.mark.parametrize("code", WORDS, ids=errno.errorcode.get)
@pytest.mark.parametrize("suffix", ["pt", "safetensors", "nii.gz", "json"])
def test_a_refusal_is_called_by_its_name(
    code: int, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found at the flush, as network file systems report it, whatever is written."""
    import numpy as np

    from wdm_cli.engine.files import write_json

    path, source = tmp_path / f"a.{suffix}", Checkpoint(Path("a.pt"), trainer().state().weights)
    write: dict[str, Any] = {
        "pt": lambda: export(path, source, small()),
        "safetensors": lambda: export(path, source, small()),
        "nii.gz": lambda: write_nifti(path, np.zeros((8, 8, 8), np.float32), np.eye(4)),
        "json": lambda: write_json(path, {}),
    }

    def refuse(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(ResourceError) as caught:
        write[suffix]()
    what, hint = WORDS[code]
    assert f"cannot write {path}: {what}" in caught.value.what
    assert hint in caught.value.hint
    assert ("MB free" in caught.value.what) == (code == errno.ENOSPC)


def test_safetensors_hides_the_number_of_an_error_and_we_do_not(tmp_path: Path) -> None:
    """A name of more than 255 bytes, refused by the library itself."""
    from wdm_cli.engine.safe_load import write_safetensors

    with pytest.raises(OSError) as caught:
        write_safetensors(tmp_path / ("x" * 300), trainer().state().weights, {})
    assert caught.value.errno == errno.ENAMETOOLONG


def test_inodes_run_out_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true = os.statvfs(tmp_path)
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result([*true[:5], 1000, 0, 0, *true[8:]]))
    said = write_error(tmp_path / "a", OSError(errno.ENOSPC, "No space left on device"))
    assert "no inodes left" in said.what
    assert "df -i" in said.hint


def test_a_file_system_that_does_not_tell_refuses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(path: Any) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(shutil, "disk_usage", silent)
    assert shortage(tmp_path, 2**60) == ""
