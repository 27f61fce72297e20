"""`wdm train --dry-run`: what a training would be, take and cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from wdm_cli.cli import console

if TYPE_CHECKING:
    import torch

    from wdm_cli.config import Resolved
    from wdm_cli.engine.estimate import Estimate


def show_dry_run(resolved: Resolved, device: torch.device) -> None:
    """Configuration, data, parameters, memory and disk, and the time of two real steps if they fit."""
    from wdm_cli.engine.estimate import available_memory, estimate

    console.table(("key", "value", "source"), resolved.rows(), title=f"Configuration of {resolved.preset.name}")
    data = resolved.preset.data
    inventory = data.find(Path(data.dir))
    costs, free = estimate(resolved.preset), available_memory(device)
    parts = resolved.preset.train.batch_size // resolved.preset.train.accumulate
    rows = [
        ("cases", f"{len(inventory.cases)} in {data.dir} ({len(inventory.ignored)} files ignored)"),
        ("parameters", f"{costs.parameters:,}"),
        (
            "memory of a step",
            f"about {console.size(costs.training)}, {parts} volumes at a time ({console.size(free)} free)",
        ),
        ("of it activations", f"about {console.size(costs.activations)}"),
        ("checkpoint", f"{console.size(costs.checkpoint)}; run folder up to {console.size(costs.disk)}"),
        *measure(resolved, device, costs, free),
    ]
    console.table(("what", "value"), rows, title="Dry run")


def measure(resolved: Resolved, device: torch.device, costs: Estimate, free: int) -> list[tuple[str, str]]:
    """Seconds of a step, measured on the second of two; or why nothing was measured."""
    from wdm_cli.cli.train import open_volumes
    from wdm_cli.engine.train import Trainer

    if costs.training > free:
        hint = "try --set train.batch_size=…, train.accumulate=… or train.checkpointing=true"
        return [("time per step", f"not measured: it needs more memory than is free here; {hint}")]
    volumes = open_volumes(resolved, workers=2, first=resolved.preset.train.batch_size)
    trainer = Trainer(resolved.preset, volumes, device)
    steps = trainer.run()
    next(steps)
    seconds = next(steps).seconds
    steps.close()
    total = console.duration(seconds * resolved.preset.train.steps)
    return [
        ("time per step", f"{seconds:.2f} s on {device} (the second of two steps)"),
        ("all steps", f"{total} for {resolved.preset.train.steps:,} steps at that speed"),
    ]
