"""A run folder: what a training writes, and how it is found and continued.

RUN/preset.toml … written by the command line       RUN/run.json      what made it
RUN/checkpoints/step_0000200.pt (+ .pt.json)         RUN/metrics.csv   losses over the steps
RUN/previews/step_0000200.png
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wdm_cli.engine import checkpoint as checkpoints
from wdm_cli.engine.checkpoint import Checkpoint
from wdm_cli.engine.errors import CheckpointError, ConfigError, DataError, PeerError
from wdm_cli.engine.estimate import checkpoint_bytes
from wdm_cli.engine.files import locked, remove_partial, require_space, shortage
from wdm_cli.engine.metrics_log import MetricsLog, truncate_metrics
from wdm_cli.engine.preset import Preset
from wdm_cli.engine.provenance import arithmetic
from wdm_cli.engine.train import Trainer, TrainStep

# What may differ between a run and its continuation: none of these changes the weights.
FREE_KEYS = {
    "name",
    "description",
    "data.dir",
    "train.steps",
    "train.save_every",
    "train.keep",
    "train.keep_every",
    "train.preview_every",
    "train.log_every",
    "train.checkpointing",
}


@dataclass(frozen=True)
class Saved:
    """A checkpoint was written."""

    path: Path
    step: int


@dataclass(frozen=True)
class Resumed:
    """The run continues from a checkpoint.

    damaged: newer ones that could not be read, and why. changes: what is done in another way than before, in words;
    nothing among it changes the training but for rounding.
    """

    path: Path
    step: int
    damaged: tuple[str, ...]
    changes: tuple[str, ...] = ()


def checkpoint_path(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step_{step:07d}.pt"


def checkpoint_files(run: Path) -> dict[int, Path]:
    """Checkpoints of a run by step, oldest first."""
    found = ((re.fullmatch(r"step_(\d+)\.pt", path.name), path) for path in (run / "checkpoints").glob("*.pt"))
    return dict(sorted((int(match[1]), path) for match, path in found if match))


def latest_checkpoint(run: Path) -> tuple[Checkpoint, tuple[str, ...]]:
    """The newest readable checkpoint, and why newer ones were passed over.

    Raises:
        CheckpointError: there is none, or none can be read.
    """
    damaged: list[str] = []
    for path in reversed(checkpoint_files(run).values()):
        try:
            return checkpoints.read(path), tuple(damaged)
        except CheckpointError as error:
            damaged.append(error.what)
    if damaged:
        raise CheckpointError(
            f"{run}: none of its {len(damaged)} checkpoints can be read: {damaged[0]}",
            hint="restore one from a backup, or start a new run with another --out",
        )
    raise CheckpointError(f"{run}: holds no checkpoint yet")


def newest_run(root: Path) -> Path:
    """The run under `root` whose checkpoint was written last; CheckpointError if there is none."""
    written: dict[Path, float] = {}
    for path in root.glob("*/checkpoints/step_*.pt"):
        with contextlib.suppress(FileNotFoundError):  # a training at work drops old checkpoints
            written[path] = path.stat().st_mtime
    if not written:
        raise CheckpointError(
            f"no trained run under {root.absolute()}",
            hint="train one with `wdm train`, or name a source: --run DIR, --checkpoint FILE or --weights NAME",
        )
    return max(written, key=lambda path: written[path]).parents[1]


def resume(run: Path, trainer: Trainer) -> Resumed | None:
    """Load the newest checkpoint of a run into the trainer; None if the run has none yet.

    Newer ones that are damaged are renamed to *.damaged: they are reported once and do not count as kept.

    Raises:
        ConfigError: a setting that changes the weights differs, with old and new value.
        CheckpointError: no checkpoint can be read, or it is of other cases.
    """
    found, damaged = latest_checkpoint(run) if checkpoint_files(run) else (None, ())
    changes: list[str] = []
    if found is not None:
        if found.preset is None:
            raise CheckpointError(f"{found.path}: holds weights only, training cannot continue from it")
        refuse_changes(run, found.preset, trainer.preset)
        trainer.restore(found)
        changes += _changes(found.training, found.preset, trainer)
    truncate_metrics(run / "metrics.csv", trainer.step)
    if found is None:
        return None
    for path in list(checkpoint_files(run).values())[::-1][: len(damaged)]:
        with contextlib.suppress(OSError):
            path.rename(path.with_name(path.name + ".damaged"))
    return Resumed(found.path, trainer.step, damaged, tuple(changes))


def _changes(training: Mapping[str, Any], preset: Preset, trainer: Trainer) -> Iterator[str]:
    before, now = training.get("processes", 1), trainer.ranks.world
    if before != now:
        yield f"so far {before} processes shared the batch, now {now}: the same training, equal up to rounding"
    way, way_now = training.get("arithmetic"), arithmetic(trainer.device)
    if way not in (None, way_now):
        yield f"so far on {way}; now on {way_now}: the same training, equal up to rounding"
    if preset.sample != trainer.preset.sample:
        yield f"its volumes will be sampled with {trainer.preset.sample}, so far {preset.sample}"


def refuse_changes(run: Path, old: Preset, new: Preset) -> None:
    """Compare the settings of a run with those of its continuation."""
    before, now = _flat(old.to_dict()), _flat(new.to_dict())
    changed = [
        f"{key}: {before.get(key)} in the run, {now.get(key)} now"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key) and key not in FREE_KEYS and not key.startswith("sample.")
    ]
    if changed:
        raise ConfigError(
            f"{run} was trained with other settings: " + "; ".join(changed),
            why="the same command continues a run; other settings make another model",
            hint="restore the settings, or start a new run with another --out",
        )


def train(
    trainer: Trainer, run: Path, should_stop: Callable[[], object] = lambda: False
) -> Iterator[TrainStep | Saved | Resumed]:
    """Train into a run folder: resume, log, save, keep the last k checkpoints.

    Ends at `train.steps` or when `should_stop()` says so; either way the last step is saved. Of several processes
    the main one writes; the others read the checkpoint that it found.

    Raises:
        ResourceError: another process is at work in the folder, or the disk is full.
        DataError, PeerError: a volume or another process was lost while training; the last step is saved first.
        WdmError: whatever else `resume` and `Trainer.run` raise.
    """
    if not trainer.ranks.main:
        yield from _follow(trainer, run, should_stop)
        return
    settings = trainer.preset.train
    with contextlib.ExitStack() as stack:

        def begin() -> Resumed | None:
            stack.enter_context(locked(run))
            remove_partial(run)
            return resume(run, trainer)

        resumed = trainer.ranks.in_turns(begin)
        trainer.ranks.from_main(trainer.step)
        if resumed:
            yield resumed
        saved = trainer.step
        log = stack.enter_context(MetricsLog(run / "metrics.csv", trainer.preset.space.columns))
        try:
            for record in trainer.run(should_stop):
                log.add(record, settings.log_every)
                if record.step % settings.save_every == 0:  # first, lest a preview or a listener lose the steps
                    yield save(trainer, run)
                    saved = record.step
                yield record
        except (DataError, PeerError):  # between steps: a lost machine or volume costs one step
            if trainer.step > saved:
                yield save(trainer, run)
            raise
        if trainer.step > saved:
            yield save(trainer, run)


def _follow(trainer: Trainer, run: Path, should_stop: Callable[[], object]) -> Iterator[TrainStep]:
    """The part of a process that is not the main one: nothing is written."""
    trainer.ranks.in_turns(lambda: None)
    step = trainer.ranks.from_main(0)
    if step:
        trainer.restore(checkpoints.read(checkpoint_path(run, step)))
    yield from trainer.run(should_stop)


def save(trainer: Trainer, run: Path) -> Saved:
    """Write a checkpoint of the current step, then drop those beyond the last `train.keep`, but milestones."""
    settings = trainer.preset.train
    path = checkpoint_path(run, trainer.step)
    checkpoints.save(path, trainer.state())
    for step, old in list(checkpoint_files(run).items())[: -settings.keep]:
        if settings.keep_every and step % settings.keep_every == 0:
            continue
        with contextlib.suppress(OSError):  # one that cannot be removed costs space, not the run
            old.unlink()
            checkpoints.manifest_path(old).unlink()
    return Saved(path, trainer.step)


def space_for_checkpoints(run: Path, preset: Preset) -> str:
    """What should be known of the space for checkpoints before the first step: nothing, or a shortage in words.

    While one is written the last `train.keep` are there; milestones come on top.

    Raises:
        ResourceError: not even the next one has a place.
    """
    settings, each = preset.train, checkpoint_bytes(preset)
    there = checkpoint_files(run)
    done = max(there, default=0)
    saves = math.ceil((settings.steps - done) / settings.save_every)
    if saves <= 0:
        return ""
    require_space(run / "checkpoints", each, hint="free some space, or choose another --out")
    kept = [step for step in there if not (settings.keep_every and step % settings.keep_every == 0)]
    stay = settings.steps // settings.keep_every - done // settings.keep_every if settings.keep_every else 0
    more = max(1, min(saves, settings.keep + 1 - len(kept)))
    short = shortage(run, (more + stay) * each)
    return f"{run} will need {short}: {more + stay} checkpoints of {each / 1e6:,.0f} MB" if short else ""


def _flat(tables: dict[str, Any]) -> dict[str, Any]:
    flat = {}
    for key, value in tables.items():
        flat.update({f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value})
    return flat
