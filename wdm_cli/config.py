"""Configuration in layers, with the source of every value.

default < preset < data folder < --config file < WDM_TABLE__KEY < --set table.key=value < named option. The data folder
speaks if `wdm preprocess` made it: its run.json states layout and intensities. WDM_DATA_DIR is short for WDM_DATA__DIR.
The layers are merged as plain tables and validated once (`engine.preset.from_dict`).
"""

from __future__ import annotations

import copy
import dataclasses
import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from wdm_cli.engine.data.prepared import stated
from wdm_cli.engine.errors import ConfigError, DataError
from wdm_cli.engine.files import printable, read_text
from wdm_cli.engine.preset import TABLES, Preset, did_you_mean, from_dict, of_version_0_1, table_class

MAX_CONFIG_BYTES = 2**20
Tables = dict[str, Any]


@dataclass(frozen=True)
class Resolved:
    """A validated preset and, for every key path (`train.lr`), the name of the layer that set it."""

    preset: Preset
    sources: dict[str, str]
    notes: tuple[str, ...] = ()
    """What the data folder decided."""
    doubts: tuple[str, ...] = ()
    """What was decided against what the data folder states."""

    def rows(self) -> list[tuple[str, Any, str]]:
        """(path, value, source) of every key, in reading order."""
        values = self.preset.to_dict()
        rows: list[tuple[str, Any, str]] = []
        for key, value in values.items():
            if isinstance(value, dict):
                ordered = sorted(value.items(), key=lambda item: item[0] != "kind")
                rows += [(f"{key}.{k}", v, self.sources.get(f"{key}.{k}", "default")) for k, v in ordered]
            else:
                rows.append((key, value, self.sources.get(key, "default")))
        return rows


def preset_folder() -> Path:
    """Where the presets that come with wdm lie: inside the package, or beside it in a checkout."""
    packaged = Path(str(resources.files("wdm_cli"))) / "presets"
    return packaged if packaged.is_dir() else packaged.parents[1] / "presets"


def preset_names() -> list[str]:
    return sorted(path.stem for path in preset_folder().glob("*.toml"))


def preset_path(name_or_path: str) -> Path:
    """The file of a preset by name, or a user's own file by its path; ConfigError if there is none."""
    if name_or_path.endswith(".toml") or os.sep in name_or_path:
        path = Path(expand_home(name_or_path))
        if not path.is_file():
            raise ConfigError(f"no preset file {path}", hint="`wdm presets list` shows the presets by name")
        return path
    names = preset_names()
    if name_or_path not in names:
        raise ConfigError(
            f"unknown preset {name_or_path!r}{did_you_mean(name_or_path, names)}",
            hint=f"choose one of {', '.join(names)}, or give the path of a .toml file",
        )
    return preset_folder() / f"{name_or_path}.toml"


def resolve(
    preset: str | Tables,
    *,
    config_file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    sets: Iterable[str] = (),
    options: Mapping[str, Any] | None = None,
) -> Resolved:
    """Merge all layers and validate.

    Args:
        preset: a preset's name or path, or tables (those stored in a checkpoint).
        environment: usually os.environ; variables WDM_TABLE__KEY are read, e.g. WDM_TRAIN__LR.
        sets: "table.key=value" with TOML values; text needs no quotes.
        options: key path -> value of the command's named options; None values are left out.

    Raises:
        ConfigError: a file cannot be read, a key is unknown, a value does not fit.
    """
    if isinstance(preset, str):
        path = preset_path(preset)
        layers = [(f"preset {path.stem}", read_toml(path))]
        layers[0][1].setdefault("name", path.stem)
    else:
        layers = [("checkpoint", preset)]
    if config_file is not None:
        layers.append((f"file {config_file}", read_toml(config_file)))
    layers += [(f"environment {name}", tables) for name, tables in _from_environment(environment or {})]
    layers += [(f"--set {text.partition('=')[0].strip()}", _from_set(text)) for text in sets]
    for key, value in (options or {}).items():
        if value is not None:
            layers.append(("option", _nest(key, value)))

    merged, sources = _laid(layers)
    if (folder := _of_folder(merged, sources)) is None:
        return Resolved(from_dict(merged, origin="configuration"), sources)
    layers.insert(1, folder)
    before, (merged, sources) = merged, _laid(layers)
    return Resolved(from_dict(merged, origin="configuration"), sources, *_told(folder, before, merged))


def _laid(layers: Iterable[tuple[str, Tables]]) -> tuple[Tables, dict[str, str]]:
    """All layers in one, and where each value is from."""
    merged: Tables = {}
    sources: dict[str, str] = {}
    for source, tables in layers:
        _merge(merged, sources, copy.deepcopy(of_version_0_1(tables)), source)
    if isinstance(data := merged.get("data"), dict) and isinstance(data.get("dir"), str):
        data["dir"] = expand_home(data["dir"])
    return merged, sources


def _of_folder(merged: Tables, sources: dict[str, str]) -> tuple[str, Tables] | None:
    """The layer of the data folder: what `wdm preprocess` states of it. A checkpoint's settings are not asked twice."""
    data = merged.get("data")
    if not isinstance(data, dict):
        return None
    asked = data.get("kind", TABLES["data"][0].kind)
    usual = next((cls.dir for cls in TABLES["data"] if cls.kind == asked), "")
    named = data.get("dir", usual)
    if sources.get("data.dir") == "checkpoint" or not isinstance(named, str):
        return None
    found = stated(Path(named)) if named else None
    if found is None:
        return None
    chosen = not sources.get("data.kind", "preset ").startswith("preset ")
    kind = asked if chosen else found.kind
    return f"folder {named}", {"data": {"kind": kind, "dir": named} | found.settings(kind)}


