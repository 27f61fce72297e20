"""Samples: the official stream, and each one independent of everything but its own seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from golden.recipe import digest, golden_state_dict
from small import small

from wdm_cli.engine.errors import CheckpointError, OutOfMemoryError
from wdm_cli.engine.generate import Denoised, Sample, generate
from wdm_cli.engine.preset import Preset, from_dict
from wdm_cli.engine.spaces import Wavelet


def network_of(preset: Preset) -> Any:
    network = preset.network().eval()
    draw = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=draw)
    return network


@pytest.fixture(scope="module")
def model() -> tuple[Any, Preset]:
    preset = small(data__image_size=16, sample__steps=5)
    return network_of(preset), preset


def make(model: Any, indices: Any, **options: Any) -> dict[int, np.ndarray]:
    return {r.index: r.volume for r in generate(*model, indices, **options) if isinstance(r, Sample)}


def test_the_stream_is_the_official_one(golden: dict[str, Any], official_keys: dict[str, Any]) -> None:
    """seed 42 of the official script is sample 42 of seed 0, and sample 0 of seed 42."""
    preset = from_dict({
        "name": "golden",
        "model": {"kind": "unet", "base_channels": 32, "channel_multipliers": [1, 2]},
        "data": {"kind": "brats", "image_size": 32},
        "sample": {"kind": "ddpm", "steps": 25},
    })  # fmt: skip
    network = preset.network().eval()
    network.load_state_dict(golden_state_dict(official_keys["unet_c32_m12"]))
    expected = golden["sample/unet_c32_m12/size32/ddpm25/seed42"]
    volume = make((network, preset), [0], seed=42)[0]
    found = digest((torch.from_numpy(volume) + 1) / 2)
    assert max(abs(a - b) for a, b in zip(found["value"], expected["value"], strict=True)) <= 1e-3
    assert found["mean"] == pytest.approx(expected["mean"], abs=1e-3)


def test_a_sample_depends_on_its_seed_alone(model: Any) -> None:
    alone = {i: make(model, [i])[i] for i in range(6)}
    for indices, batch in (([5, 2, 0], 1), (range(6), 1)):
        assert all(np.array_equal(volume, alone[i]) for i, volume in make(model, indices, batch_size=batch).items())
    for indices, batch in ((range(6), 4), ([3, 1, 4], 3), (range(6), 6)):
        found = make(model, indices, batch_size=batch)
        assert max(np.abs(volume - alone[i]).max() for i, volume in found.items()) <= 1e-5
    assert np.array_equal(make(model, [1], seed=3)[1], alone[4])  # seed + index
    assert np.abs(alone[0] - alone[1]).max() > 0.1


def test_bf16_is_near_float32(model: Any) -> None:
    rough, plain = make(model, [0], precision="bf16")[0], make(model, [0])[0]
    assert 0 < np.abs(rough - plain).mean() < 0.05


def test_what_is_yielded(model: Any) -> None:
    records = list(generate(*model, range(3), seed=7, batch_size=2))
    progress = [(r.indices, r.step, r.steps) for r in records if isinstance(r, Denoised)]
    assert progress == [((0, 1), i, 5) for i in range(1, 6)] + [((2,), i, 5) for i in range(1, 6)]
    samples = [r for r in records if isinstance(r, Sample)]
    assert [(s.index, s.seed) for s in samples] == [(0, 7), (1, 8), (2, 9)]
    for sample in samples:
        assert sample.volume.shape == (16, 16, 16)
        assert sample.volume.dtype == np.float32
        assert np.abs(sample.volume).max() <= 1
        assert sample.seconds > 0


def test_the_caller_keeps_its_random_stream_and_gradients(model: Any) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    make(model, [0])
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.is_grad_enabled()


def test_a_network_that_gives_nan_is_refused(model: Any) -> None:
    _, preset = model
    broken = network_of(preset)
    with torch.no_grad():
        next(iter(broken.out.parameters())).fill_(float("nan"))
    with pytest.raises(CheckpointError, match="samples 4: the network gave NaN"):
        make((broken, preset), [4])


def test_too_little_memory(model: Any, monkeypatch: Any) -> None:
    def fail(*args: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB")

    monkeypatch.setattr(Wavelet, "clamp", fail)
    with pytest.raises(OutOfMemoryError, match=r"small at 16×16×16, 4 volumes(.|\n)*3\.00 GiB(.|\n)*--batch-size 2"):
        make(model, range(4), batch_size=4)
