"""Preprocessed copies of a data set, so that a training step never waits for gzip.

Each case is one raw `.npy` file (memory-mapped when read) and a small JSON file beside it. Their name carries a
hash of the source file's identity and of every setting that changes its voxels, so a changed file or setting makes
a new entry and an old one is never mistaken for it. Entries appear whole, so several processes may build at once.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wdm_cli.engine.data import parallel
from wdm_cli.engine.data.dataset import Dataset
from wdm_cli.engine.data.facts import Facts
from wdm_cli.engine.data.inventory import Case, Inventory
from wdm_cli.engine.data.volume import Affine, Array
from wdm_cli.engine.errors import DataError
from wdm_cli.engine.files import require_space, write_array, write_json

FORMAT = 2  # raise when the voxels of equal settings change
INT16_SCALE = 32767  # [−1, 1] -> int16: no voxel is off by more than 1.6e-5
SHOWN = 5  # broken files named in an error


@dataclass(frozen=True)
class CacheStep:
    """One case is in the cache; facts: what is known of its file."""

    done: int
    total: int
    name: str
    path: Path
    seconds: float
    facts: Facts


@dataclass(frozen=True)
class _Job:
    dataset: Dataset
    source: Path
    entry: Path


class VolumeCache:
    """The training volumes of a data set, by index in the order of their names.

    Args:
        source: what `dataset.find` returned, or the folder to look in.
        cache_dir: where entries are kept; may be shared by data sets, presets and processes.

    Attributes:
        dataset: the settings, `voxel=common` settled for these cases.

    Raises:
        DataError: there is no case, or a file has vanished.
    """

    def __init__(self, dataset: Dataset, source: Inventory | Path, cache_dir: Path) -> None:
        self.inventory = source if isinstance(source, Inventory) else dataset.find(source)
        self.dataset = dataset = dataset.settled(self.inventory)
        self.cache_dir = cache_dir
        self.names = tuple(case.name for case in self.inventory.cases)
        settings = json.dumps([FORMAT, dataset.voxel_settings()], sort_keys=True)
        self._entries = [cache_dir / f"{case.name}-{_key(case, settings)}.npy" for case in self.inventory.cases]

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Array:
        """The training volume [D, H, W] float32 in [−1, 1], a fresh array."""
        try:
            stored = np.load(self._entries[index], mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(
                f"{self._entries[index]}: this copy in the cache is missing or damaged",
                hint="run the same command again",
            ) from error
        array = np.array(stored, np.float32)  # a copy: nothing stays mapped
        return array / np.float32(INT16_SCALE) if stored.dtype == np.int16 else array

    @property
    def affine(self) -> Affine:
        """Of the first case's training volume; synthetic volumes are written with it."""
        return _described(self._entries[0])[0]

    def bytes_to_write(self) -> int:
        """Disk space that `build` still needs."""
        return sum(not _intact(entry, self.dataset) for entry in self._entries) * _entry_bytes(self.dataset)

    def build(self, workers: int = 1) -> Iterator[CacheStep]:
        """Make what is missing or damaged; yields a step for each case, those that are there already first.

        Raises:
            DataError: files that cannot be used, the first five named, after all others were cached.
            ResourceError: too little disk space (checked before the start too), or a worker was killed.
        """
        cases, total = self.inventory.cases, len(self)
        missing = [index for index, entry in enumerate(self._entries) if not _intact(entry, self.dataset)]
        smaller = ", or --set data.cache=int16 (half the size)" if self.dataset.cache == "float32" else ""
        hint = f"free some space, or set WDM_CACHE_DIR to another disk{smaller}"
        require_space(self.cache_dir, len(missing) * _entry_bytes(self.dataset), hint)
        done = 0
        for index in sorted(set(range(total)) - set(missing)):
            done += 1
            yield CacheStep(done, total, cases[index].name, cases[index].path, 0.0, _described(self._entries[index])[1])
        broken: list[DataError] = []
        jobs = [_Job(self.dataset, cases[index].path, self._entries[index]) for index in missing]
        for number, result in parallel.run(_make_entry, jobs, workers):
            if isinstance(result, DataError):
                broken.append(result)
                continue
            done += 1
            seconds, facts = result
            case = cases[missing[number]]
            yield CacheStep(done, total, case.name, case.path, seconds, facts)
        if broken:
            raise _summary(broken, total)


def _key(case: Case, settings: str) -> str:
    """Hash of the settings and of the file's identity: resolved path, size, times.

    The time of the inode's change (ctime) is among them: nobody can set it, so a file that was put in place of another
    under its old time has a new one. It does not depend on the mount, as inode numbers of many network file systems do.
    """
    try:
        path = case.path.resolve(strict=True)
        facts = path.stat()
    except OSError as error:
        raise DataError(f"{case.path}: cannot be read: {error.strerror}") from error
    identity = f"{settings}\n{path}\n{facts.st_size}\n{facts.st_mtime_ns}\n{facts.st_ctime_ns}"
    return hashlib.sha256(identity.encode(errors="surrogateescape")).hexdigest()[:16]


def _make_entry(job: _Job) -> tuple[float, Facts]:
    """Preprocess one file into its entry; returns the seconds it took and its facts."""
    started = time.perf_counter()
    if _intact(job.entry, job.dataset):  # another process was faster
        return 0.0, _described(job.entry)[1]
    prepared = job.dataset.prepare(job.source)
    array = prepared.volume.array
    if job.dataset.cache == "int16":
        array = np.rint(array * INT16_SCALE).astype(np.int16)
    affine, facts = prepared.volume.affine.tolist(), prepared.facts
    write_json(job.entry.with_suffix(".json"), {"affine": affine, "source": str(job.source), "facts": facts.to_dict()})
    write_array(job.entry, array)
    return time.perf_counter() - started, facts


def _intact(entry: Path, dataset: Dataset) -> bool:
    """Whether an entry is there, whole, and of the right shape and type."""
    try:
        stored = np.load(entry, mmap_mode="r", allow_pickle=False)
        _described(entry)
        size = entry.stat().st_size
    except (OSError, ValueError, EOFError, DataError):
        return False
    right = stored.shape == dataset.shape and stored.dtype == np.dtype(dataset.cache)
    return bool(right and size == stored.offset + stored.nbytes)


def _described(entry: Path) -> tuple[Affine, Facts]:
    """Affine and facts from the JSON file beside an entry."""
    path = entry.with_suffix(".json")
    try:
        values = json.loads(path.read_bytes())
        affine, facts = np.array(values["affine"], np.float64), Facts.from_dict(values["facts"])
        if affine.shape == (4, 4):
            return affine, facts
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: missing or damaged ({error})", hint="run the same command again") from error
    raise DataError(f"{path}: damaged", hint="run the same command again")


def _entry_bytes(dataset: Dataset) -> int:
    depth, height, width = dataset.shape
    return depth * height * width * np.dtype(dataset.cache).itemsize + 1024


def _summary(broken: list[DataError], total: int) -> DataError:
    """One error for all broken files."""
    if len(broken) == 1:
        return broken[0]
    lines = [error.what for error in sorted(broken, key=str)[:SHOWN]]
    more = f"\n  … and {len(broken) - SHOWN} more" if len(broken) > SHOWN else ""
    return DataError(
        f"{len(broken)} of {total} files cannot be used:\n  " + "\n  ".join(lines) + more,
        hint="`wdm verify DIR` lists them all; repair them or move them out of the folder",
    )
