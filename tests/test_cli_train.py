"""wdm train, the real command on phantoms: run folder, continuation, refusals, signals."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import time
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from command import sets, start, wdm
from small import SETS

from wdm_cli.cli import console, stop
from wdm_cli.engine.checkpoint import read
from wdm_cli.engine.data.parallel import ASKING
from wdm_cli.engine.data.phantom import write_phantoms
from wdm_cli.engine.data.volume import write_nifti

TINY = sets(*SETS, "train.batch_size=2", "train.save_every=4", "train.preview_every=100", "train.log_every=2",
            "sample.steps=3")  # fmt: skip


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heads")
    write_phantoms(folder, 4, size=16)
    return folder


def train(heads: Path, out: Path, *more: Any) -> Any:
    return wdm("train", "--preset", "tiny", "--data-dir", heads, "--out", out, "--workers", 1, *TINY, *more)


def weights(out: Path) -> dict[str, str]:
    """sha256 of the tensors of the newest checkpoint, by part."""
    import hashlib

    newest = sorted((out / "checkpoints").glob("*.pt"))[-1]
    found = read(newest)
    assert found.ema is not None
    parts = {"model": found.weights, "ema": found.ema} | {
        f"moment {i}": m for i, m in found.training["optimizer"]["state"].items()
    }
    return {
        name: hashlib.sha256(b"".join(t.numpy().tobytes() for t in part.values())).hexdigest()
        for name, part in parts.items()
    }


def test_a_run_folder_explains_itself(heads: Path, tmp_path: Path) -> None:
    result = train(heads, tmp_path / "run", "--steps", 6, "--set", "train.preview_every=6")
    assert result.code == 0, result.err
    assert "data: 4 cases" in result.err
    assert "finished at step 6; next: wdm sample" in result.err
    run = tmp_path / "run"
    about = json.loads((run / "run.json").read_text())
    assert about["preset"]["train"]["steps"] == 6
    assert about["sources"]["train.steps"] == "option"
    assert about["sources"]["model.base_channels"] == "--set model.base_channels"
    assert {"versions", "device", "argv", "started", "preset_sha256", "data", "commit"} <= about.keys()
    assert tomllib.loads((run / "preset.toml").read_text()) == about["preset"]
    with (run / "metrics.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["2", "4", "6"]
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == [
        "step_0000004.pt", "step_0000004.pt.json", "step_0000006.pt", "step_0000006.pt.json",
    ]  # fmt: skip
    assert (run / "previews" / "step_0000006.png").stat().st_size > 500
    assert not list(run.rglob(".partial"))


def test_the_same_command_continues_bit_for_bit(heads: Path, tmp_path: Path) -> None:
    train(heads, tmp_path / "straight", "--steps", 10)
    train(heads, tmp_path / "cut", "--steps", 6)
    result = train(heads, tmp_path / "cut", "--steps", 10)
    assert f"continuing {tmp_path / 'cut'} from step 6" in result.err
    assert weights(tmp_path / "cut") == weights(tmp_path / "straight")
    again = train(heads, tmp_path / "cut", "--steps", 10)
    assert again.code == 0
    assert "finished at step 10" in again.err


def test_inputs_are_left_alone(heads: Path, tmp_path: Path) -> None:
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in heads.rglob("*") if p.is_file()}
    train(heads, tmp_path / "run", "--steps", 2)
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in heads.rglob("*") if p.is_file()} == before


def test_a_changed_setting_ends_with_2_and_a_damaged_newest_is_passed_over(heads: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(heads, run, "--steps", 5)
    changed = train(heads, run, "--steps", 9, "--set", "train.lr=0.5")
    assert changed.code == 2
    assert "train.lr: 0.001 in the run, 0.5 now" in changed.err
    os.truncate(run / "checkpoints" / "step_0000005.pt", 1000)
    fallen = train(heads, run, "--steps", 6)
    assert fallen.code == 0
    assert fallen.err.count("passed over") == 1
    assert "from step 4" in fallen.err
    for path in (run / "checkpoints").glob("*.pt"):
        os.truncate(path, 1000)
    broken = train(heads, run, "--steps", 9)
    assert broken.code == 3
    assert "none of its" in broken.err


def test_refused_data_leave_nothing_behind(heads: Path, tmp_path: Path) -> None:
    shutil.copytree(heads, tmp_path / "data")
    case = next((tmp_path / "data").rglob("*.nii.gz"))
    case.write_bytes(b"not a volume")
    result = train(tmp_path / "data", tmp_path / "runs" / "new", "--steps", 1)
    assert (result.code, case.name in result.err) == (3, True)
    assert not (tmp_path / "runs" / "new").exists()


def test_missing_data_creates_nothing(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for data in (tmp_path / "data", tmp_path / "nowhere"):
        result = train(data, tmp_path / "run", "--steps", 2)
        assert result.code == 3
        assert str(data) in result.err
        assert not (tmp_path / "run").exists()


def test_dry_run_shows_and_writes_nothing(heads: Path, tmp_path: Path) -> None:
    result = train(heads, tmp_path / "run", "--dry-run", "--steps", 1)  # it measures the second of two steps
    assert result.code == 0, result.err
    rows = dict(line.split("\t", 1) for line in result.out.splitlines() if "\t" in line)
    assert rows["cases"].startswith("4 in ")
    assert int(rows["parameters"].replace(",", "")) > 10_000
    assert "up to 1.8 times" in rows["freed memory"]
    assert "s on cpu" in rows["time per step"]
    assert "steps at that speed" in rows["all steps"]
    assert not (tmp_path / "run").exists()


def test_only_the_first_of_several_processes_shows_a_dry_run(heads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console.Verbosity, "rank", 0)  # and again in the end
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    result = train(heads, heads / "run", "--dry-run", "--device", "cpu")
    assert (result.code, result.out, result.err) == (0, "", "")


def test_a_wavelet_other_than_haar(heads: Path, tmp_path: Path) -> None:
    result = train(heads, tmp_path / "run", "--steps", 2, "--set", "space.wavelet=db2")
    assert result.code == 0, result.err


def test_listeners(heads: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    result = train(heads, tmp_path / "run", "--steps", 4, "--log", "tb")
    assert result.code == 0, result.err
    assert len(list((tmp_path / "run" / "tensorboard").glob("events*"))) == 1
    unknown = train(heads, tmp_path / "other", "--steps", 4, "--log", "csv")
    assert unknown.code == 2
    assert not (tmp_path / "other").exists()


def test_ten_bad_steps_end_with_7_and_the_last_checkpoint_is_sound(
    heads: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    from wdm_cli.engine import train as train_module

    true, count = train_module.loss, iter(range(1000))
    monkeypatch.setattr(train_module, "loss", lambda *a: true(*a) * (1.0 if next(count) < 4 else float("nan")))
    result = train(heads, tmp_path / "run", "--steps", 30)
    assert result.code == 7
    assert result.err.count("non-finite values, skipped (cases: phantom_") == 9
    assert "10 steps in a row" in result.err
    found = read(tmp_path / "run" / "checkpoints" / "step_0000012.pt")
    assert all(t.isfinite().all() for t in found.weights.values())
    with (tmp_path / "run" / "metrics.csv").open() as file:
        assert [int(row["skipped"]) for row in csv.DictReader(file)][:3] == [0, 0, 2]


def test_too_little_memory_ends_with_6(heads: Path, tmp_path: Path, monkeypatch: Any) -> None:
    from wdm_cli.engine import train as train_module

    def fail(*args: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(train_module, "loss", fail)
    result = train(heads, tmp_path / "run", "--steps", 2)
    assert result.code == 6
    assert result.err.count("train.") >= 3
    assert "Traceback" not in result.err


def test_memory_low_recomputes_and_takes_one_volume_at_a_time(heads: Path, tmp_path: Path) -> None:
    """The same training up to rounding."""
    no_dropout = ("--set", "model.dropout=0")
    losses = []
    for name, more in (("plain", ()), ("low", ("--memory", "low"))):
        assert train(heads, tmp_path / name, "--steps", 4, *no_dropout, *more).code == 0
        about = json.loads((tmp_path / name / "run.json").read_text())["preset"]["train"]
        assert (about["checkpointing"], about["accumulate"]) == ((True, 2) if more else (False, 1))
        with (tmp_path / name / "metrics.csv").open() as file:
            losses.append([float(row["loss"]) for row in csv.DictReader(file)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_memory_auto_recomputes_where_a_step_would_not_fit(heads: Path, tmp_path: Path, monkeypatch: Any) -> None:
    assert train(heads, tmp_path / "run", "--steps", 2).code == 0
    before = weights(tmp_path / "run")
    monkeypatch.setattr("wdm_cli.engine.device.available_memory", lambda device: 10**8)
    result = train(heads, tmp_path / "poor", "--steps", 2)
    assert "activations are recomputed (train.checkpointing)" in result.err
    about = json.loads((tmp_path / "poor" / "run.json").read_text())
    assert about["preset"]["train"]["checkpointing"] is True
    assert weights(tmp_path / "poor") == before
    result = train(heads, tmp_path / "run", "--steps", 3)  # a run continues so, too
    assert (result.code, "continuing" in result.err) == (0, True)


def test_a_time_limit_ends_with_75(heads: Path, tmp_path: Path, monkeypatch: Any) -> None:
    hours = iter(range(1000))  # the clock is looked at once at the start, then between steps
    monkeypatch.setattr(stop, "time", SimpleNamespace(monotonic=lambda: next(hours) * 3600.0))
    result = train(heads, tmp_path / "run", "--steps", 100_000, "--max-hours", 8)
    assert result.code == 75
    assert "stopped by time limit at step" in result.err
    assert "the checkpoint is saved" in result.err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, *ASKING[2:]], ids=lambda n: n.name)
def test_a_signal_to_the_whole_group_while_workers_fill_the_cache(
    number: signal.Signals, tmp_path: Path, monkeypatch: Any
) -> None:
    """As a cluster sends it: to the command and its workers."""
    write_phantoms(tmp_path / "data", 24, size=96)
    monkeypatch.setenv("WDM_CACHE_DIR", str(tmp_path / "cache"))
    process = start(
        "train",
        "--preset",
        "tiny",
        "--data-dir",
        tmp_path / "data",
        "--out",
        tmp_path / "run",
        "--workers",
        2,
        group=True,
    )
    while not list(tmp_path.glob("cache/volumes/*.npy")) and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert "stopped before the first step" in err


@pytest.mark.parametrize("number", [signal.SIGTERM])  # the others in test_kills.py
def test_a_signal_ends_with_75_and_the_next_run_is_exact(number: signal.Signals, heads: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(
        "train", "--preset", "tiny", "--data-dir", heads, "--out", run, "--workers", 1, *TINY, "--steps", 100_000
    )
    while not (run / "checkpoints").is_dir() and process.poll() is None:
        time.sleep(0.02)
    time.sleep(0.1)
    asked = time.monotonic()
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    seconds = time.monotonic() - asked
    assert process.returncode == 75, err
    assert f"{number.name}: stopping after this step" in err
    assert seconds < 10  # 2 s on an idle machine
    step = read(sorted((run / "checkpoints").glob("*.pt"))[-1]).step
    assert step
    assert f"at step {step:,}" in err
    train(heads, run, "--steps", step + 2)
    train(heads, tmp_path / "straight", "--steps", step + 2)
    assert weights(run) == weights(tmp_path / "straight")


def test_what_verify_warns_of_training_says_too(tmp_path: Path) -> None:
    """Axes, voxel sizes, proportions and the sense of intensities, at the first filling of the cache and from it."""
    ramp = np.mgrid[:32, :32, :32].sum(0) / 93
    body = np.where(np.hypot(*(np.mgrid[:32, :32, :32][:2] - 15.5)) < 12, 40.0, -1000.0) + ramp
    scaled = np.where(np.abs(np.mgrid[:28, :28, :28] - 13.5).max(0) < 9, ramp[:28, :28, :28] * 6 - 3, 0.0)
    write_nifti(tmp_path / "d" / "a.nii.gz", ramp.astype(np.float32), np.eye(4))
    write_nifti(tmp_path / "d" / "ct.nii.gz", body.astype(np.float32), np.diag([-1.0, -1, 1, 1]))
    write_nifti(tmp_path / "d" / "masked.nii.gz", scaled.astype(np.float32), np.diag([1.0, 1, 2.5, 1]))
    for _ in range(2):
        own = ("--dataset", "nifti", "--set", "data.voxel=own")  # else all voxels would be 2.5 mm along k
        result = train(tmp_path / "d", tmp_path / "run", "--steps", 1, *own)
        assert result.code == 0, result.err
        for text in (
            "more than one orientation: RAS (2), LPS (1)",
            "more than one voxel size",
            "1 of 3 volumes have voxels that are no cubes (e.g. masked)",
            "1 of 3 volumes (e.g. ct) hold values that look like HU",
            "data.modality=ct",
            "1 of 3 volumes (e.g. masked) have a background that is not their lowest value",
        ):
            assert text in result.err


def test_other_settings_are_refused_before_any_volume_is_read(heads: Path, tmp_path: Path) -> None:
    assert train(heads, tmp_path / "run", "--steps", 1).code == 0
    other = train(tmp_path / "not there", tmp_path / "run", "--steps", 2, "--set", "train.lr=0.5")
    assert other.code == 2
    assert "0.5 now" in other.err
