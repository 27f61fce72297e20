"""The memory that --dry-run announces, against the memory that a step takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small import small

from wdm_cli.config import resolve
from wdm_cli.engine.checkpoint import save
from wdm_cli.engine.device import available_memory
from wdm_cli.engine.estimate import at_most, estimate
from wdm_cli.engine.preset import from_dict
from wdm_cli.engine.train import Trainer

STEP = """
import json, sys
import numpy as np, peak, torch
from wdm_cli.engine import native
from wdm_cli.engine.preset import from_dict
from wdm_cli.engine.train import Trainer
native.switch(sys.argv[2] == "True")
class Noise:
    names, affine = ("a", "b"), np.eye(4)
    def __len__(self): return 2
    def __getitem__(self, i): return np.random.default_rng(i).uniform(-1, 1, preset.data.shape).astype(np.float32)
preset = from_dict(json.loads(sys.argv[1]))
torch.set_num_threads(1)
steps = Trainer(preset, Noise(), torch.device("cpu")).run()
next(steps), next(steps), steps.close()
print(peak.peak())
"""


def tables(kind: str = "unet", **train: Any) -> dict[str, Any]:
    return {
        "name": "x",
        "model": {"kind": kind, "base_channels": 32, "channel_multipliers": [1, 2, 2], "res_blocks": 2, "groups": 8},
        "data": {"kind": "nifti", "image_size": 64},
        "train": {"batch_size": 2, "lr": 1e-4, **train},
    }


@pytest.mark.parametrize("kind", ["unet", "wavunet"])
@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{"batch_size": 1}, {}, {"checkpointing": True}, {"accumulate": 2}, {"precision": "bf16"}],
    ids=str,
)
@pytest.mark.parametrize("loops", [True, False])
def test_the_estimate_is_within_15_percent_of_a_real_step(kind: str, changes: dict[str, Any], loops: bool) -> None:
    settings = tables(kind, **changes)
    measured = peak_of(STEP, settings, str(loops))
    assert estimate(from_dict(settings), loops=loops).training == pytest.approx(measured, rel=0.15)


@pytest.mark.parametrize("wavelet", ["db2", "sym4"])
def test_any_wavelet_can_be_estimated(wavelet: str) -> None:
    haar, other = (estimate(from_dict(tables() | {"diffusion": {"wavelet": w}})).training for w in ("haar", wavelet))
    assert other == pytest.approx(haar, rel=0.1)


@pytest.mark.parametrize(
    "name",
    [
        "tiny",
        "ours_unet_128",
        "ours_wnet_128",
        *(pytest.param(f"ours_{net}_256", marks=pytest.mark.slow) for net in ("unet", "wnet")),
    ],
)
def test_the_rule_of_thumb_errs_upwards(name: str) -> None:
    preset = resolve(name, sets=["train.batch_size=2"]).preset
    with torch.device("meta"):
        network = preset.network()
    exact = estimate(preset).training
    assert exact < at_most(network, preset, training=True, batch_size=2) < 2 * exact


@pytest.mark.parametrize("kind", ["unet", "wavunet"])
@pytest.mark.parametrize(
    "model",
    [
        {"base_channels": 16, "channel_multipliers": [4, 8, 8]},
        {"base_channels": 16, "channel_multipliers": [1], "res_blocks": 8},
        {"channel_multipliers": [8, 1, 1]},
        {"base_channels": 8, "channel_multipliers": [1, 32]},
        {"dropout": 0.1, "res_blocks": 3},
        {"base_channels": 2, "channel_multipliers": [1, 1], "groups": 2},
    ],
    ids=str,
)
def test_the_rule_of_thumb_errs_upwards_for_unusual_networks(kind: str, model: dict[str, Any]) -> None:
    settings = tables(kind)
    settings["model"] |= model
    preset = from_dict(settings)
    with torch.device("meta"):
        network = preset.network()
    exact = estimate(preset).training
    assert exact < at_most(network, preset, training=True, batch_size=2) < 2 * exact


def peak_of(code: str, settings: dict[str, Any], *more: str) -> int:
    """Peak bytes of a fresh process that runs the code."""
    # without this glibc keeps freed tensors, and the process is larger than what it uses
    environment = os.environ | {
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
    }
    child = [sys.executable, "-c", code, json.dumps(settings), *more]
    return int(subprocess.run(child, capture_output=True, check=True, env=environment).stdout)


def test_settings_that_save_memory_save_memory() -> None:
    plain = estimate(from_dict(tables()))
    for changes in ({"checkpointing": True}, {"accumulate": 2}, {"precision": "bf16"}):
        assert estimate(from_dict(tables(**changes))).activations < 0.7 * plain.activations, changes
    assert plain.parameters == sum(p.numel() for p in from_dict(tables()).network().parameters())


def test_the_size_of_a_checkpoint(tmp_path: Any) -> None:
    from small import HEADS

    preset = small(model__base_channels=32)
    trained = Trainer(preset, HEADS, torch.device("cpu"))
    next(trained.run())
    save(tmp_path / "a.pt", trained.state())
    assert estimate(preset).checkpoint == pytest.approx((tmp_path / "a.pt").stat().st_size, rel=0.1)
    assert available_memory(torch.device("cpu")) > 1e8
