"""The loop and the sampling of today beside those of version 0.1, bit for bit; its runs and folders are continued."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from command import wdm
from old_loop import OldTrainer, old_generate
from small import HEADS, digest, small, trainer

from wdm_cli.config import resolve
from wdm_cli.engine import run as runs
from wdm_cli.engine.checkpoint import read
from wdm_cli.engine.data.cache import VolumeCache
from wdm_cli.engine.data.phantom import write_phantoms
from wdm_cli.engine.data.volume import read_nifti
from wdm_cli.engine.generate import Sample, generate
from wdm_cli.engine.preset import from_dict

OLD = Path(__file__).parent / "golden" / "version_0_1"
NETWORKS: dict[str, dict[str, Any]] = {
    "unet": {},
    "wavunet": {"model": {"kind": "wavunet", "base_channels": 8, "channel_multipliers": [1, 2], "groups": 4}},
}
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "parts": {"train__batch_size": 4, "train__accumulate": 2, "train__clip_norm": 0.5, "train__warmup": 7},
    "checkpointing": {"train__checkpointing": True, "train__weight_decay": 0.01},
}
SAMPLERS = {"ddpm": {"kind": "ddpm", "steps": 4}, "dpm++ sde": {"kind": "dpm++", "steps": 3, "sde": True}}


def preset_of(network: str, way: str, precision: str, sampler: str = "ddpm") -> Any:
    tables = {"sample": SAMPLERS[sampler], **NETWORKS[network]}
    settings = small(train__precision=precision, **WAYS[way]).to_dict()
    dropout = {"dropout": 0.2} if network == "unet" else {}
    return from_dict(settings | tables | {"model": tables.get("model", settings["model"]) | dropout})


WAYS_OF_BOTH = [
    pytest.param(way, precision, marks=[pytest.mark.slow] * (precision == "bf16" and way != "plain"))
    for way in WAYS
    for precision in ("float32", "bf16")
]


@pytest.mark.parametrize(("way", "precision"), WAYS_OF_BOTH)
@pytest.mark.parametrize("network", NETWORKS)
def test_twelve_steps(network: str, way: str, precision: str) -> None:
    preset = preset_of(network, way, precision)
    old, new = OldTrainer(preset, HEADS), trainer(preset)
    for record in new.run(lambda: new.step >= 12):
        bands, norm = old.step()
        assert list(record.losses) == bands
        assert record.grad_norm == norm
    assert new.step == old.done == 12
    assert digest(new) == digest(SimpleNamespace(network=old.network, ema=old.ema, optimizer=old.optimizer))  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("network", NETWORKS)
def test_three_samples(network: str, sampler: str, precision: Any) -> None:
    preset = preset_of(network, "plain", "float32", sampler)
    trained = OldTrainer(preset, HEADS)
    trained.step()  # until then a network gives 0
    made = generate(trained.ema, preset, range(3), seed=5, batch_size=3, precision=precision)
    volumes = [record.volume for record in made if isinstance(record, Sample)]
    np.testing.assert_array_equal(volumes, old_generate(trained.ema, preset, [5, 6, 7], precision))


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of version 0.1: five phantoms, a run of four steps, two samples of it."""
    shutil.copytree(OLD, tmp_path, dirs_exist_ok=True)
    write_phantoms(tmp_path / "data", 5, 8)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_of_version_0_1_is_continued_exactly(old: Path) -> None:
    found = read(old / "run" / "checkpoints" / "step_0000004.pt")
    assert found.preset is not None
    assert found.ema is not None
    expected = OldTrainer(found.preset, VolumeCache(found.preset.data, old / "data", old / "cache"))
    list(expected.volumes.build())
    expected.network.load_state_dict(found.weights)
    expected.ema.load_state_dict(found.ema)
    expected.optimizer.load_state_dict(found.training["optimizer"])
    expected.done = 4
    steps = [expected.step() for _ in range(4)]

    result = wdm("train", "--preset", "small.toml", "--out", "run", "--steps", 8, "--device", "cpu", "--workers", 1)
    assert result.code == 0, result.err
    assert "continuing run from step 4" in result.err
    newest, _ = runs.latest_checkpoint(old / "run")
    assert newest.step == 8
    made = trainer(found.preset, expected.volumes)
    made.restore(newest)
    assert digest(made) == digest(
        SimpleNamespace(network=expected.network, ema=expected.ema, optimizer=expected.optimizer)  # type: ignore[arg-type]
    )
    with (old / "run" / "metrics.csv").open() as file:
        logged = {int(row["step"]): row for row in csv.DictReader(file)}
    assert sorted(logged) == [2, 4, 6, 8]  # its columns are those of its header
    losses = [float(np.mean([np.mean(bands) for bands, _ in steps[i : i + 2]])) for i in (0, 2)]
    assert [float(logged[step]["loss"]) for step in (6, 8)] == pytest.approx(losses, rel=1e-5)


def test_a_sample_folder_of_version_0_1_is_completed(old: Path) -> None:
    before = {path.name: path.read_bytes() for path in (old / "samples").glob("sample_*")}
    assert len(before) == 2
    result = wdm("sample", "-n", 4, "--out", "samples", "--run", "run", "--device", "cpu")
    assert result.code == 0, result.err
    assert "2 of 4 samples are there already" in result.err
    for name, content in before.items():
        assert (old / "samples" / name).read_bytes() == content
    preset = resolve("small.toml").preset
    network = OldTrainer(preset, HEADS).ema
    stored = read(old / "run" / "checkpoints" / "step_0000004.pt").ema
    assert stored is not None
    network.load_state_dict(stored)
    for index in range(4):
        volume = (old_generate(network, preset, [index])[0] + 1) / 2
        written = read_nifti(old / "samples" / f"sample_{index:06d}.nii.gz").array
        np.testing.assert_allclose(written, volume, atol=1e-6 if index < 2 else 0)  # the first two: another machine's
