"""`wdm train --memory`: settings that make a step fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from wdm_cli.cli import console

if TYPE_CHECKING:
    import torch

    from wdm_cli.engine.preset import Preset

Memory = Literal["auto", "low"]
MemoryOption = Annotated[
    Memory,
    typer.Option(
        "--memory",
        help="auto: recompute activations if a step would not fit otherwise. low: recompute, one volume at a time.",
    ),
]


def memory_settings(memory: Memory, preset: Preset, device: torch.device, processes: int) -> dict[str, Any]:
    """Keys to change, with their values, and said.

    `auto` only changes what leaves a step's result as it is, and only for one process: several must do the same.
    """
    from wdm_cli.engine import native
    from wdm_cli.engine.device import available_memory
    from wdm_cli.engine.estimate import estimate

    train = preset.train
    if memory == "low":
        return {"train.checkpointing": True, "train.accumulate": max(1, train.batch_size // processes)}
    if train.checkpointing or processes > 1:
        return {}
    costs, free = estimate(preset, loops=native.at_work(device)), available_memory(device)
    if costs.training <= free:
        return {}
    console.note(
        f"memory: a step takes about {console.size(costs.training)}, {console.size(free)} are free: activations are "
        "recomputed (train.checkpointing); --memory low also takes one volume at a time"
    )
    return {"train.checkpointing": True}
