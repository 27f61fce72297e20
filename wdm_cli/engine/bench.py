"""How fast a preset runs on a device, and how far that is from what the device can do.

Every figure is the median of repeated runs, with the floating-point operations or the bytes that it needs. The
machine's own limits, a large matrix product and a large copy, are measured in the same run.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from wdm_cli.engine.device import as_denoiser, synchronize
from wdm_cli.engine.diffusion import loss, make_schedule
from wdm_cli.engine.preset import Preset
from wdm_cli.engine.train import Trainer, Volumes

MATRIX_SIDE = {"cpu": 2048, "cuda": 8192}
COPY_BYTES = 2**28
REPEATS = 5


@dataclass(frozen=True)
class Timing:
    """One figure: median seconds, the least and the most, and what had to be done in them.

    flops: floating-point operations, a multiplication and an addition counted as two; bytes: the least that must be
    read and written. 0 where that limit is not the one that counts.
    """

    name: str
    seconds: float
    least: float
    most: float
    flops: float = 0.0
    bytes: float = 0.0


class InMemory:
    """Stands in for a data set: one volume [D, H, W] in [−1, 1], without any loading."""

    names = ("noise",)
    affine = np.eye(4)

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.volume = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> np.ndarray[Any, Any]:
        return self.volume


def timed(
    name: str, work: Callable[[], Any], device: torch.device, repeats: int = REPEATS, flops: float = 0, bytes: float = 0
) -> Timing:
    """Run `work` once to warm up and `repeats` times to measure."""
    work()
    taken = []
    for _ in range(repeats):
        synchronize(device)
        started = time.perf_counter()
        work()
        synchronize(device)
        taken.append(time.perf_counter() - started)
    return Timing(name, statistics.median(taken), min(taken), max(taken), flops, bytes)


def bench(preset: Preset, device: torch.device, steps: int, cached: Volumes | None = None) -> Iterator[Timing]:
    """Limits of the device, transform, sampling step and training step, in that order.

    Args:
        steps: how many sampling and training steps are timed.
        cached: volumes to train from once more, this time with their loading.
    """
    yield from limits(preset, device)
    yield from transforms(preset, device)
    per_pass, per_step = flops_of(preset)
    yield sampling_step(preset, device, steps, per_pass)
    yield training_step("training step", preset, device, steps, InMemory(preset.data.shape), per_step)
    if cached is not None:
        yield training_step("training step with loading", preset, device, steps, cached, per_step)


def limits(preset: Preset, device: torch.device) -> Iterator[Timing]:
    """The largest rate of arithmetic in the preset's precision, and of copying."""
    dtype = torch.bfloat16 if preset.train.precision == "bf16" else torch.float32
    side = MATRIX_SIDE[device.type]
    matrix = torch.randn(side, side, device=device).to(dtype)
    yield timed(f"matrix product {side}², {preset.train.precision}", lambda: matrix @ matrix, device, flops=2 * side**3)
    source = torch.zeros(COPY_BYTES // 4, device=device)
    target = torch.empty_like(source)
    yield timed("copy of 256 MiB", lambda: target.copy_(source), device, bytes=2 * COPY_BYTES)


def transforms(preset: Preset, device: torch.device) -> Iterator[Timing]:
    """One volume into the space of the network and back."""
    volume, space = torch.randn(1, 1, *preset.data.shape, device=device), preset.space
    moved = 2 * 4 * volume.numel()
    yield timed("transform", lambda: space.encode(volume), device, bytes=moved)
    x = space.encode(volume)
    yield timed("inverse transform", lambda: space.decode(x), device, bytes=moved)


@torch.inference_mode()
def sampling_step(preset: Preset, device: torch.device, steps: int, flops: float) -> Timing:
    """One pass of the network and the clamping of what it gives, for one volume in the precision of training."""
    network, space = preset.network().to(device).eval(), preset.space
    denoise = as_denoiser(network, preset.train.precision)
    x_t = torch.randn(1, space.channels, *space.sides(preset.data.shape), device=device)
    t = torch.tensor([preset.diffusion.steps // 2], device=device)
    return timed("sampling step", lambda: space.clamp(denoise(x_t, t)), device, steps, flops=flops)


def training_step(
    name: str, preset: Preset, device: torch.device, steps: int, volumes: Volumes, flops: float
) -> Timing:
    """A whole optimizer step as `wdm train` takes it, timed from batch to batch."""
    train = dataclasses.replace(preset.train, steps=steps + 2)
    taking = Trainer(dataclasses.replace(preset, train=train), volumes, device).run()
    return timed(name, lambda: next(taking), device, steps, flops=flops)


def flops_of(preset: Preset) -> tuple[float, float]:
    """Floating-point operations of one pass of the network for one volume, and of one training step.

    Counted over the matrix products and convolutions, forward and backward, on the meta device.
    """
    with torch.device("meta"):
        network = preset.network()
        volume = torch.empty(1, 1, *preset.data.shape)
        t = torch.zeros(1, dtype=torch.int64)
    schedule = make_schedule(preset.diffusion.schedule, preset.diffusion.steps)
    with FlopCounterMode(display=False) as counter:
        x0, noise = preset.space.encode(volume), preset.space.encode(volume)
        losses = loss(network, x0, noise, t, schedule)
        forward = counter.get_total_flops()
        losses.mean().backward()  # type: ignore[no-untyped-call]
    return float(forward), float(counter.get_total_flops() * preset.train.batch_size)


def cached_noise(preset: Preset, folder: Path, count: int = 4) -> Volumes:
    """A few volumes in a cache under `folder`, made and read as a training's are."""
    from wdm_cli.engine.data.cache import VolumeCache
    from wdm_cli.engine.data.nifti import Nifti
    from wdm_cli.engine.data.volume import write_nifti

    for index in range(count):
        noise = np.random.default_rng(index).integers(0, 1000, preset.data.shape, dtype=np.int16)
        write_nifti(folder / "source" / f"noise_{index}.nii.gz", noise, np.eye(4))
    cache = VolumeCache(Nifti(image_size=preset.data.image_size), folder / "source", folder / "cache")
    for _ in cache.build():
        pass
    return cache
