"""A path that begins with ~ is one below a home folder, wherever it is named; a folder named ~ is never made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command import wdm

from wdm_cli.cli.train_data import cache_folder
from wdm_cli.config import expand_home, resolve
from wdm_cli.engine.data.phantom import write_phantoms
from wdm_cli.engine.errors import ConfigError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: Any) -> Path:
    """A home folder with a preset and volumes; the current folder is another."""
    home, here = tmp_path / "home", tmp_path / "here"
    here.mkdir()
    write_phantoms(home / "data", 3, size=8)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    return home


def test_in_every_option_and_argument_that_is_a_path(home: Path) -> None:
    """Options, arguments, the path of a preset and that of a --config file."""
    assert wdm("split", "~/data", "--val", "0.4", "--out=~/new/split.json").code == 0
    assert (home / "new" / "split.json").is_file()
    assert wdm("presets", "copy", "tiny", "~/mine.toml").code == 0
    (home / "more.toml").write_text("train.lr = 0.5\n")
    shown = wdm("config", "show", "--preset", "~/mine.toml", "--config=~/more.toml", "--json")
    assert json.loads(shown.out)["values"]["train"]["lr"] == 0.5
    assert wdm("config", "validate", "~/mine.toml").code == 0
    missing = wdm("eval", "sanity", "--fake=~/none")
    assert str(home / "none") in missing.err
    assert not list(Path().iterdir())


@pytest.mark.parametrize("layer", ["preset", "file", "environment", "variable", "set", "option"])
def test_in_every_layer_of_the_configuration(layer: str, home: Path, tmp_path: Path) -> None:
    (home / "a.toml").write_text('name = "mine"\ndata.dir = "~/data"\n')
    settled = {
        "preset": lambda: resolve("~/a.toml"),
        "file": lambda: resolve("tiny", config_file=home / "a.toml"),
        "environment": lambda: resolve("tiny", environment={"WDM_DATA_DIR": "~/data"}),
        "variable": lambda: resolve("tiny", environment={"WDM_DATA__DIR": "~/data"}),
        "set": lambda: resolve("tiny", sets=["data.dir=~/data"]),
        "option": lambda: resolve("tiny", options={"data.dir": "~/data"}),
    }[layer]()
    assert settled.preset.data.dir == str(home / "data")


@pytest.mark.parametrize("name", ["WDM_CACHE_DIR", "XDG_CACHE_HOME"])
def test_in_the_place_of_the_cache(name: str, home: Path, monkeypatch: Any) -> None:
    monkeypatch.delenv("WDM_CACHE_DIR", raising=False)
    monkeypatch.setenv(name, "~/kept")
    assert cache_folder() == home / ("kept" if name == "WDM_CACHE_DIR" else "kept/wdm")


def test_of_another_user_and_of_none() -> None:
    assert expand_home("~root/x") == str(Path("~root").expanduser() / "x")
    assert [expand_home(text) for text in ("a/~/b", "./~x", "", "~")] == ["a/~/b", "./~x", "", str(Path.home())]
    with pytest.raises(ConfigError, match="~nobody_of_that_name is no home folder") as caught:
        expand_home("~nobody_of_that_name/x")
    assert "./~nobody_of_that_name/x" in caught.value.hint
    result = wdm("split", "somewhere", "--out=~nobody_of_that_name/split.json")
    assert (result.code, result.out) == (2, "")
