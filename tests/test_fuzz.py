"""Damaged and invented weights files: read, or refused as a CheckpointError; nothing else happens."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save as to_safetensors

from wdm_cli.engine.checkpoint import build_network, read
from wdm_cli.engine.errors import CheckpointError, ConfigError
from wdm_cli.engine.preset import from_dict

PRESET = from_dict({
    "name": "x",
    "model": {"kind": "unet", "base_channels": 2, "channel_multipliers": [1], "res_blocks": 1, "groups": 1},
    "data": {"kind": "nifti", "image_size": 2},
})  # fmt: skip
STATE = PRESET.network().state_dict()
BUFFER = io.BytesIO()
torch.save(dict(STATE), BUFFER)
SOUND = BUFFER.getvalue()
edits = st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 255)), min_size=1, max_size=4)
FEW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
MANY = settings(FEW, max_examples=3000)


def edited(data: bytes, changes: list[tuple[int, int]]) -> bytes:
    result = bytearray(data)
    for where, byte in changes:
        result[where % len(result)] = byte
    return bytes(result)


def load(path: Path, data: bytes) -> None:
    """Read and use a file of these bytes."""
    path.write_bytes(data)
    try:
        network, _ = build_network(read(path), PRESET)
    except (CheckpointError, ConfigError) as error:
        assert str(path) in error.what  # noqa: PT017
    else:
        assert all(torch.isfinite(p).all() for p in network.parameters())


def with_pickle(changes: list[tuple[int, int]]) -> bytes:
    """The archive with a changed pickle and fitting checksums, so that the unpickler meets it."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(SOUND)) as old, zipfile.ZipFile(out, "w") as new:
        for entry in old.infolist():
            data = old.read(entry)
            new.writestr(entry.filename, edited(data, changes) if entry.filename.endswith("data.pkl") else data)
    return out.getvalue()


def check_bytes(path: Path, changes: list[tuple[int, int]], length: float) -> None:
    load(path / "a.pt", edited(SOUND, changes)[: int(len(SOUND) * length)])


def check_pickle(path: Path, changes: list[tuple[int, int]]) -> None:
    load(path / "a.pt", with_pickle(changes))


def check_safetensors(path: Path, changes: list[tuple[int, int]], header: bool) -> None:
    data = to_safetensors(dict(STATE), {"preset": "{}"})
    end = 8 + int.from_bytes(data[:8], "little") if header else len(data)
    load(path / "a.safetensors", edited(data[:end], changes) + data[end:])


lengths = st.sampled_from([1.0, 1.0, 0.99, 0.5])


def test_the_sound_file_is_read(tmp_path: Path) -> None:
    load(tmp_path / "a.pt", SOUND)
    load(tmp_path / "b.safetensors", to_safetensors(dict(STATE)))
    (tmp_path / "c.pt").write_bytes(SOUND)
    network, _ = build_network(read(tmp_path / "c.pt"), PRESET)
    assert all(torch.equal(network.state_dict()[name], STATE[name]) for name in STATE)


@FEW
@given(edits, lengths)
def test_changed_bytes(tmp_path: Path, changes: list[tuple[int, int]], length: float) -> None:
    check_bytes(tmp_path, changes, length)


@FEW
@given(edits)
def test_changed_pickles(tmp_path: Path, changes: list[tuple[int, int]]) -> None:
    check_pickle(tmp_path, changes)


@FEW
@given(edits, st.booleans())
def test_changed_safetensors(tmp_path: Path, changes: list[tuple[int, int]], header: bool) -> None:
    check_safetensors(tmp_path, changes, header)


@FEW
@given(st.binary(max_size=300))
def test_any_bytes(tmp_path: Path, data: bytes) -> None:
    load(tmp_path / "a.pt", data)
    load(tmp_path / "a.safetensors", data)


@pytest.mark.slow
@MANY
@given(edits, lengths, st.booleans())
def test_all_of_it_for_longer(tmp_path: Path, changes: list[tuple[int, int]], length: float, header: bool) -> None:
    check_bytes(tmp_path, changes, length)
    check_pickle(tmp_path, changes)
    check_safetensors(tmp_path, changes, header)
