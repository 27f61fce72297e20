"""Cases to files, by one or several processes, so that a run can be killed at any moment and continued."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from wdm_cli.engine.data.volume import Volume, write_nifti
from wdm_cli.engine.errors import ConfigError, DataError, ResourceError
from wdm_cli.engine.files import PARTIAL, sha256_file, write_json
from wdm_cli.engine.preprocess.manifest import Entry, Manifest
from wdm_cli.engine.preprocess.preview import write_preview
from wdm_cli.engine.preprocess.target import Prepared


class Job(Protocol):
    """One case to make; can be sent to another process."""

    @property
    def case(self) -> str: ...
    @property
    def patient(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def files(self) -> int: ...
    @property
    def repairs(self) -> tuple[str, ...]: ...
    @property
    def output(self) -> str: ...
    @property
    def where(self) -> str: ...

    def prepare(self) -> Prepared: ...


@dataclass(frozen=True)
class Plan:
    """What a run has to do: `settled` needs no pixels, `jobs` do. protocol: what decides the voxels."""

    jobs: Sequence[Job]
    settled: Sequence[Entry]
    protocol: dict[str, Any]


def run(plan: Plan, out: Path, *, workers: int = 1, strict: bool = False) -> Iterator[Entry]:
    """Make every case that is not yet there; yield one entry a case, finished ones first.

    Args:
        workers: processes. The files do not depend on their number.
        strict: the first skipped case is an error.

    Raises:
        DataError: a case was skipped under `strict`.
        ConfigError: the folder holds cases made with other settings.
        ResourceError: a worker died, or the disk is full.
    """
    for entry in plan.settled:
        _check(entry, strict)
    open_folder(out, plan.protocol)
    manifest = Manifest(out)
    for entry in plan.settled:
        manifest.record(entry)
        yield entry
    todo = []
    for job in plan.jobs:
        done = manifest.finished(job.source, job.files)
        if done is None:
            todo.append(job)
        else:
            yield done
    for entry in _made(todo, out, workers):
        manifest.record(entry)
        yield entry
        _check(entry, strict)


def make(job: Job, out: Path) -> Entry:
    """One case: volume, picture, entry. What is wrong with its data becomes the entry's reason."""
    started = time.monotonic()
    common: dict[str, Any] = {
        **{"case": job.case, "patient": job.patient, "source": job.source, "files": job.files, "where": job.where}
    }
    try:
        prepared = job.prepare()
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


def open_folder(out: Path, protocol: dict[str, Any]) -> None:
    """Create the folder, or check that it goes on with the same settings.

    Raises:
        ConfigError: it holds cases made with other settings.
    """
    path = out / "run.json"
    old = _protocol(path)
    changed = [f"{key}: {old.get(key)} there, {value} now" for key, value in protocol.items() if old.get(key) != value]
    if old and changed:
        raise ConfigError(
            f"{out} holds cases made with other settings: {'; '.join(changed)}",
            why="one folder, one kind of volume",
            hint="use another --out, or --overwrite to make them anew",
        )
    if not old:
        write_json(path, {"protocol": protocol})


def _protocol(path: Path) -> dict[str, Any]:
    import json

    try:
        found = json.loads(path.read_text()).get("protocol", {})
    except (OSError, ValueError, AttributeError):
        return {}
    return found if isinstance(found, dict) else {}


def clear(out: Path) -> None:
    """Remove what an earlier run into this folder made (`--overwrite`), and nothing else."""
    manifest = Manifest(out)
    for entry in manifest.entries.values():
        if entry.output:
            volume = out / entry.output
            if out.resolve() in volume.resolve().parents:
                volume.unlink(missing_ok=True)
                _remove_if_empty(volume.parent)
    for path in [*(out / "previews").glob("*.png"), manifest.path, out / "run.json", out / "contact_sheet.png"]:
        path.unlink(missing_ok=True)
    _remove_if_empty(out / "previews")


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


def _made(jobs: Sequence[Job], out: Path, workers: int) -> Iterator[Entry]:
    """Entries in the order in which they are finished."""
    if min(workers, len(jobs)) <= 1:
        yield from (make(job, out) for job in jobs)
        return
    context = multiprocessing.get_context("spawn")  # a forked child would inherit locked libraries
    pool = ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context, initializer=_start_worker)
    try:
        futures: Iterable[Future[Entry]] = [pool.submit(make, job, out) for job in jobs]
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool as error:
        raise ResourceError(
            "a worker process was killed, most likely for want of memory",
            why="each needs up to 2.5 GB",
            hint="use fewer --workers; finished cases are kept, the same command continues",
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, which lets the current cases end; end at once when the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
