"""Cases to files, by one or several processes, so that a run can be killed at any moment and continued."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from wdm_cli.engine.data import parallel
from wdm_cli.engine.data.volume import Volume, write_nifti
from wdm_cli.engine.errors import ConfigError, DataError
from wdm_cli.engine.files import PARTIAL, locked, remove_partial, sha256_file, shortage, write_json
from wdm_cli.engine.preprocess.decode import TwoFiles
from wdm_cli.engine.preprocess.manifest import Entry, Manifest
from wdm_cli.engine.preprocess.preview import preview_path, write_preview
from wdm_cli.engine.preprocess.target import Prepared
from wdm_cli.engine.provenance import commit, versions


class Job(Protocol):
    """One case to make; can be sent to another process."""

    @property
    def case(self) -> str: ...
    @property
    def patient(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def files(self) -> Sequence[Path]: ...
    @property
    def repairs(self) -> tuple[str, ...]: ...
    @property
    def output(self) -> str: ...
    @property
    def where(self) -> str: ...

    def prepare(self) -> Prepared: ...


@dataclass(frozen=True)
class Plan:
    """What a run has to do: `settled` needs no pixels, `jobs` do.

    protocol: what decides the voxels. notes: what a user should know of the archive, in sentences.
    """

    jobs: Sequence[Job]
    settled: Sequence[Entry]
    protocol: dict[str, Any]
    notes: tuple[str, ...] = ()


def run(
    plan: Plan, out: Path, *, workers: int = 1, strict: bool = False, overwrite: bool = False
) -> Generator[Entry, None, None]:
    """Make every case that is not yet there; yield one entry a case, finished ones first.

    Args:
        workers: processes. The files do not depend on their number.
        strict: the first skipped case is an error.
        overwrite: remove what an earlier run made and start anew.

    Raises:
        DataError: a case was skipped under `strict`.
        ConfigError: the folder holds cases made with other settings.
        ResourceError: a worker died, or the disk is full.
    """
    for entry in plan.settled:
        _check(entry, strict)
    with locked(out):
        if overwrite:
            clear(out)
        remove_partial(out)
        open_folder(out, plan.protocol)
        manifest = Manifest(out)
        for entry in plan.settled:
            _retract(manifest, entry, out)
            manifest.record(entry)
            yield entry
        known = [(job, manifest.finished(job.source, job.files)) for job in plan.jobs]
        for job, done in known:
            if done:
                entry = replace(done, patient=job.patient)  # an earlier version may have known it less well
                manifest.record(entry)
                yield entry
        todo = [job for job, done in known if not done]
        for _, made in parallel.run(partial(make, out=out), todo, workers):
            assert isinstance(made, Entry)
            _retract(manifest, made, out)
            manifest.record(made)
            yield made
            _check(made, strict)


def make(job: Job, out: Path) -> Entry:
    """One case: volume, picture, entry. What is wrong with its data becomes the entry's reason."""
    started = time.monotonic()
    common: dict[str, Any] = {
        **{"case": job.case, "patient": job.patient, "source": job.source, "files": len(job.files), "where": job.where}
    }
    try:
        prepared = job.prepare()
    except TwoFiles as error:
        return Entry(**{**common, "where": error.where}, verdict="skipped", reasons=(error.what,))
    except DataError as error:
        return Entry(**common, verdict="skipped", reasons=(error.what,))
    except MemoryError:
        return Entry(**common, verdict="skipped", reasons=("not enough memory for it (fewer --workers?)",))
    path = out / job.output
    write_nifti(path, prepared.array, prepared.affine)
    write_preview(out, job.case, Volume(prepared.array.astype("float32"), prepared.affine))
    repairs = (*job.repairs, *prepared.repairs)
    return Entry(
        **common,
        verdict="repaired" if repairs else "accepted",
        repairs=repairs,
        output=job.output,
        sha256=sha256_file(path),
        bytes=path.stat().st_size,
        seconds=round(time.monotonic() - started, 2),
        facts=prepared.facts,
    )


def space_for(plan: Plan, out: Path) -> str:
    """A shortage in words where the volumes to make have no place, as far as their size is known; else nothing.

    Files are compressed; counted as if they were not.
    """
    size, voxel = plan.protocol.get("size") or 0, 2 if plan.protocol.get("intensity") == "fixed-window" else 4
    voxels = math.prod(size) if isinstance(size, tuple) else size**3
    cases = sum(not (out / job.output).exists() for job in plan.jobs)
    short = shortage(out, cases * voxels * voxel)
    return f"{out}: {cases} cases take up to {short}" if short else ""


def open_folder(out: Path, protocol: dict[str, Any]) -> None:
    """Create the folder, or check that it goes on with the same settings.

    Raises:
        ConfigError: it holds cases made with other settings.
    """
    path = out / "run.json"
    old, protocol = _protocol(path), json.loads(json.dumps(protocol))
    changed = [f"{key}: {old.get(key)} there, {value} now" for key, value in protocol.items() if old.get(key) != value]
    if old and changed:
        raise ConfigError(
            f"{out} holds cases made with other settings: {'; '.join(changed)}",
            why="one folder, one kind of volume",
            hint="use another --out, or --overwrite to make them anew",
        )
    if not old:
        write_json(path, {"protocol": protocol, "versions": versions(), "commit": commit()})


def _protocol(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes()).get("protocol", {})
    except (OSError, ValueError, AttributeError):
        return {}
    return found if isinstance(found, dict) else {}


def clear(out: Path) -> None:
    """Remove what an earlier run into this folder made (`--overwrite`), and nothing else."""
    manifest = Manifest(out)
    for entry in manifest.entries.values():
        _remove_output(entry, out)
    for path in [*(out / "previews").glob("*.png"), manifest.path, out / "run.json", out / "contact_sheet.png"]:
        path.unlink(missing_ok=True)
    _remove_if_empty(out / "previews")


def _retract(manifest: Manifest, entry: Entry, out: Path) -> None:
    """Remove the earlier volume of a case that can no longer be used, or has another name now."""
    earlier = manifest.entries.get(entry.source)
    if earlier and earlier.output and earlier.output != entry.output:
        _remove_output(earlier, out)
        preview_path(out, earlier.case).unlink(missing_ok=True)


def _remove_output(entry: Entry, out: Path) -> None:
    volume = out / entry.output
    if entry.output and out.resolve() in volume.resolve().parents:
        volume.unlink(missing_ok=True)
        _remove_if_empty(volume.parent)


def _remove_if_empty(folder: Path) -> None:
    for name in (folder / PARTIAL, folder):
        if name.is_dir() and not any(name.iterdir()):
            name.rmdir()


def _check(entry: Entry, strict: bool) -> None:
    if strict and entry.verdict == "skipped":
        raise DataError(
            f"{entry.where or entry.case}: {'; '.join(entry.reasons)}",
            why="--strict stops at the first case that cannot be used",
            hint="repair or move it, or run without --strict to skip and list such cases",
        )
