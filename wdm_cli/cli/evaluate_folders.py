"""What the commands of `wdm eval` open: the two folders, held-out volumes, the extractor."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from wdm_cli.cli import console
from wdm_cli.cli.evaluate_show import follow
from wdm_cli.cli.train_data import add_layout, tell_folder

if TYPE_CHECKING:
    from wdm_cli.engine.data.dataset import Dataset
    from wdm_cli.engine.metrics.extractor import Extractor
    from wdm_cli.engine.metrics.volumes import Volumes


def open_both(
    fake: Path, real: Path | None, intensity: str | None, preset: str | None, sets: list[str] | None
) -> tuple[Volumes, Volumes | None]:
    """Generated and real volumes, each read as its folder or the options say."""
    from wdm_cli.engine.beside import open_generated
    from wdm_cli.engine.device import keep_freed_memory_if_roomy
    from wdm_cli.engine.metrics.features import memory_needed

    data = data_settings(preset, sets, real)
    generated = open_generated(fake, intensity)
    keep_freed_memory_if_roomy(memory_needed(generated.shape))
    return generated, open_beside(real, generated, data, intensity) if real else None


def data_settings(preset: str | None, sets: list[str] | None, real: Path | None) -> Dataset | None:
    """The data table of --preset and --set, which say how to prepare the real volumes."""
    from wdm_cli.config import resolve
    from wdm_cli.engine.errors import ConfigError

    if sets and preset is None:
        raise ConfigError("--set changes a preset, and none is given", hint="add --preset NAME")
    if preset is not None and not real:
        raise ConfigError("--preset says how to prepare --real, which is not given", hint="add --real DIR")
    if preset is None or real is None:
        return None
    options = add_layout({"data.dir": str(real)}, None, sets)
    resolved = resolve(preset, environment=os.environ, sets=sets or (), options=options)
    tell_folder(resolved)
    return resolved.preset.data


def open_beside(real: Path, generated: Volumes, data: Dataset | None, intensity: str | None) -> Volumes:
    """Real volumes, with a word on how they are read where nobody said it."""
    from wdm_cli.engine.beside import open_real

    volumes, words = open_real(real, generated, data, intensity)
    if words:
        console.note(f"real volumes: {len(volumes)} of {real}, {words}")
    return volumes


def open_held_out(held_out: Path | None, real: Volumes, fake: Path | None = None) -> tuple[Volumes, Volumes | None]:
    """Training and held-out volumes (see `divide`); a warning if the run of the samples `fake` knew other cases."""
    from wdm_cli.engine.metrics.held_out import divide
    from wdm_cli.engine.trained_on import other_cases

    if held_out is None:
        return real, None
    found = divide(real, held_out)
    for text in found.warnings:
        console.warn(text)
    if fake is not None and found.names and (other := other_cases(fake, found.names)):
        console.warn(f"{other}: held-out volumes may have been trained on")
    return found.train, found.unseen


def open_extractor(weights: str | None, extractor: str | None, trust_code: bool, device: str, seed: int) -> Extractor:
    """The network whose features are compared: MedicalNet's, random, or the user's own."""
    from wdm_cli.config import expand_home
    from wdm_cli.engine.errors import ConfigError
    from wdm_cli.engine.metrics.extractor import load_extractor, load_own_network

    if (weights is None) == (extractor is None):
        raise ConfigError(
            "no features to compare" if weights is None else "--weights and --extractor exclude each other",
            hint="give --weights FILE (MedicalNet), --weights random (to try out) or --extractor (your own network)",
        )
    if weights is not None:
        if trust_code:
            raise ConfigError("--trust-code has no effect with --weights", why="weights files cannot run code")
        return load_extractor(weights_path(weights), device=device, seed=seed)
    assert extractor is not None
    if not trust_code:
        raise ConfigError(
            f"--extractor {extractor} would run code from that file",
            why="unlike weights, a TorchScript file or a Python function can do anything",
            hint="add --trust-code if you trust it",
        )
    return load_own_network(expand_home(extractor), device=device)


def weights_path(weights: str) -> str | Path:
    """The file of extractor weights: a path, or the name of released weights that were downloaded."""
    from wdm_cli.cli.weights import weights_folder
    from wdm_cli.config import expand_home
    from wdm_cli.engine.errors import ResourceError
    from wdm_cli.engine.weights import path_of, registry

    release, weights = registry().get(weights), expand_home(weights)
    if weights == "random" or release is None or Path(weights).exists():
        return weights
    file = path_of(release, weights_folder())
    if not file.is_file():
        raise ResourceError(f"{weights} is not here", hint=f"wdm weights get {weights}")
    return file


def check_sanity(volumes: Volumes) -> None:
    """Name every bad file at once before the long work begins; warn of suspicious ones."""
    from wdm_cli.engine.errors import DataError
    from wdm_cli.engine.metrics.sanity import inspect

    result = follow(inspect(volumes.root, volumes.intensity))
    if result.unusable:
        listed = "; ".join(f"{finding.name}: {finding.text}" for finding in result.unusable[:5])
        in_hu = any("[0, 1]" in finding.text for finding in result.unusable)
        raise DataError(
            f"{volumes.root}: {len(result.unusable)} of {result.n} files cannot be used",
            why=listed,
            hint=f"wdm eval sanity --fake {volumes.root} lists all of them"
            + "; CT in HU is read with --intensity fixed-window" * in_hu,
        )
    suspicious = [finding for finding in result.findings if finding.level == "suspicious"]
    for finding in suspicious[:5]:
        console.warn(f"{finding.name}: {finding.text}")
    if len(suspicious) > 5:
        console.warn(f"{len(suspicious) - 5} more suspicious files: wdm eval sanity --fake {volumes.root}")
