"""Configuration: every layer and its source, every bad value refused by its path."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wdm_cli import config
from wdm_cli.config import preset_folder, preset_names, read_toml, resolve, to_toml
from wdm_cli.engine.errors import ConfigError
from wdm_cli.engine.preset import TABLES, Preset, from_dict
from wdm_cli.engine.samplers import DDIM, DPMSolverPP

BASE = tomllib.loads((preset_folder() / "tiny.toml").read_text())


def test_every_layer_beats_the_one_below(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[train]\nlr = 2e-5\nwarmup = 2\nema = 0.2\nseed = 2\n")
    environment = {
        "WDM_TRAIN__WARMUP": "3",
        "WDM_TRAIN__EMA": "0.3",
        "WDM_TRAIN__SEED": "3",
        "HOME": "/",
        "WDM_DEBUG": "1",
    }
    resolved = resolve(
        "tiny", config_file=file, environment=environment, sets=["train.ema=0.4", "train.seed=4"],
        options={"train.seed": 5, "train.steps": None},
    )  # fmt: skip
    train = resolved.preset.train
    assert (train.batch_size, train.lr, train.warmup, train.ema, train.seed) == (
        BASE["train"]["batch_size"],
        2e-5,
        3,
        0.4,
        5,
    )
    sources = {path.removeprefix("train."): source for path, _, source in resolved.rows()}
    assert [sources[key] for key in ("weight_decay", "batch_size", "lr", "warmup", "ema", "seed")] == [
        "default", "preset tiny", f"file {file}", "environment WDM_TRAIN__WARMUP", "--set train.ema", "option",
    ]  # fmt: skip


def test_the_data_folder_comes_from_its_own_variable_below_set_and_option() -> None:
    environment = {"WDM_DATA_DIR": "/env/1999"}
    assert resolve("tiny", environment=environment).preset.data.dir == "/env/1999"
    assert resolve("tiny", environment=environment, sets=["data.dir=/set"]).preset.data.dir == "/set"
    assert resolve("tiny", environment=environment, options={"data.dir": "/o"}).preset.data.dir == "/o"


def test_another_kind_keeps_what_it_knows_and_drops_the_presets_other_keys() -> None:
    found = resolve("ours_unet_128", options={"data.kind": "nifti"}).preset
    assert (found.data.kind, found.data.image_size) == ("nifti", 128)  # type: ignore[attr-defined]
    assert found.data.dir == type(found.data)().dir  # not the BraTS folder
    wavelet = resolve("ours_unet_128", sets=["model.kind=wavunet"]).preset.model
    assert (wavelet.kind, wavelet.widths) == ("wavunet", (64, 128, 128, 256, 256))  # type: ignore[attr-defined]


def test_another_sampler_has_its_own_steps_and_grid() -> None:
    """What is few steps for one, and a good grid, says nothing about another."""
    one = resolve("tiny", options={"sample.kind": "ddim"}).preset.sample
    assert (one, str(one)) == (DDIM(), "ddim, 50 steps, grid linear")
    stored = {**resolve("tiny").preset.to_dict(), "sample": {"kind": "ddim", "steps": 20, "grid": "linear", "eta": 0.5}}
    assert str(from_dict(stored).sample) == "ddim, 20 steps, grid linear, eta 0.5"
    assert resolve(stored, options={"sample.kind": "dpm++"}).preset.sample == DPMSolverPP()
    chosen = resolve("tiny", sets=["sample.grid=karras", "sample.sde=true"]).preset.sample
    assert str(chosen) == "dpm++, 15 steps, grid karras, sde"


def test_another_kind_keeps_what_the_user_set() -> None:
    found = resolve("tiny", sets=["data.dir=/mine"], options={"data.kind": "nifti"})
    assert found.preset.data.dir == "/mine"
    assert found.sources["data.dir"] == "--set data.dir"
    with pytest.raises(ConfigError, match=r"data\.contrast: unknown key"):
        resolve("tiny", sets=["data.contrast=t2w"], options={"data.kind": "lidc-idri"})


@pytest.mark.parametrize(
    "text", ["train.lr", "=1", "train=3", "train.=3", "lr=3", "train.lr.x=3", "data.kind=dog", "..=1"]
)
def test_sets_that_set_nothing(text: str) -> None:
    with pytest.raises(ConfigError):
        resolve("tiny", sets=[text])


def test_unknown_names_get_a_suggestion() -> None:
    for sets, near in (
        ("train.learning_rte=1", ""),
        ("train.step=1", "steps"),
        ("trian.lr=1", "train"),
        ("model.kind=unit", "unet"),
    ):
        with pytest.raises(ConfigError) as caught:
            resolve("tiny", sets=[sets])
        assert (f"did you mean {near}?" in str(caught.value)) == bool(near)
    with pytest.raises(ConfigError, match=r"did you mean ours_unet_128\?"):
        resolve("our_unet_128")


MUTATIONS: dict[str, list[Any]] = {
    "model.base_channels": [0, 3, -8, 10**18, "many", 1.5, True],
    "model.channel_multipliers": [[], [0], [1, "x"], 3, [10**9]],
    "model.res_blocks": [0, "two"],
    "model.groups": [0, 7],
    "model.dropout": [1.0, -0.1, float("nan")],
    "model.kind": ["transformer", 3],
    "diffusion.schedule": ["quadratic"],
    "diffusion.steps": [1, 10**9],
    "diffusion.beta_end": [2.0, 1e-5],
    "space.wavelet": ["bior2.2", "nonsense"],
    "space.kind": ["latent"],
    "data.image_size": [0, 33, [32, 32], [32, 32, 31], "big", -32, True],
    "data.intensity": ["hounsfield"],
    "data.window": [[1, 1], [float("-inf"), 0.0]],
    "data.crop_margin": [0.6],
    "data.cache": ["float16"],
    "train.steps": [0, "many", None, True],
    "train.batch_size": [0, 1.5],
    "train.accumulate": [3, 0],
    "train.lr": [0, -1e-4, 1.0, float("inf"), "1e-4x", [1e-4]],
    "train.weight_decay": [-1, 1],
    "train.clip_norm": [-1, float("inf")],
    "train.ema": [1.0],
    "train.precision": ["fp16"],
    "train.checkpointing": ["maybe"],
    "train.seed": [-1, 2**31],
    "train.keep": [1],
    "train.keep_every": [7],
    "sample.steps": [0, 1001],
    "sample.kind": ["magic"],
    "description": [3],
    "model": [3],
    "nonsense": [{}],
}  # fmt: skip


@pytest.mark.parametrize(("path", "value"), [(p, v) for p, values in MUTATIONS.items() for v in values], ids=str)
def test_a_bad_value_is_refused_by_its_path(path: str, value: Any) -> None:
    tables = {k: dict(v) if isinstance(v, dict) else v for k, v in BASE.items()}
    table, dot, key = path.partition(".")
    if dot:
        tables.setdefault(table, {})[key] = value
    else:
        tables[table] = value
    with pytest.raises(ConfigError, match=path) as caught:
        from_dict(tables)
    assert len(str(caught.value).splitlines()) <= 4


def test_all_problems_are_listed_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve("tiny", sets=["train.lr=-1", "model.groups=5", "sample.stepz=3"])
    assert all(path in str(caught.value) for path in ("train.lr", "model.groups", "sample.stepz"))


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from(["haar", "unet", "bf16"])
)
values = st.one_of(scalars, st.lists(scalars, max_size=4), st.dictionaries(st.text(max_size=4), scalars, max_size=2))
paths = st.sampled_from([(table, key) for table, keys in BASE.items() if isinstance(keys, dict) for key in keys])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.one_of(paths, st.tuples(st.sampled_from(list(TABLES)), st.text(max_size=6))), values), max_size=4
    )
)
def test_mutated_presets_are_valid_or_refused(changes: list[tuple[tuple[str, str], Any]]) -> None:
    tables = {k: dict(v) if isinstance(v, dict) else v for k, v in BASE.items()}
    for (table, key), value in changes:
        tables.setdefault(table, {})[key] = value
    try:
        preset = from_dict(tables)
    except ConfigError:
        return
    assert from_dict(tomllib.loads(to_toml(preset.to_dict()))) == preset  # what is accepted survives its own file


@settings(max_examples=100, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.text(max_size=200).map(str.encode),
        st.text("[]{}=.\"'\n1ae#", max_size=80).map(str.encode),
    )
)
def test_any_bytes_are_read_or_refused_with_the_file_named(tmp_path_factory: Any, content: bytes) -> None:
    path = Path(tmp_path_factory.getbasetemp()) / "fuzz.toml"
    path.write_bytes(content)
    try:
        resolve(str(path))
    except ConfigError as error:
        assert "fuzz.toml" in str(error) or "configuration" in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a =", "end of doc|line 1"),
        (b"a = 1\na = 2\n", "line 2"),
        (b"\xff\xfe", "not UTF-8"),
        (b"#" * (2**20 + 1), "1 MiB"),
        (b"a = " + b"[" * 10_000, "nested too deeply|not valid"),
        (b"a = " + b"9" * 5000, "not valid"),
    ],
    ids=["cut", "twice", "bytes", "large", "deep", "digits"],
)
def test_files_that_are_no_configuration(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=reason):
        read_toml(tmp_path / "a.toml")
    with pytest.raises(ConfigError, match="no preset file"):
        resolve(str(tmp_path / "b.toml"))


@pytest.mark.parametrize("text", ["[" * 5000, "9" * 5000, "1\nb = 2", "a b", "'", "2020-01-01"], ids=lambda t: t[:8])
def test_values_of_set_are_toml_or_text(text: str) -> None:
    with pytest.raises(ConfigError, match=r"train\.lr"):
        resolve("tiny", sets=[f"train.lr={text}"])
    assert config.parse_value("1_000") == 1000
    assert config.parse_value("[1, 2]") == [1, 2]
    assert config.parse_value("t1n") == "t1n"


@pytest.mark.parametrize("name", preset_names())
def test_shipped_presets_build_and_survive_their_own_file(name: str) -> None:
    preset = resolve(name).preset
    with torch.device("meta"):
        network = preset.network()
    assert sum(p.numel() for p in network.parameters()) > 10_000
    assert preset.name == name
    assert preset.description
    assert from_dict(tomllib.loads(to_toml(preset.to_dict()))) == preset
    assert from_dict(preset.to_dict()).sha256 == preset.sha256


def test_defaults_alone_are_a_preset() -> None:
    assert from_dict({"name": "x"}) == Preset(name="x")
    with pytest.raises(ConfigError, match="name: is missing"):
        from_dict({})


def prepared_by(folder: Path, command: str, **protocol: str) -> Path:
    """A folder with the run.json that `wdm preprocess` writes."""
    folder.mkdir(parents=True)
    text = json.dumps({"protocol": {"command": command, **protocol}, "versions": {}, "commit": None})
    (folder / "run.json").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("command", "protocol", "wanted"),
    [
        ("lidc", {"modality": "ct", "intensity": "fixed-window"}, ("lidc-idri", "fixed-window", None)),
        ("lidc", {"modality": "ct", "intensity": "paper"}, ("lidc-idri", "paper", None)),
        ("nifti", {"modality": "ct", "intensity": "fixed-window"}, ("nifti", "fixed-window", "ct")),
        ("nifti", {"modality": "mr", "intensity": "paper"}, ("nifti", "paper", "mr")),
        ("brats", {"modality": "mr", "intensity": "paper"}, ("brats", "paper", None)),
        ("mr", {"modality": "mr", "intensity": "paper"}, ("nifti", "paper", "mr")),
    ],
)
def test_what_preprocess_wrote_is_the_default_of_what_reads_it(
    tmp_path: Path, command: str, protocol: dict[str, str], wanted: tuple[str, str, str | None]
) -> None:
    folder = prepared_by(tmp_path / "data", command, **protocol)
    resolved = resolve("ours_unet_128", options={"data.dir": str(folder)})
    data = resolved.preset.data
    assert (data.kind, data.intensity, getattr(data, "modality", None)) == wanted
    assert resolved.doubts == ()
    changed = {"data.kind": ("brats", data.kind), "data.intensity": ("paper", data.intensity)}
    for key, (before, now) in changed.items():
        assert (before != now) == any(text.startswith(f"{key} is {now}") for text in resolved.notes), resolved.notes
        assert resolved.sources[key] == f"folder {folder}"


def test_what_is_asked_for_goes_before_what_the_folder_states_and_that_is_said(tmp_path: Path) -> None:
    folder = prepared_by(tmp_path / "data", "nifti", modality="ct", intensity="fixed-window")
    options = {"data.dir": str(folder)}
    resolved = resolve("tiny", sets=["data.intensity=paper"], options=options)
    assert resolved.preset.data.intensity == "paper"
    assert resolved.preset.data.is_ct
    assert "with fixed-window" in " ".join(resolved.doubts)
    lidc = resolve("tiny", options=options | {"data.kind": "lidc-idri"}).preset.data
    assert (lidc.kind, lidc.intensity) == ("lidc-idri", "fixed-window")
    brats = resolve("tiny", options=options | {"data.kind": "brats"}).preset.data
    assert (brats.kind, brats.intensity) == ("brats", "paper")  # which has no HU
    stored = resolve("tiny", options=options | {"data.intensity": "paper"}).preset.to_dict()
    assert resolve(stored).preset.data.intensity == "paper"  # a checkpoint knows what it was trained on


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"protocol": 3}', '{"protocol": {"command": "train"}}', '{"preset": {}}']
)
def test_another_run_json_states_nothing_of_a_folder(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    plain = resolve("tiny", options={"data.dir": "elsewhere"}).preset.data
    found = resolve("tiny", options={"data.dir": str(tmp_path)})
    assert dataclasses.replace(found.preset.data, dir="elsewhere") == plain
    assert found.notes == found.doubts == ()
