"""Real volumes beside generated ones: how each folder is read, from what it says of itself or what the caller says."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from wdm_cli.engine.data.dataset import Dataset
from wdm_cli.engine.data.split import SPLIT_FILE
from wdm_cli.engine.errors import ConfigError, DataError
from wdm_cli.engine.metrics.folder import is_run, read_told
from wdm_cli.engine.metrics.intensity import Intensity
from wdm_cli.engine.metrics.volumes import OTHER_WAYS, Volumes, open_dataset, open_folder
from wdm_cli.engine.preset import Preset, from_stored


def open_generated(root: Path, scheme: str | None = None, least: int = 2) -> Volumes:
    """A folder of generated volumes.

    Args:
        scheme: how they are stored; None takes it from run.json, else `paper`. The window is run.json's anyway.
    """
    refuse_run(root)
    if scheme is None:
        return open_folder(root, None, least)
    chosen = Intensity(scheme)  # type: ignore[arg-type]  # refuses other words
    try:
        told = read_told(root).intensity
    except DataError:  # a run.json that says nothing usable: what the caller says stands in for it
        told = None
    return open_folder(root, told if told and told.scheme == scheme else chosen, least)


def open_real(real: Path, fake: Volumes, data: Dataset | None = None, scheme: str | None = None) -> tuple[Volumes, str]:
    """Real volumes to set beside generated ones, and in words how they are read if nobody said it.

    Args:
        data: settings that make raw files into volumes. scheme: they are finished, and stored so. With neither, samples
            of wdm tell by their preset how their training read its data, and other folders by their run.json.

    Raises:
        DataError: no usable volumes, or it cannot be told how they are stored.
    """
    refuse_run(real)
    if data is not None:
        trained = preset_of(fake.root)
        if data.voxel == "common" and trained is not None:  # as the volumes that the model has learned from
            data = dataclasses.replace(data, voxel=trained.data.voxel)
        return open_dataset(real, data), ""
    if scheme is not None:
        return open_folder(real, fake.intensity), ""
    told = read_told(real)
    preset = preset_of(fake.root) if told.kind != "samples" else None
    if preset is not None:
        return as_trained(real, preset)
    if told.intensity is None or (told.kind, told.intensity.scheme) == ("prepared", fake.intensity.scheme):
        return open_folder(real, fake.intensity), ""  # prepared HU have no window of their own
    return open_folder(real, told.intensity), ""


def as_trained(real: Path, preset: Preset) -> tuple[Volumes, str]:
    """Real volumes made as for the training of a preset; the part of the split counts where the folder has a split."""
    data = preset.data
    split = data.part != "all" and (real / SPLIT_FILE).is_file()
    kind = preset.to_dict()["data"]["kind"]
    part = f"part {data.part}" if split else "all cases"
    words = (
        f"as the samples' preset {preset.name} reads its data (layout {kind}, {part}, intensity {data.intensity}); "
        "--preset NAME reads them by another, --intensity as finished volumes"
    )
    return open_dataset(real, data if split else dataclasses.replace(data, part="all")), words


def preset_of(samples: Path) -> Preset | None:
    """The preset in the run.json of samples; None for volumes that wdm did not make.

    Raises:
        DataError: it cannot be read.
    """
    told = read_told(samples)
    if told.kind != "samples":
        return None
    path = samples / "run.json"
    try:
        return from_stored(told.about["preset"], origin=str(path))
    except (ConfigError, TypeError, AttributeError) as error:
        what = f"{path}: its preset cannot be read: {error}"
        raise DataError(what, why="another version of wdm wrote it", hint=OTHER_WAYS) from error


def refuse_run(folder: Path) -> None:
    """Raise DataError for the folder of a training: it holds a model and pictures, no volumes."""
    if is_run(folder):
        raise DataError(
            f"{folder}: is a run folder",
            why="it holds a model, and no volumes to be scored",
            hint=f"make some: wdm sample -n 100 --out samples/ --run {folder}",
        )