def _told(folder: tuple[str, Tables], before: Tables, merged: Tables) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Where the folder changed what the preset says, and where something else than it states was asked for."""
    source, tables = folder
    notes, doubts = [], []
    for key, value in tables["data"].items():
        was, now = before["data"].get(key), merged["data"].get(key)
        if now != value:
            doubts.append(f"data.{key} is {now}, but wdm preprocess made the {source} with {value}")
        elif key != "dir" and was != value and (was, value) != (None, "paper"):
            notes.append(f"data.{key} is {value}, as wdm preprocess made the {source}")
    return tuple(notes), tuple(doubts)


def expand_home(path: str) -> str:
    """A path with the home folder in place of a leading ~ or ~user, which shells expand at the start of a word only.

    Raises:
        ConfigError: there is no such user, or no home.
    """
    whole = os.path.expanduser(path) if path.startswith("~") else path  # noqa: PTH111 — not before text that is none
    if whole.startswith("~"):
        raise ConfigError(
            f"{path}: {path.partition(os.sep)[0]} is no home folder",
            why="a path that begins with ~ is one below a user's home",
            hint=f"./{path} is a file of that name in this folder",
        )
    return whole


def read_toml(path: Path) -> Tables:
    """A TOML file as plain tables.

    Raises:
        ConfigError: it cannot be read or parsed (with line and column), or is over 1 MiB.
    """
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ConfigError(f"{path}: larger than 1 MiB, which is no configuration file")
        return tomllib.loads(read_text(path))
    except DataError as error:
        raise ConfigError(error.what, hint=error.hint) from error
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except RecursionError:
        raise ConfigError(f"{path}: not a configuration: nested too deeply") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from error
    except ValueError as error:  # TOMLDecodeError, or a number with thousands of digits
        raise ConfigError(f"{path}: not valid TOML: {error}") from error


def to_toml(tables: Tables) -> str:
    """Plain tables as TOML; the inverse of `read_toml` for what a preset can hold."""
    lines = [f"{key} = {_toml_value(value)}" for key, value in tables.items() if not isinstance(value, dict)]
    for key, table in tables.items():
        if isinstance(table, dict):
            lines += ["", f"[{key}]"] + [f"{k} = {_toml_value(v)}" for k, v in table.items()]
    return "\n".join(lines) + "\n"


def _toml_value(value: Any) -> str:
    import json

    if isinstance(value, list):
        return f"[{', '.join(_toml_value(item) for item in value)}]"
    value = printable(value) if isinstance(value, str) else value
    return json.dumps(value, ensure_ascii=False)  # TOML agrees with JSON on text, numbers and booleans


def _merge(merged: Tables, sources: dict[str, str], tables: Tables, source: str) -> None:
    """Lay one layer over the others."""
    for table, values in tables.items():
        if not isinstance(values, dict) or not isinstance(merged.get(table, {}), dict):
            merged[table] = values
            sources[table] = source
            continue
        below = merged.setdefault(table, {})
        if table in TABLES and isinstance(values.get("kind"), str):
            _switch_kind(below, sources, table, values["kind"])
        for key, value in values.items():
            below[key] = value
            sources[f"{table}.{key}"] = source


def _switch_kind(below: Tables, sources: dict[str, str], table: str, kind: str) -> None:
    """Make way for another kind: the preset's keys that it does not have go, and those that mean something else
    under each kind: the folder of data, all that a sampler is set to.

    What the user set stays, and is refused later if the new kind cannot have it.
    """
    default = getattr(TABLES[table][0], "kind", kind)
    if below.get("kind", default) == kind:
        return
    known = {field.name for field in dataclasses.fields(table_class(table, kind))} - {"dir"}
    for key in [key for key in below if key not in known or table == "sample"]:
        if sources.get(f"{table}.{key}", "").startswith(("preset ", "checkpoint")):
            del below[key], sources[f"{table}.{key}"]


def _from_environment(environment: Mapping[str, str]) -> list[tuple[str, Tables]]:
    """WDM_TRAIN__LR=1e-4 sets train.lr; names without a double underscore are not configuration."""
    found = []
    for name in sorted(environment):
        if name == "WDM_DATA_DIR":
            found.append((name, _nest("data.dir", environment[name])))
        elif name.startswith("WDM_") and "__" in name:
            path = name.removeprefix("WDM_").lower().replace("__", ".")
            found.append((name, _nest(path, parse_value(environment[name]))))
    return found


def _from_set(text: str) -> Tables:
    path, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--set {text!r}: expected table.key=value", hint="for example --set train.lr=2e-5")
    return _nest(path.strip(), parse_value(value.strip()))


def parse_value(text: str) -> Any:
    """A TOML value; what is not one is text, so that quotes are not needed."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def _nest(path: str, value: Any) -> Tables:
    table, dot, key = path.partition(".")
    if not dot:
        if table in TABLES:
            raise ConfigError(f"{table}: is a table; set one of its keys, e.g. {table}.{_first_key(table)}=…")
        return {table: value}
    return {table: {key: value}}


def _first_key(table: str) -> str:
    return dataclasses.fields(table_class(table))[-1].name


def said_by_user(
    config_file: Path | None = None, environment: Mapping[str, str] | None = None, sets: Iterable[str] = ()
) -> Tables:
    """What a configuration file, the environment and --set say, over no preset and not validated."""
    layers = [read_toml(config_file)] if config_file is not None else []
    layers += [tables for _, tables in _from_environment(environment or {})] + [_from_set(text) for text in sets]
    merged: Tables = {}
    for tables in layers:
        _merge(merged, {}, tables, "")
    return merged
