"""Options that the commands of `wdm eval` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

FakeOption = Annotated[Path, typer.Option("--fake", help="Folder of generated NIfTI volumes.")]
RealOption = Annotated[Path, typer.Option("--real", help="Folder of real volumes of the same shape.")]
RealToo = Annotated[Path | None, typer.Option("--real", help="Folder of real volumes, for their value beside it.")]
WeightsOption = Annotated[
    str | None, typer.Option("--weights", help="MedicalNet file, name (medicalnet_resnet50), or random to try out.")
]
ExtractorOption = Annotated[
    str | None, typer.Option("--extractor", help="Your own network: a TorchScript file or module:function.")
]
TrustOption = Annotated[bool, typer.Option("--trust-code", help="Let --extractor run its code.")]
IntensityOption = Annotated[
    str | None,
    typer.Option("--intensity", help="How volumes are stored: paper ([0, 1]) or fixed-window (HU). Default: run.json."),
]
RawOption = Annotated[str | None, typer.Option("--preset", help="--real holds raw data: prepare it by this preset.")]
OutOption = Annotated[Path | None, typer.Option("--out", help="Also write the result to this JSON file.")]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of random choices.")]
PairsOption = Annotated[int, typer.Option("--pairs", min=0, help="Draw this many pairs for MS-SSIM; 0 takes all.")]
NeighbourOption = Annotated[int, typer.Option("--k", min=1, help="Which nearest neighbour sets a ball's radius.")]
QuickOption = Annotated[bool, typer.Option("--quick", help="Leave out the real-vs-real floor and intervals.")]
WorkersOption = Annotated[
    int, typer.Option("--workers", min=1, help="Processes for features; with --device cuda spread over all GPUs.")
]
GpusOption = Annotated[
    int, typer.Option("--gpus", min=0, help="GPUs of this machine for features, a process each; 0: as --device says.")
]
HeldOutOption = Annotated[
    Path | None,
    typer.Option("--held-out", help="Real volumes not trained on: a folder, split.json or a list of files of --real."),
]
PictureOption = Annotated[Path | None, typer.Option("--picture", help="Draw the closest pairs to this PNG file.")]
