"""The volumes of a training: found, cached, and looked at for what a user should know."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wdm_cli.cli import console

if TYPE_CHECKING:
    from wdm_cli.config import Resolved
    from wdm_cli.engine.data.cache import VolumeCache
    from wdm_cli.engine.data.dataset import Dataset
    from wdm_cli.engine.data.facts import Facts
    from wdm_cli.engine.data.inventory import Inventory
    from wdm_cli.engine.preset import Preset

MOST_WARNINGS = 5


def add_layout(
    options: dict[str, Any],
    config: Path | None = None,
    sets: list[str] | None = None,
    files: Sequence[Path] = (),
) -> dict[str, Any]:
    """Named options, with the layout that most files of the data folder follow where nobody but a preset names one.

    All commands that read a data set ask here, so that they take a folder for the same; it is said.

    Args:
        files: of the folder, where a user named some; they are asked instead of all.
    """
    from wdm_cli.config import expand_home, said_by_user
    from wdm_cli.engine.data import SUFFIXES, guess_kind, kind_of
    from wdm_cli.engine.data.inventory import list_files
    from wdm_cli.engine.data.prepared import stated

    said = said_by_user(config, os.environ, sets or ()).get("data", {})
    known = said if isinstance(said, dict) else {}
    folder = options.get("data.dir") or known.get("dir")
    if options.get("data.kind") or "kind" in known or not isinstance(folder, str):
        return options
    path = Path(expand_home(folder))
    if not path.is_dir() or stated(path):  # what preprocess states of its folder is a layer of the configuration
        return options
    kind = kind_of(list_files(files, SUFFIXES).files, path) if files else guess_kind(path)
    console.note(f"taken as {kind}, by the files' names (--set data.kind=… chooses)")
    return options | {"data.kind": kind}


def find_cases(resolved: Resolved) -> Inventory:
    """The cases of the preset's data; warns of what else the folder holds.

    Raises:
        DataError: there is none, or a part of the folder cannot be read.
    """
    from wdm_cli.engine.data.inventory import require_whole
    from wdm_cli.engine.data.remedies import remedies

    data = resolved.preset.data
    tell_folder(resolved)
    inventory = data.find(Path(data.dir))
    require_whole(inventory)
    source = resolved.sources.get("data.dir", "default")
    console.note(f"data: {len(inventory.cases)} cases in {data.dir} ({source}; {len(inventory.ignored)} files ignored)")
    unread = [f"{count} files are left out, {text}" for text, count in remedies(inventory.foreign, inventory.root)]
    for text in (*inventory.notes, *unread):
        console.warn(text)
    return inventory


def tell_folder(resolved: Resolved) -> None:
    """What was settled by the run.json of a prepared folder, and what was settled against it."""
    for text in resolved.notes:
        console.note(text)
    for text in resolved.doubts:
        console.warn(text)


def settle(data: Dataset, inventory: Inventory) -> Dataset:
    """The settings with one voxel size for all training volumes, unless they say otherwise; it is told."""
    from wdm_cli.engine.data.scale import common_scale

    scale = common_scale(data, inventory)
    if scale is None:
        return data
    console.note(scale.text)
    return data.at(scale.voxel)


def recorded(run: Path) -> Preset | None:
    """The settings of a run that would be continued."""
    from wdm_cli.config import read_toml
    from wdm_cli.engine.preset import from_stored
    from wdm_cli.engine.run import checkpoint_files

    stored = run / "preset.toml"
    return from_stored(read_toml(stored), str(stored)) if checkpoint_files(run) and stored.is_file() else None


def as_begun(resolved: Resolved, run: Path) -> Resolved:
    """The settings with the voxel size of the run that is continued, where they leave it open."""
    before = recorded(run)
    if before is None or resolved.preset.data.voxel != "common" or before.data.voxel == "common":
        return resolved
    return with_data(resolved, replace(resolved.preset.data, voxel=before.data.voxel), "the run")


def with_data(resolved: Resolved, data: Dataset, source: str = "the volumes") -> Resolved:
    """The settings with a settled voxel size, and where it comes from."""
    if data.voxel == resolved.preset.data.voxel:
        return resolved
    sources = resolved.sources | {"data.voxel": source}
    return replace(resolved, preset=replace(resolved.preset, data=data), sources=sources)


def open_volumes(
    resolved: Resolved, inventory: Inventory, workers: int, should_stop: Callable[[], object] = lambda: False
) -> VolumeCache:
    """Cases as training volumes, cached where they are not yet; raises Stopped when `should_stop` says so."""
    from wdm_cli.engine.data.cache import VolumeCache
    from wdm_cli.engine.errors import ResourceError, Stopped

    data = settle(resolved.preset.data, inventory)
    volumes = VolumeCache(data, inventory, cache_folder() / "volumes")
    known: dict[str, Facts] = {}
    with console.Progress("caching", len(inventory.cases)) as progress:
        try:
            for record in volumes.build(workers):
                progress.update(record.done, record.name)
                known[record.name] = record.facts
                if should_stop():
                    break
        except ResourceError:  # a signal to the whole group ends the workers too
            if not should_stop():
                raise
    if should_stop():
        raise Stopped("stopped before the first step", hint="run the same command again to continue")
    warn_of(known, data.dir)
    return volumes


def warn_of(known: dict[str, Facts], folder: str) -> None:
    """What `verify` would say of these volumes, to those who never ran it."""
    from wdm_cli.engine.data.facts import oddities

    cropped = [f"{name}: {facts.warning}" for name, facts in sorted(known.items()) if facts.warning]
    for text in [*oddities(dict(sorted(known.items()))), *cropped[:MOST_WARNINGS]]:
        console.warn(text)
    if len(cropped) > MOST_WARNINGS:
        console.warn(f"… and {len(cropped) - MOST_WARNINGS} more cases; `wdm verify {folder}` lists them all")


def cache_folder() -> Path:
    """WDM_CACHE_DIR, else the user's cache folder.

    Raises:
        ResourceError: there is neither.
    """
    from wdm_cli.config import expand_home
    from wdm_cli.engine.errors import ResourceError

    if named := os.environ.get("WDM_CACHE_DIR"):
        return Path(expand_home(named))
    try:
        return Path(expand_home(os.environ.get("XDG_CACHE_HOME", "")) or Path.home() / ".cache") / "wdm"
    except RuntimeError:  # an account without a home, as in some containers
        raise ResourceError("no home folder to keep caches in", hint="set WDM_CACHE_DIR to a folder") from None
