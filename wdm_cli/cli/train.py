"""wdm train: from a folder of volumes to a run with checkpoints."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wdm_cli.cli import console
from wdm_cli.cli.options import (
    ConfigOption,
    DatasetOption,
    DeviceOption,
    GpusOption,
    SetOption,
    make_cpu_fast,
)
from wdm_cli.cli.train_data import add_layout, as_begun, find_cases, open_volumes, with_data
from wdm_cli.cli.train_folder import check_writable, refuse_other_settings
from wdm_cli.cli.train_memory import MemoryOption, memory_settings

if TYPE_CHECKING:
    import torch

    from wdm_cli.cli.trackers import Tracker
    from wdm_cli.config import Resolved
    from wdm_cli.engine.data.cache import VolumeCache
    from wdm_cli.engine.distributed import Place, Ranks
    from wdm_cli.engine.preset import Preset
    from wdm_cli.engine.train import Trainer, TrainStep

RUNS = Path("runs")
PREVIEW_STEPS, PREVIEW_VOLUMES = 50, 2


def train(
    preset: Annotated[str, typer.Option("--preset", help="A preset's name (`wdm presets list`) or .toml file.")],
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", help="Folder of volumes. Default: WDM_DATA_DIR, else the preset's.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="The run folder; an existing run is continued. Default: runs/PRESET.")
    ] = None,
    dataset: DatasetOption = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Stop at this step (train.steps).")] = None,
    config: ConfigOption = None,
    sets: SetOption = None,
    device: DeviceOption = "auto",
    gpus: GpusOption = 1,
    memory: MemoryOption = "auto",
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes that fill the cache.")] = 2,
    log: Annotated[
        list[str] | None, typer.Option("--log", help="tb or wandb, besides metrics.csv. Repeatable.")
    ] = None,
    max_hours: Annotated[
        float | None, typer.Option("--max-hours", min=0.001, help="Save and stop (exit 75) after this time.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show settings, memory, disk and time per step; train nothing.")
    ] = False,
) -> None:
    """Train a model. The same command again continues where the last one stopped."""
    from wdm_cli.cli.processes import check_gpus, own_device, place, start_together, without_option
    from wdm_cli.cli.trackers import check_trackers
    from wdm_cli.config import resolve
    from wdm_cli.engine.errors import ConfigError
    from wdm_cli.engine.files import safe_name

    mine = place(os.environ)
    # what can be refused without torch is refused first, at once
    check_trackers(log or [])
    options = {"data.kind": dataset, "train.steps": steps, "data.dir": str(data_dir) if data_dir else None}
    options = add_layout(options, config, sets)
    settled = partial(resolve, preset, config_file=config, environment=os.environ, sets=sets or ())
    resolved = settled(options=options)
    run = out or RUNS / safe_name(resolved.preset.name)
    if run.exists() and not run.is_dir():
        raise ConfigError(f"--out {run}: is a file, not a folder")
    if gpus > 1:
        check_gpus(gpus, device, os.environ)
        check_share(resolved.preset, gpus)
        if not dry_run:
            raise typer.Exit(start_together(gpus, without_option(sys.argv[1:], "--gpus=")))
    chosen = own_device(device, mine)
    if changed := memory_settings(memory, resolved.preset, chosen, mine.world if mine else gpus):
        resolved = settled(options=options | changed)
    if dry_run:
        from wdm_cli.cli.dry_run import show_dry_run

        if not mine or mine.rank == 0:
            show_dry_run(resolved, run, chosen, mine.world if mine else gpus)
    else:
        run_training(resolved, run, chosen, mine, workers=workers, log=log, max_hours=max_hours)


def run_training(
    resolved: Resolved,
    run: Path,
    device: torch.device,
    place: Place | None = None,
    *,
    workers: int = 2,
    log: list[str] | None = None,
    max_hours: float | None = None,
) -> None:
    """Train to the end, or save and raise Stopped when a signal or the time limit asks for it.

    Args:
        place: which of several processes this is; the device is its own.
    """
    from wdm_cli.cli.stop import StopRequest
    from wdm_cli.engine.distributed import joined
    from wdm_cli.engine.errors import Stopped
    from wdm_cli.engine.train import Trainer

    with (
        StopRequest("stopping after this step and a checkpoint", max_hours) as stop,
        joined(place, device) as ranks,
    ):
        resolved, volumes = ranks.in_turns(lambda: prepare(resolved, run, ranks, workers, stop))
        trainer = Trainer(resolved.preset, volumes, device, ranks)
        together = len(trainer.rows) // resolved.preset.train.accumulate
        make_cpu_fast(device, trainer.network, resolved.preset, training=True, batch_size=together)
        follow(trainer, resolved, run, stop, log or [])
    if trainer.step < resolved.preset.train.steps:
        saved = "; the checkpoint is saved" if trainer.step else ""
        raise Stopped(
            f"stopped by {stop.reason or 'another process'} at step {trainer.step:,}{saved}",
            hint="run the same command again to continue",
        )
    source = shlex.quote(str(run))
    console.note(f"finished at step {trainer.step:,}; next: wdm sample -n 4 --out samples/ --run {source}")


def prepare(
    resolved: Resolved, run: Path, ranks: Ranks, workers: int, should_stop: Callable[[], object]
) -> tuple[Resolved, VolumeCache]:
    """Refuse what cannot work and find the volumes, and the settings with their voxel size.

    The main process looks at the run folder.
    """
    resolved = as_begun(resolved, run)
    if ranks.main:
        refuse_other_settings(run, resolved.preset)
    inventory = find_cases(resolved)
    if ranks.main:
        check_writable(run, resolved.preset)
    volumes = open_volumes(resolved, inventory, workers, should_stop)
    return with_data(resolved, volumes.dataset), volumes


def check_share(preset: Preset, processes: int) -> None:
    """Refuse a batch that so many processes cannot share."""
    from wdm_cli.engine.distributed import divide

    divide(preset.train.batch_size, processes, preset.train.accumulate)


def follow(trainer: Trainer, resolved: Resolved, run: Path, stop: Any, log: list[str]) -> None:
    """Drive the training, show it and write what belongs beside it."""
    from wdm_cli.cli.trackers import open_trackers, scalars
    from wdm_cli.engine.run import Resumed, Saved, train

    settings = resolved.preset.train
    if not trainer.ranks.main:
        for _ in train(trainer, run, stop):
            pass
        return
    trackers: list[Tracker] | None = None
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(console.Progress("training", settings.steps))
        for record in train(trainer, run, stop):
            if isinstance(record, Resumed):
                for reason in record.damaged:
                    console.warn(f"passed over: {reason}")
                console.note(f"continuing {run} from step {record.step:,}")
                for change in record.changes:
                    console.note(change)
                progress.start_at(record.step)
                continue
            if isinstance(record, Saved):
                console.detail(f"saved {record.path}")
                continue
            if trackers is None:  # the first step has shown that the settings work
                write_about(run, resolved, trainer)
                trackers = open_trackers(log, run, resolved.preset.to_dict(), record.step)
                for tracker in trackers:
                    stack.callback(tracker.close)
            if record.skipped:
                console.warn(f"step {record.step}: non-finite values, skipped (cases: {', '.join(record.cases)})")
            progress.update(record.step, describe(record, trainer.device))
            if record.step % settings.log_every == 0:
                for tracker in trackers:
                    tracker.add(record.step, scalars(record, trainer.preset.space.columns))
            if record.step % settings.preview_every == 0:
                write_preview(trainer, run)
    if trackers is not None and trainer.step >= settings.steps:  # after a signal there is no time for it
        write_card_and_progress(run)


def describe(record: TrainStep, device: torch.device) -> str:
    """Loss, speed and memory of a step, for the progress line."""
    import resource

    import torch

    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        memory = f"{console.size(total - free)}/{console.size(total)}"
    else:
        memory = console.size(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    return f"loss {record.loss:.4f} {1 / record.seconds:.2f} it/s mem {memory}"


def write_about(run: Path, resolved: Resolved, trainer: Trainer) -> None:
    """run.json, preset.toml and MODEL_CARD.md."""
    from wdm_cli.config import to_toml
    from wdm_cli.engine.files import write_json, write_text
    from wdm_cli.engine.model_card import write_card
    from wdm_cli.engine.provenance import provenance
    from wdm_cli.engine.trained_on import fingerprint

    about = {
        "command": "train",
        **provenance(trainer.device, sys.argv),
        "processes": trainer.ranks.world,
        "data": fingerprint(trainer.volumes.names),
        "preset": resolved.preset.to_dict(),
        "preset_sha256": resolved.preset.sha256,
        "sources": resolved.sources,
    }
    write_json(run / "run.json", about)
    write_text(run / "preset.toml", to_toml(resolved.preset.to_dict()))
    write_card(run)


def write_card_and_progress(run: Path) -> None:
    """MODEL_CARD.md as it stands, unless somebody has made it theirs, and progress.png."""
    from wdm_cli.engine.curves import draw_progress
    from wdm_cli.engine.errors import WdmError
    from wdm_cli.engine.model_card import NAME, write_card
    from wdm_cli.engine.report import read_run

    try:
        draw_progress(run, read_run(run).preview)
        if not write_card(run):
            console.note(f"{run / NAME} was changed by hand and is left as it is")
    except WdmError as error:  # the model is saved; this is beside it
        console.warn(f"{NAME} or progress.png could not be written: {error.what}")


def write_preview(trainer: Trainer, run: Path) -> None:
    """A picture of samples from the EMA weights, with the same noise every time; and the curves so far with it."""
    import dataclasses

    from wdm_cli.engine.curves import draw_progress
    from wdm_cli.engine.generate import Sample, generate
    from wdm_cli.engine.picture import save_png
    from wdm_cli.engine.samples import preview

    steps = min(PREVIEW_STEPS, trainer.preset.sample.steps)
    preset = dataclasses.replace(trainer.preset, sample=dataclasses.replace(trainer.preset.sample, steps=steps))
    made = generate(trainer.ema, preset, range(PREVIEW_VOLUMES), precision=preset.train.precision)
    volumes = [record.volume for record in made if isinstance(record, Sample)]
    caption = f"step {trainer.step:,}, EMA weights, {steps} sampling steps, seeds 0 and 1"
    path = run / "previews" / f"step_{trainer.step:07d}.png"
    save_png(path, preview(preset, volumes, trainer.affine, caption))
    draw_progress(run, path)
