"""`wdm train --dry-run`: what a training would be, take and cost."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from wdm_cli.cli import console
from wdm_cli.cli.options import make_cpu_fast

HEADROOM = 0.8  # of the free memory: the estimate is no promise, and a machine that swaps measures nothing
if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from wdm_cli.config import Resolved
    from wdm_cli.engine.data.inventory import Inventory


def show_dry_run(resolved: Resolved, run: Path, device: torch.device, processes: int = 1) -> None:
    """Configuration, data, parameters, memory and disk, and the time of two real steps if they fit.

    Of several processes one is shown, with its share of the batch and without the exchange of gradients.
    """
    from wdm_cli.cli.train_data import as_begun, find_cases, settle, with_data
    from wdm_cli.cli.train_folder import check_space
    from wdm_cli.engine import native
    from wdm_cli.engine.device import available_memory
    from wdm_cli.engine.distributed import divide
    from wdm_cli.engine.estimate import estimate

    resolved = as_begun(resolved, run)
    console.table(("key", "value", "source"), resolved.rows(), title=f"Configuration of {resolved.preset.name}")
    inventory = find_cases(resolved)
    resolved = with_data(resolved, settle(resolved.preset.data, inventory))
    if processes > 1:
        share = divide(resolved.preset.train.batch_size, processes, resolved.preset.train.accumulate)
        train = dataclasses.replace(resolved.preset.train, batch_size=share)
        resolved = dataclasses.replace(resolved, preset=dataclasses.replace(resolved.preset, train=train))
    costs = estimate(resolved.preset, loops=native.at_work(device))
    free = available_memory(device)
    on_cpu = device.type == "cpu"
    parts = resolved.preset.train.batch_size // resolved.preset.train.accumulate
    volumes = f"{parts} volume{'s' * (parts > 1)}"
    rows = [
        *(
            [("processes", f"{processes}, of which this is one, with {share} volume{'s' * (share > 1)} a step")]
            if processes > 1
            else []
        ),
        ("cases", f"{len(inventory.cases)} in {resolved.preset.data.dir} ({len(inventory.ignored)} files ignored)"),
        ("parameters", f"{costs.parameters:,}"),
        (
            "memory of a step",
            f"about {console.size(costs.training)} at {volumes} a pass ({console.size(free)} free)",
        ),
        ("of it activations", f"about {console.size(costs.activations)}"),
        *([("freed memory", "kept for speed where there is plenty: up to 1.8 times as much")] if on_cpu else []),
        ("checkpoint", f"{console.size(costs.checkpoint)}; run folder up to {console.size(costs.disk)}"),
        *measure(resolved, inventory, device, costs.training <= HEADROOM * free),
    ]
    console.table(("what", "value"), rows, title="Dry run")
    check_space(run, resolved.preset)


def measure(resolved: Resolved, inventory: Inventory, device: torch.device, fits: bool) -> list[tuple[str, str]]:
    """Seconds of a step, measured on the second of two; or why nothing was measured."""
    from wdm_cli.cli.train_data import open_volumes
    from wdm_cli.engine.train import Trainer

    if not fits:
        train = resolved.preset.train
        helps = [f"train.accumulate={train.batch_size}"] if train.accumulate < train.batch_size else []
        helps += [] if train.checkpointing else ["train.checkpointing=true"]
        helps += [] if train.precision == "bf16" else ["train.precision=bf16"]
        hint = " ".join(f"--set {text}" for text in helps) or "a smaller data.image_size"
        return [("time per step", f"not measured: it needs more memory than is free here; try {hint}")]
    first = dataclasses.replace(inventory, cases=inventory.cases[: resolved.preset.train.batch_size])
    volumes = open_volumes(resolved, first, workers=2)
    train = dataclasses.replace(resolved.preset.train, steps=2)
    trainer = Trainer(dataclasses.replace(resolved.preset, train=train), volumes, device)
    together = train.batch_size // train.accumulate
    make_cpu_fast(device, trainer.network, resolved.preset, training=True, batch_size=together)
    steps = trainer.run()
    next(steps)
    seconds = next(steps).seconds
    steps.close()
    total = console.duration(seconds * resolved.preset.train.steps)
    return [
        ("time per step", f"{seconds:.2f} s on {device} (the second of two steps)"),
        ("all steps", f"{total} for {resolved.preset.train.steps:,} steps at that speed"),
    ]
