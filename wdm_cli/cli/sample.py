"""wdm sample: synthetic volumes from a run, a checkpoint or released weights."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wdm_cli.cli import console
from wdm_cli.cli.options import DeviceOption, GpusOption, SetOption, make_cpu_fast
from wdm_cli.cli.train import RUNS

if TYPE_CHECKING:
    import torch

    from wdm_cli.engine.checkpoint import Checkpoint
    from wdm_cli.engine.models.blocks import Network
    from wdm_cli.engine.preset import Preset
    from wdm_cli.engine.sample_protocol import FieldOfView
    from wdm_cli.engine.samples import SampleFolder

MANY_STEPS = 250  # from which on the fast sampler is worth a word


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
    sampler: Annotated[
        str | None, typer.Option("--sampler", help="ddpm, ddim or dpm++ (the fast one); default: the model's own.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", help="Default: the model's own; of --sampler ddpm 1000, ddim 50, dpm++ 15.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**32, help="Sample i depends on seed + i alone.")] = 0,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Volumes made at a time.")] = 1,
    raw: Annotated[bool, typer.Option("--raw", help="The last weights, not their moving average (EMA).")] = False,
    precision: Annotated[
        str, typer.Option("--precision", help="float32, or bf16 (faster, not bit-exact).")
    ] = "float32",
    sets: SetOption = None,
    device: DeviceOption = "auto",
    gpus: GpusOption = 1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace samples of an earlier command.")] = False,
) -> None:
    """Make synthetic volumes. The same command again makes only what is missing."""
    from wdm_cli.cli.processes import check_gpus, own_device, place
    from wdm_cli.engine.errors import ConfigError

    mine = place(os.environ)
    # what can be refused without torch is refused first, at once
    if mine and overwrite:
        raise ConfigError("--overwrite: each of several processes would remove the others' samples",
                          hint="use --gpus, or run it once by itself")  # fmt: skip
    if precision not in ("float32", "bf16"):
        raise ConfigError(f"--precision {precision}: unknown", hint="float32 or bf16")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: is a file, not a folder")
    if sum(source is not None for source in (run, checkpoint, weights)) > 1:
        raise ConfigError("--run, --checkpoint and --weights name different sources", hint="give one of them")
    for path in (run, checkpoint):
        if path is not None and not path.exists():
            raise ConfigError(f"no such file or folder: {path}", hint="give a run folder or a weights file")
    refuse_idle_sets(sets or [])

    if gpus > 1:
        check_gpus(gpus, device, os.environ)
    chosen = own_device(device, mine)
    source = find_source(run, checkpoint, weights)
    options = {"sample.kind": sampler, "sample.steps": steps}
    settings = settings_of(source, preset, sets or [], options)
    say_sampler(settings, source, preset)
    sample_into(out, source, settings, number, seed=seed, batch_size=batch_size, ema=not raw,
                precision=precision, device=chosen, overwrite=overwrite, gpus=gpus, preset=preset)  # fmt: skip


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


def refuse_idle_sets(sets: list[str]) -> None:
    """Settings of the training change nothing here, which is better said than ignored."""
    from wdm_cli.engine.errors import ConfigError

    for text in sets:
        if text.strip().startswith(("train.", "data.dir")):
            raise ConfigError(f"--set {text}: has no effect on sampling", hint="set keys of sample or data")


def settings_of(source: Checkpoint, preset: str | None, sets: list[str], options: dict[str, Any]) -> Preset:
    """The checkpoint's own settings, or those of --preset for bare weights, with what the command line changes."""
    import dataclasses

    from wdm_cli.config import resolve
    from wdm_cli.engine.errors import ConfigError

    if source.preset is None:
        if preset is None:
            raise ConfigError(
                f"{source.path}: bare weights say nothing about their network",
                hint="name it with --preset, e.g. --preset ours_unet_128",
            )
        return resolve(preset, environment=os.environ, sets=sets, options=options).preset
    if preset is not None and resolve(preset).preset.model != source.preset.model:
        raise ConfigError(
            f"--preset {preset} is another network than {source.path} holds ({source.preset.name})",
            hint="leave --preset away: the checkpoint knows its own",
        )
    settings = resolve(source.preset.to_dict(), environment=os.environ, sets=sets, options=options).preset
    # a network can fill another grid; what its voxels mean was decided by its data
    trained_on = dataclasses.replace(source.preset.data, image_size=settings.data.image_size, dir=settings.data.dir)
    fixed = (source.preset.model, source.preset.space, source.preset.diffusion, trained_on)
    if (settings.model, settings.space, settings.diffusion, settings.data) != fixed:
        raise ConfigError(
            f"{source.path}: model, space, diffusion and data (but data.image_size) are fixed by its training",
            hint="leave --set and WDM_ variables of model, space, diffusion and data away",
        )
    return settings


