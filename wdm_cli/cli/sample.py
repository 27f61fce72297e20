"""wdm sample: synthetic volumes from a run, a checkpoint or released weights."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wdm_cli.cli import console
from wdm_cli.cli.options import DeviceOption, SetOption
from wdm_cli.cli.train import RUNS

if TYPE_CHECKING:
    import torch

    from wdm_cli.engine.checkpoint import Checkpoint
    from wdm_cli.engine.models.blocks import Network
    from wdm_cli.engine.preset import Preset
    from wdm_cli.engine.samples import SampleFolder


def sample(
    number: Annotated[int, typer.Option("-n", "--number", min=1, help="How many volumes the folder shall hold.")],
    out: Annotated[Path, typer.Option("--out", help="The folder to write; finished files in it are kept.")],
    run: Annotated[Path | None, typer.Option("--run", help="A run folder. Default: the newest under runs/.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="A checkpoint, an official .pt or a .safetensors file.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option("--weights", help="Imported weights by name (`wdm weights list`).")
    ] = None,
    preset: Annotated[
        str | None, typer.Option("--preset", help="The network of an official .pt file, e.g. ours_unet_128.")
    ] = None,
    sampler: Annotated[str | None, typer.Option("--sampler", help="ddpm; default: the model's own.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Sampling steps; default: the model's own.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Sample i depends on seed + i alone.")] = 0,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Volumes made at a time.")] = 1,
    raw: Annotated[bool, typer.Option("--raw", help="The last weights, not their moving average (EMA).")] = False,
    precision: Annotated[
        str, typer.Option("--precision", help="float32, or bf16 (faster, not bit-exact).")
    ] = "float32",
    sets: SetOption = None,
    device: DeviceOption = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace samples of an earlier command.")] = False,
) -> None:
    """Make synthetic volumes. The same command again makes only what is missing."""
    from wdm_cli.engine.device import choose_device
    from wdm_cli.engine.errors import ConfigError

    if precision not in ("float32", "bf16"):
        raise ConfigError(f"--precision {precision}: unknown", hint="float32 or bf16")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: is a file, not a folder")
    if sum(source is not None for source in (run, checkpoint, weights)) > 1:
        raise ConfigError("--run, --checkpoint and --weights name different sources", hint="give one of them")
    chosen = choose_device(device)
    source = find_source(run, checkpoint, weights)
    options = {"sample.kind": sampler, "sample.steps": steps}
    settings = settings_of(source, preset, sets or [], options)
    sample_into(out, source, settings, number, seed=seed, batch_size=batch_size, ema=not raw,
                precision=precision, device=chosen, overwrite=overwrite)  # fmt: skip


def find_source(run: Path | None, checkpoint: Path | None, weights: str | None) -> Checkpoint:
    """The weights file that was asked for; without a word, the newest run's last checkpoint."""
    from wdm_cli.cli.weights import weights_file
    from wdm_cli.engine.checkpoint import read
    from wdm_cli.engine.run import latest_checkpoint, newest_run

    if checkpoint is not None:
        return read(checkpoint)
    if weights is not None:
        return read(weights_file(weights))
    folder = run or newest_run(RUNS)
    found, damaged = latest_checkpoint(folder)
    for reason in damaged:
        console.warn(f"passed over: {reason}")
    console.note(f"model: {found.path}{'' if run else ' (the newest run)'}, step {found.step:,}")
    return found


def settings_of(source: Checkpoint, preset: str | None, sets: list[str], options: dict[str, Any]) -> Preset:
    """The checkpoint's own settings, or those of --preset for bare weights, with what the command line changes."""
    from wdm_cli.config import resolve
    from wdm_cli.engine.errors import ConfigError

    if source.preset is None and preset is None:
        raise ConfigError(
            f"{source.path}: bare weights say nothing about their network",
            hint="name it with --preset, e.g. --preset ours_unet_128",
        )
    if source.preset is not None and preset is not None:
        named = resolve(preset).preset
        if named.model != source.preset.model:
            raise ConfigError(
                f"--preset {preset} is another network than {source.path} holds ({source.preset.name})",
                hint="leave --preset away: the checkpoint knows its own",
            )
    tables: Any = source.preset.to_dict() if source.preset is not None else preset
    return resolve(tables, environment=os.environ, sets=sets, options=options).preset


def sample_into(
    out: Path,
    source: Checkpoint,
    settings: Preset,
    number: int,
    *,
    seed: int,
    batch_size: int,
    ema: bool,
    precision: Any,
    device: torch.device,
    overwrite: bool = False,
) -> None:
    """Fill a folder with samples 0 … number − 1."""
    from wdm_cli.engine.checkpoint import build_network

    folder = open_folder(out, source, settings, seed, ema and source.ema is not None, precision, overwrite, device)
    missing = [index for index in range(number) if index not in folder.existing()]
    kept = number - len(missing)
    if kept:
        console.note(f"{kept} of {number} samples are there already and are kept")
    if missing:
        network, _ = build_network(source, settings if source.preset is None else None, ema=ema)
        make(folder, network.to(device), settings, missing, seed=seed, batch_size=batch_size, precision=precision)
    folder.finish(seed)
    console.note(f"{number} samples in {out} (look at {out / 'preview.png'})")


def open_folder(
    out: Path, source: Checkpoint, settings: Preset, seed: int, ema: bool, precision: str, overwrite: bool,
    device: torch.device,
) -> SampleFolder:  # fmt: skip
    """The sample folder with its protocol: everything that decides a voxel."""
    import numpy as np

    from wdm_cli.engine.files import sha256_file
    from wdm_cli.engine.provenance import provenance
    from wdm_cli.engine.samples import SampleFolder, default_affine

    protocol = {
        "checkpoint_sha256": sha256_file(source.path),
        "weights": "ema" if ema else "raw",
        "sampler": settings.sample.kind,
        "steps": settings.sample.steps,
        "seed": seed,
        "seed_rule": "sample i is drawn from a generator seeded with seed + i",
        "precision": precision,
        "intensity": settings.data.intensity,
        "image_size": list(settings.data.shape),
    }
    affine = np.asarray(source.affine) if source.affine is not None else default_affine(settings.data.shape)
    folder = SampleFolder(out, settings, affine, protocol)
    if overwrite:
        folder.clear()
    about = {"command": "sample", "checkpoint": str(source.path), "step": source.step, **provenance(device, sys.argv)}
    folder.open(about)
    return folder


def make(
    folder: SampleFolder, network: Network, settings: Preset, missing: list[int], *, seed: int, batch_size: int,
    precision: Any,
) -> None:  # fmt: skip
    """Generate and write, with progress in sampling steps."""
    from wdm_cli.engine.generate import Sample, generate

    steps, finished = settings.sample.steps, 0
    with console.Progress("sampling steps", steps * len(missing)) as progress:
        records = generate(network, settings, missing, seed=seed, batch_size=batch_size, precision=precision)
        for record in records:
            if isinstance(record, Sample):
                folder.add(record)
                finished += 1
            else:
                done = finished * steps + record.step * len(record.indices)
                progress.update(done, f"volume {finished}/{len(missing)}")
