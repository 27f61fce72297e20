"""wdm weights: official files in, trained models out."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from command import wdm
from golden.recipe import golden_state_dict
from small import small, trainer

from wdm_cli.engine.run import train

PRESET = """
name = "little"
[model]
kind = "unet"
base_channels = 32
channel_multipliers = [1, 2]
[data]
kind = "brats"
image_size = 8
[sample]
steps = 2
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("WDM_CACHE_DIR", str(tmp_path / "cache"))


def kept_here() -> dict[str, str]:
    """Files of imported weights by name; `list` also shows those that could be fetched."""
    listed = json.loads(wdm("weights", "list", "--json").out)
    return {entry["name"]: entry["path"] for entry in listed if entry["path"]}


def test_official_weights_are_kept_by_name_and_sampled_from(official_keys: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "little.toml").write_text(PRESET)
    torch.save(OrderedDict(golden_state_dict(official_keys["unet_c32_m12"])), tmp_path / "brats_100.pt")
    assert "none yet" in wdm("sample", "-n", 1, "--out", tmp_path / "s", "--weights", "brats_100").err
    nameless = wdm("weights", "import", tmp_path / "brats_100.pt")
    assert nameless.code == 2
    assert "bare weights say nothing" in nameless.err
    kept = wdm("weights", "import", tmp_path / "brats_100.pt", "--preset", tmp_path / "little.toml")
    assert kept.code == 0, kept.err
    assert list(kept_here()) == ["brats_100"]
    assert wdm("weights", "path", "brats_100").out.strip() == kept_here()["brats_100"]
    assert wdm("weights", "import", tmp_path / "brats_100.pt", "--preset", tmp_path / "little.toml").code == 2
    sampled = wdm("sample", "-n", 1, "--out", tmp_path / "s", "--weights", "brats_100")
    assert sampled.code == 0, sampled.err
    missing = wdm("sample", "-n", 1, "--out", tmp_path / "t", "--weights", "other")
    assert missing.code == 5
    assert "there are: brats_100" in missing.err


def test_the_wrong_preset_is_refused_and_nothing_kept(official_keys: dict[str, Any], tmp_path: Path) -> None:
    torch.save(OrderedDict(golden_state_dict(official_keys["unet_c32_m12"])), tmp_path / "a.pt")
    result = wdm("weights", "import", tmp_path / "a.pt", "--preset", "ours_unet_128")
    assert result.code == 3
    assert "missing" in result.err
    assert kept_here() == {}


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_export_of_a_run(suffix: str, tmp_path: Path) -> None:
    trained = trainer(small(train__steps=2))
    list(train(trained, tmp_path / "run"))
    to = tmp_path / f"out.{suffix}"
    result = wdm("weights", "export", tmp_path / "run", to)
    assert result.code == 0, result.err
    assert "EMA weights of step 2" in result.err
    from wdm_cli.engine.checkpoint import read

    back = read(to)
    assert all(torch.equal(tensor, trained.ema.state_dict()[name]) for name, tensor in back.weights.items())
    assert wdm("weights", "export", tmp_path / "run", to).code == 2
    assert wdm("weights", "export", tmp_path / "run", tmp_path / "x.ckpt").code == 2


def test_a_file_where_a_name_belongs(tmp_path: Path) -> None:
    (tmp_path / "some.pt").touch()
    result = wdm("sample", "-n", 1, "--out", tmp_path / "s", "--weights", tmp_path / "some.pt")
    assert result.code == 5
    assert f"--checkpoint {tmp_path / 'some.pt'}" in result.err


def test_weights_of_other_tools_are_imported_and_how_is_said(official_keys: dict[str, Any], tmp_path: Path) -> None:
    """Of DistributedDataParallel in PyTorch's old format; the same weights as bare ones."""
    state = golden_state_dict(official_keys["unet_c32_m12"])
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, tmp_path / "ddp.pt",
               _use_new_zipfile_serialization=False)  # fmt: skip
    (tmp_path / "little.toml").write_text(PRESET)
    result = wdm("weights", "import", tmp_path / "ddp.pt", "--preset", tmp_path / "little.toml")
    assert result.code == 0, result.err
    assert f"{tmp_path / 'ddp.pt'}: PyTorch's old format, which has no checksums, names without 'module.'" in result.err
