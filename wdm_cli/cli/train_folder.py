"""The run folder of a training: what can be refused before the first volume is read."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from wdm_cli.cli import console

if TYPE_CHECKING:
    from wdm_cli.engine.preset import Preset


def refuse_other_settings(run: Path, preset: Preset) -> None:
    """Find out now, not when hundreds of volumes are cached; `resume` asks the checkpoint itself once more."""
    from wdm_cli.cli.train_data import recorded
    from wdm_cli.engine.run import refuse_changes

    if stored := recorded(run):
        refuse_changes(run, stored, preset)


def check_writable(run: Path, preset: Preset) -> None:
    """Find out now, not at the first checkpoint, that the folder cannot be written or has no place for it."""
    from wdm_cli.engine.files import atomic_publish

    try:
        with atomic_publish(run / ".writable") as probe:
            probe.write_bytes(b"")
        (run / ".writable").unlink()
        check_space(run, preset)
    finally:
        with contextlib.suppress(OSError):  # a new folder: if the data are refused nothing is left behind
            run.rmdir()


def check_space(run: Path, preset: Preset) -> None:
    """Refuse a training whose first checkpoint has no place; a warning where the later ones have none."""
    from wdm_cli.engine.run import space_for_checkpoints

    if short := space_for_checkpoints(run, preset):
        console.warn(f"{short}; the training will end there, and continue once there is space")
