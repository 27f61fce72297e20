"""Sampling: noise -> sampler -> volumes. Sample i depends on (seed + i) alone."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from wdm_cli.engine.device import Precision, as_denoiser, memory_errors
from wdm_cli.engine.diffusion import make_schedule
from wdm_cli.engine.draw import Draw
from wdm_cli.engine.errors import CheckpointError, OutOfMemoryError
from wdm_cli.engine.models.blocks import Network
from wdm_cli.engine.preset import Preset


@dataclass(frozen=True)
class Denoised:
    """Progress within a batch: `step` of `steps` are done for these indices."""

    indices: tuple[int, ...]
    step: int
    steps: int


@dataclass(frozen=True)
class Sample:
    """A finished volume [D, H, W], float32 in [−1, 1]; seconds is its share of the batch's time."""

    index: int
    seed: int
    volume: np.ndarray
    seconds: float


@torch.inference_mode()
def generate(
    network: Network,
    preset: Preset,
    indices: Sequence[int],
    *,
    seed: int = 0,
    batch_size: int = 1,
    precision: Precision = "float32",
) -> Iterator[Denoised | Sample]:
    """Make the samples of these indices with `preset.sample`, on the network's device.

    Each sample draws from a generator of its own, seeded with seed + index: first x_T [C, d, h, w], then
    one noise a step. On the CPU, in float32 and one at a time, that is the official code's stream.

    Raises:
        CheckpointError: the network gives NaN or infinity. OutOfMemoryError: the device is too small.
    """
    device = next(network.parameters()).device
    diffusion, space = preset.diffusion, preset.space
    schedule = make_schedule(diffusion.schedule, diffusion.steps, diffusion.beta_start, diffusion.beta_end)
    for start in range(0, len(indices), batch_size):
        batch = tuple(indices[start : start + batch_size])
        began = time.perf_counter()
        with memory_errors(lambda reason: out_of_memory(preset, batch_size, reason)):
            draw = Draw([seed + index for index in batch], device)
            x = draw.normal(space.channels, *space.sides(preset.data.shape))
            steps = preset.sample.run(as_denoiser(network, precision), x, schedule, space.clamp, draw.like)
            for done, x_t in enumerate(steps, 1):
                x = x_t
                yield Denoised(batch, done, preset.sample.steps)
            volumes = space.decode(x).clamp(-1, 1)[:, 0].cpu().numpy()
        if not np.isfinite(volumes).all():
            raise CheckpointError(
                f"samples {', '.join(map(str, batch))}: the network gave NaN or infinity",
                hint="try --precision float32, or weights of another step",
            )
        seconds = (time.perf_counter() - began) / len(batch)
        for index, volume in zip(batch, volumes, strict=True):
            yield Sample(index, seed + index, volume, seconds)


def out_of_memory(preset: Preset, batch_size: int, reason: str) -> OutOfMemoryError:
    """The error of a device that is too small to sample."""
    size = "×".join(map(str, preset.data.shape))
    return OutOfMemoryError(
        f"out of memory: {preset.name} at {size}, {batch_size} volume{'s' * (batch_size > 1)} at a time",
        why=reason,
        hint=f"--batch-size {max(1, batch_size // 2)}, --precision bf16, or --device cpu",
    )