def say_sampler(settings: Preset, source: Checkpoint, preset: str | None) -> None:
    """Which sampler makes the volumes; if it is the model's own and slow, also the fast one."""
    from wdm_cli.config import resolve
    from wdm_cli.engine.samplers import DDPM, DPMSolverPP

    own = (source.preset or resolve(preset or "").preset).sample
    sampler, fast = settings.sample, DPMSolverPP()
    text = f"sampler: {sampler}"
    if sampler != own:
        text += f" (the model's own: {own})"
    elif sampler.steps >= MANY_STEPS:
        text += (
            f", the model's own. `--sampler {fast.kind}` takes {fast.steps}, in 1/{sampler.steps / fast.steps:.0f} "
            "of the time; docs/sampling.md shows what fewer steps cost"
        )
    elif source.preset is None and sampler.kind != DDPM().kind:
        text += "; the paper's way is `--sampler ddpm --steps 1000`, docs/sampling.md compares them"
    console.note(text)


def warn_of_differing_names(source: Checkpoint, settings: Preset) -> None:
    """Say how a file of another tool was read; tensors that stand in it twice should be equal."""
    from wdm_cli.engine.checkpoint import differing_twins

    if source.changes:
        console.note(f"{source.path}: {', '.join(source.changes)}")
    if names := differing_twins(source.weights, settings):
        console.warn(
            f"{source.path}: {len(names)} tensors differ under their two names ({names[0]}, …); "
            "the second is taken, as the official code does"
        )


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
    gpus: int = 1,
    preset: str | None = None,
) -> None:
    """Fill a folder with samples 0 … number − 1; several processes may do so at once.

    Args:
        gpus: with more than one, this process only prepares the folder and starts as many that fill it.
        preset: the one that was named for bare weights.
    """
    from wdm_cli.engine.checkpoint import build_network
    from wdm_cli.engine.provenance import provenance
    from wdm_cli.engine.sample_protocol import protocol_of
    from wdm_cli.engine.samples import SampleFolder

    field = field_of_view(source, settings, preset)
    averaged = ema and source.ema is not None
    protocol = protocol_of(source, settings, seed=seed, ema=averaged, precision=precision) | field.protocol
    folder = SampleFolder(out, settings, field.affine, protocol)
    if field.warning:
        console.warn(field.warning)
    missing = list(range(number)) if overwrite else folder.missing(number)
    network = None
    if short := folder.space_for(len(missing)):
        console.warn(f"{short}; those that are finished are kept")
    if missing:  # before the folder is touched: the weights may not fit
        network, _ = build_network(source, settings if source.preset is None else None, ema=ema)
        warn_of_differing_names(source, settings)
        network = network.to(device) if gpus == 1 else network
        make_cpu_fast(device, network, settings, training=False, batch_size=batch_size)
    about = {"command": "sample", "checkpoint": str(source.path), "step": source.step, **provenance(device, sys.argv)}
    folder.open(about, overwrite=overwrite)
    if len(missing) < number:
        console.note(f"{number - len(missing)} of {number} samples are there already and are kept")
    if network is not None and gpus > 1:
        share_out(source, gpus)
    elif network is not None:
        make(folder, network, settings, number, seed=seed, batch_size=batch_size, precision=precision)
    if elsewhere := len(folder.missing(number)):
        console.note(f"{elsewhere} of {number} samples are being made by other processes")
        return
    folder.finish(seed)
    console.note(f"{number} samples in {out} (look at {out / 'preview.png'})")


def share_out(source: Checkpoint, gpus: int) -> None:
    """The same command in a process a GPU, all with this checkpoint, however many come meanwhile."""
    from wdm_cli.cli.processes import start_together, without_option

    arguments = without_option(sys.argv[1:], "--gpus=", "--run=", "--checkpoint=", "--weights=", "--overwrite")
    if code := start_together(gpus, [*arguments, "--checkpoint", str(source.path)], needed=False):
        raise typer.Exit(code)


def field_of_view(source: Checkpoint, settings: Preset, preset: str | None) -> FieldOfView:
    """The grid of the samples beside that of the training; bare weights were trained at their preset's own size."""
    import numpy as np

    from wdm_cli.config import resolve
    from wdm_cli.engine.sample_protocol import FieldOfView, default_affine

    trained = (source.preset or resolve(preset or "").preset).data.shape
    affine = default_affine(trained) if source.affine is None else np.asarray(source.affine)
    return FieldOfView(trained, settings.data.shape, affine)


def make(
    folder: SampleFolder, network: Network, settings: Preset, number: int, *, seed: int, batch_size: int,
    precision: Any,
) -> None:  # fmt: skip
    """Claim, generate and write what is missing, with progress in sampling steps, until a signal stops it."""
    from wdm_cli.cli.stop import StopRequest
    from wdm_cli.engine.errors import Stopped
    from wdm_cli.engine.generate import Sample, generate

    steps, there = settings.sample.steps, number - len(folder.missing(number))
    with (
        StopRequest("stopping; finished volumes are kept") as stop,
        console.Progress("sampling steps", steps * number, steps * there) as progress,
    ):
        while mine := folder.claim(number, batch_size):
            for record in generate(network, settings, mine, seed=seed, batch_size=batch_size, precision=precision):
                if isinstance(record, Sample):
                    folder.add(record)
                    there += 1
                else:
                    progress.update(there * steps + record.step * len(mine), f"volume {there}/{number}")
                if stop() and there < number:
                    raise Stopped(
                        f"stopped by {stop.reason}: {there} of {number} samples are finished",
                        hint="run the same command again to make the rest",
                    )
