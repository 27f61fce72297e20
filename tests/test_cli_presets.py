"""wdm presets, wdm config, wdm cite."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from command import wdm

from wdm_cli.config import preset_names, preset_path, read_toml

TINY = read_toml(preset_path("tiny"))


def test_list_show_and_copy(tmp_path: Path) -> None:
    listed = wdm("presets", "list")
    assert [line.split("\t")[0] for line in listed.out.splitlines()[1:]] == preset_names()
    assert "ours_unet_128\tunet\t128×128×128" in listed.out
    tables = json.loads(wdm("presets", "list", "--json").out)
    assert [t["name"] for t in tables] == preset_names()
    assert tomllib.loads(wdm("presets", "show", "tiny").out)["name"] == "tiny"
    copied = wdm("presets", "copy", "tiny", tmp_path / "mine.toml")
    assert copied.code == 0
    assert tomllib.loads((tmp_path / "mine.toml").read_text()) == TINY
    assert wdm("presets", "copy", "ours_unet_128", tmp_path).code == 0
    assert (tmp_path / "ours_unet_128.toml").exists()
    again = wdm("presets", "copy", "tiny", tmp_path / "mine.toml")
    assert again.code == 2
    assert "nothing is overwritten" in again.err


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    wdm("presets", "copy", "tiny", tmp_path / "mine.toml")
    text = (tmp_path / "mine.toml").read_text()
    assert wdm("config", "validate", tmp_path / "mine.toml").out.startswith(f"{tmp_path / 'mine.toml'}: valid (tiny")
    (tmp_path / "mine.toml").write_text(text.replace("lr = 1e-3", "lr = 3.0\nlearning = 1"))
    bad = wdm("config", "validate", tmp_path / "mine.toml")
    assert bad.code == 2
    assert "train.lr: must be above 0" in bad.err
    assert "train.learning: unknown key" in bad.err


def test_config_shows_value_and_source(monkeypatch: Any) -> None:
    monkeypatch.setenv("WDM_TRAIN__SEED", "7")
    result = wdm("config", "show", "--preset", "tiny", "--set", "train.lr=2e-5")
    rows = {line.split("\t")[0]: line.split("\t")[1:] for line in result.out.splitlines()}
    assert rows["train.lr"] == ["2e-05", "--set train.lr"]
    assert rows["train.seed"] == ["7", "environment WDM_TRAIN__SEED"]
    assert rows["train.batch_size"] == [str(TINY["train"]["batch_size"]), "preset tiny"]
    assert rows["train.keep"][1] == "default"
    answer = json.loads(wdm("config", "show", "--preset", "tiny", "--json").out)
    assert answer["values"]["train"]["seed"] == 7


def test_cite() -> None:
    assert wdm("cite").out.startswith("@inproceedings{friedrich2024wdm")
