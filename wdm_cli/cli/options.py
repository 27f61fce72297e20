"""Options that several commands share, declared once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import torch

PresetOption = Annotated[str | None, typer.Option("--preset", help="A preset's name (`wdm presets list`) or file.")]
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
DatasetOption = Annotated[
    str | None,
    typer.Option(
        "--dataset", help="brats, lidc-idri, adni, mrnet, fastmri or nifti (data.kind); default: the preset's."
    ),
]


def open_device(name: str) -> torch.device:
    """The device of --device, with this process made ready for long work on it."""
    from wdm_cli.engine.device import choose_device, keep_freed_memory

    device = choose_device(name)
    if device.type == "cpu":
        keep_freed_memory()
    return device
