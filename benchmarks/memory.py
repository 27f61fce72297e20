"""Peak memory of a forward pass and of training steps on the CPU, beside what `wdm train --dry-run` estimates.

    python benchmarks/memory.py [--preset ours_unet_128] [--set train.checkpointing=true]

Each figure is the peak resident memory of a process of its own, Python and PyTorch included. The training step has
weights, gradients, both moments of AdamW and the EMA; two steps are taken, because the moments appear in the first.
The estimate is of a process that gives freed memory back; `wdm` keeps it where there is plenty.
"""

from __future__ import annotations

import argparse
import multiprocessing
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wdm_cli.config import resolve
from wdm_cli.engine import native
from wdm_cli.engine.device import keep_freed_memory
from wdm_cli.engine.estimate import estimate
from wdm_cli.engine.preset import Preset
from wdm_cli.engine.train import Trainer


class Noise:
    """Stands in for a data set: volumes of the right shape."""

    names = ("noise",)
    affine = np.eye(4)

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.shape = shape

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> np.ndarray[Any, Any]:
        return np.random.default_rng(0).uniform(-1, 1, self.shape).astype(np.float32)


def forward(preset: Preset) -> None:
    network = preset.network().eval()
    with torch.inference_mode():
        network(torch.randn(1, 8, *(side // 2 for side in preset.data.shape)), torch.tensor([500]))


def training(preset: Preset, *, loops: bool = True, keep: bool = False) -> None:
    native.switch(loops)
    if keep:
        keep_freed_memory()
    steps = Trainer(preset, Noise(preset.data.shape), torch.device("cpu")).run()
    next(steps)
    next(steps)


def peak(job: Any, preset: Preset) -> float:
    """Peak resident GB of a fresh process that runs the job."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measured, (job, preset))


def measured(job: Any, preset: Preset) -> float:
    job(preset)
    # not ru_maxrss, which a child inherits from the process that started it
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="ours_unet_128")
    parser.add_argument("--set", action="append", default=["train.batch_size=1"], dest="sets")
    arguments = parser.parse_args()
    preset = resolve(arguments.preset, sets=arguments.sets).preset
    print(f"{preset.name}, {preset.train.precision}, one volume a step; torch {torch.__version__}, {date.today()}")
    print(f"forward        {peak(forward, preset):.2f} GB")
    print(
        f"training step  estimated {estimate(preset).training / 1e9:.2f} GB, measured {peak(training, preset):.2f} GB"
    )
    print(f"  with freed memory kept           {peak(partial(training, keep=True), preset):.2f} GB")
    without = estimate(preset, loops=False).training / 1e9
    print(
        f"  without g++    estimated {without:.2f} GB, measured {peak(partial(training, loops=False), preset):.2f} GB"
    )


if __name__ == "__main__":
    main()
