"""What every entry of a registry promises; a new one is tested by being registered."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from wdm_cli.engine.data import DATASETS
from wdm_cli.engine.metrics import METRICS
from wdm_cli.engine.models import MODELS
from wdm_cli.engine.preset import Preset, from_dict
from wdm_cli.engine.samplers import SAMPLERS

TABLES = {"model": MODELS, "data": DATASETS, "sample": SAMPLERS}
REGISTRIES: dict[str, tuple[type[Any], ...]] = {**TABLES, "metric": METRICS}
ENTRIES = [pytest.param(table, cls, id=cls.__name__) for table, classes in TABLES.items() for cls in classes]


@pytest.mark.parametrize("registry", REGISTRIES)
def test_kinds_are_distinct_words(registry: str) -> None:
    kinds = [cls().kind for cls in REGISTRIES[registry]]
    assert len(set(kinds)) == len(kinds)
    assert all(kind == kind.lower() and " " not in kind for kind in kinds)


@pytest.mark.parametrize("cls", [cls for classes in REGISTRIES.values() for cls in classes])
def test_settings_are_frozen_documented_and_have_valid_defaults(cls: type[Any]) -> None:
    settings = cls()
    assert dataclasses.is_dataclass(settings)
    assert cls.__doc__
    assert not cls.__doc__.startswith(f"{cls.__name__}(")  # the one that dataclass writes by itself
    field = dataclasses.fields(settings)[0].name if dataclasses.fields(settings) else "kind"
    with pytest.raises((dataclasses.FrozenInstanceError, AttributeError)):
        setattr(settings, field, 0)


@pytest.mark.parametrize(("table", "cls"), ENTRIES)
def test_a_preset_of_any_entry_survives_json(table: str, cls: type[Any]) -> None:
    size = {"data": {"kind": cls.kind, "image_size": 128}} if table == "data" else {}
    preset = from_dict({"name": "x", table: {"kind": cls.kind}, **size})
    assert type(getattr(preset, table)) is cls
    assert from_dict(json.loads(json.dumps(preset.to_dict()))) == preset


@pytest.mark.parametrize(("table", "cls"), ENTRIES)
def test_unknown_keys_and_wrong_types_are_refused(table: str, cls: type[Any]) -> None:
    from wdm_cli.engine.errors import ConfigError

    names = [f.name for f in dataclasses.fields(cls)]
    with pytest.raises(ConfigError, match=f"{table}.{names[-1]}x"):
        from_dict({"name": "x", table: {"kind": cls.kind, f"{names[-1]}x": 1}})
    for name in names:
        with pytest.raises(ConfigError, match=f"{table}.{name}|{table}.kind"):
            from_dict({"name": "x", table: {"kind": cls.kind, name: {"a": 1}}})


def test_a_preset_names_every_registry_of_settings() -> None:
    fields = {f.name for f in dataclasses.fields(Preset)}
    assert set(TABLES) <= fields
