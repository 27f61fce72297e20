"""Spaces: the way there and back, noise that is white, and settings of version 0.1 in today's tables."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from small import HEADS, small, trainer

from wdm_cli.config import resolve
from wdm_cli.engine.draw import Draw
from wdm_cli.engine.errors import ConfigError
from wdm_cli.engine.generate import Sample, generate
from wdm_cli.engine.preset import from_dict
from wdm_cli.engine.spaces import SPACES, Space, Wavelet

SIDES = (8, 12, 16)


@pytest.mark.parametrize("kind", SPACES)
def test_there_and_back(kind: type[Space]) -> None:
    space, volume = kind(), 2 * torch.rand(2, 1, *SIDES) - 1
    x = space.encode(volume)
    assert x.shape == (2, space.channels, *space.sides(SIDES))
    assert len(space.columns) == space.channels
    torch.testing.assert_close(space.decode(x), volume, atol=1e-6, rtol=0)
    torch.testing.assert_close(
        space.decode(space.clamp(space.encode(3 * volume))), (3 * volume).clamp(-1, 1), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("kind", SPACES)
def test_noise_of_training_is_white_and_a_rows_own(kind: type[Space]) -> None:
    space, cpu = kind(), torch.device("cpu")
    noise = space.noise(Draw([1, 2], cpu), (32, 32, 32))
    assert noise.shape == (2, space.channels, *space.sides((32, 32, 32)))
    count = noise[0].numel()
    assert noise.mean().abs() < 5 / math.sqrt(2 * count)
    assert abs(noise.std() - 1) < 5 / math.sqrt(4 * count)
    assert torch.equal(noise[1:], space.noise(Draw([2], cpu), (32, 32, 32)))


@pytest.mark.parametrize("kind", SPACES)
def test_a_model_trains_and_samples_in_it(kind: type[Space]) -> None:
    tables = small(train__steps=3).to_dict() | {"space": {"kind": kind().kind}}
    preset = from_dict(tables)
    trained = trainer(preset)
    records = list(trained.run())
    assert [len(record.losses) for record in records] == [kind.channels] * 3
    assert records[0].loss == pytest.approx(sum(records[0].losses) / kind.channels)
    made = [r.volume for r in generate(trained.ema, preset, range(2)) if isinstance(r, Sample)]
    assert {volume.shape for volume in made} == {HEADS[0].shape}
    assert all(abs(volume).max() <= 1 for volume in made)


def test_the_wavelet_of_version_0_1_was_a_key_of_diffusion() -> None:
    tables: dict[str, Any] = small().to_dict()
    old = {key: dict(value) if isinstance(value, dict) else value for key, value in tables.items() if key != "space"}
    assert from_dict(old) == small()
    old["diffusion"]["wavelet"] = "db2"
    assert from_dict(old).space == Wavelet(wavelet="db2")
    assert resolve(old, sets=["space.kind=voxel"]).preset.space.kind == "voxel"
    assert resolve("tiny", sets=["diffusion.wavelet=sym4"]).preset.space == Wavelet(wavelet="sym4")
    with pytest.raises(ConfigError, match=r"space\.wavelet"):
        resolve("tiny", sets=["diffusion.wavelet=bior2.2"])


def test_sizes_follow_the_space() -> None:
    """In voxels a network of two levels takes sides that the wavelet would halve once more."""
    tables = small().to_dict()
    tables["data"]["image_size"] = 6
    with pytest.raises(ConfigError, match="multiple of 4"):
        from_dict(tables)
    assert from_dict(tables | {"space": {"kind": "voxel"}}).data.shape == (6, 6, 6)
