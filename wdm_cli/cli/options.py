"""Options that several commands share, declared once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import torch

    from wdm_cli.engine.models.blocks import Network
    from wdm_cli.engine.preset import Preset

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="A TOML file laid over the preset.", dir_okay=False)
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set a key, e.g. data.image_size=64. Repeatable.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Answer as JSON on stdout.")]
DeviceOption = Annotated[
    str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, …; auto takes a GPU if there is one.")
]
GpusOption = Annotated[
    int, typer.Option("--gpus", min=1, help="GPUs of this machine to work on together, a process each.")
]
DatasetOption = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        help="brats, lidc-idri, adni, mrnet, fastmri or nifti (data.kind). Default: told by the files' names.",
    ),
]


def make_cpu_fast(device: torch.device, network: Network, preset: Preset, *, training: bool, batch_size: int) -> None:
    """On a CPU, trade memory for speed where there is memory to spare; say so where the compiled loops are missing."""
    from wdm_cli.cli import console
    from wdm_cli.engine import native
    from wdm_cli.engine.device import keep_freed_memory_if_roomy
    from wdm_cli.engine.estimate import at_most

    if device.type == "cpu":
        keep_freed_memory_if_roomy(at_most(network, preset, training=training, batch_size=batch_size))
        if not native.at_work(device):
            console.note(f"note: without the compiled loops this takes longer ({native.state().words})")
