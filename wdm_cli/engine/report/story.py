"""What a run folder and a folder of samples say of themselves."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wdm_cli.engine.beside import open_generated
from wdm_cli.engine.errors import ConfigError, DataError
from wdm_cli.engine.metrics.folder import is_run
from wdm_cli.engine.metrics.volumes import Volumes
from wdm_cli.engine.metrics_log import read_metrics
from wdm_cli.engine.preset import Preset, from_stored

KINDS: dict[str, type] = {"versions": dict, "data": dict, "protocol": dict, "argv": list, "checkpoint": str}
"""What stands under the keys of run.json that are used here."""


@dataclass(frozen=True)
class Run:
    """A training: run.json, the preset in it, and the columns of metrics.csv."""

    folder: Path
    about: dict[str, Any]
    preset: Preset
    metrics: dict[str, NDArray[np.float64]]

    @property
    def step(self) -> int:
        """The last step that was logged or saved."""
        logged = int(self.metrics["step"][-1]) if len(self.metrics["step"]) else 0
        return max([logged, *(number(path) for path in (self.folder / "checkpoints").glob("step_*.pt"))])

    @property
    def preview(self) -> Path | None:
        """The newest picture of samples."""
        return max((self.folder / "previews").glob("step_*.png"), key=number, default=None)

    @property
    def data(self) -> Path | None:
        """The folder of training volumes, if it is where it was."""
        folder = self.preset.data.dir
        return Path(folder) if folder and Path(folder).is_dir() else None

    def trained_on(self, folder: Path) -> bool:
        """Whether a folder is the one of its training volumes."""
        return self.data is not None and self.data.resolve() == folder.resolve()


@dataclass(frozen=True)
class Samples:
    """Generated volumes and their run.json; volumes of another tool have none."""

    volumes: Volumes
    about: dict[str, Any]
    preset: Preset | None

    @property
    def protocol(self) -> dict[str, Any]:
        """What decides their voxels: checkpoint, sampler, steps, seed, …"""
        return dict(self.about.get("protocol") or {})

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seed of every volume, by the rule seed + index; none for volumes of another tool."""
        found = (re.match(r"sample_(\d+)\.", path.name) for path in self.volumes.files)
        first = self.protocol.get("seed")
        return tuple(int(first) + int(match[1]) for match in found if match) if isinstance(first, int) else ()

    @property
    def run(self) -> Path | None:
        """The run whose checkpoint made them, if it is where it was."""
        checkpoint = self.about.get("checkpoint")
        folder = Path(checkpoint).parent.parent if checkpoint else None
        return folder if folder is not None and is_run(folder) else None


def number(path: Path) -> int:
    """The step in a file's name."""
    found = re.search(r"(\d+)", path.name)
    return int(found[1]) if found else 0


def read_run(folder: Path) -> Run:
    """A run folder.

    Raises:
        DataError: run.json is damaged or not of a training.
    """
    about, preset = _about(folder)
    if preset is None:
        raise DataError(f"{folder / 'run.json'}: states no preset", hint="only `wdm train` writes run folders")
    return Run(folder, about, preset, read_metrics(folder / "metrics.csv"))


def read_samples(folder: Path, scheme: str | None = None) -> Samples:
    """A folder of generated volumes.

    Raises:
        DataError: no volume, or of different shapes, or run.json is damaged.
    """
    about, preset = _about(folder) if (folder / "run.json").is_file() else ({}, None)
    return Samples(open_generated(folder, scheme, least=1), about, preset)


def _about(folder: Path) -> tuple[dict[str, Any], Preset | None]:
    path = folder / "run.json"
    try:
        about = dict(json.loads(path.read_bytes()))
        if wrong := [key for key, kind in KINDS.items() if not isinstance(about.get(key, kind()), kind)]:
            raise ValueError(f"{wrong[0]} is no {KINDS[wrong[0]].__name__}")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}: damaged: {error}", hint="restore it from a backup") from error
    try:
        return about, from_stored(about["preset"], origin=str(path)) if "preset" in about else None
    except (ConfigError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: its preset cannot be read: {error}", why="another version of wdm wrote it") from error
