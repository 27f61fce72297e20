"""Rows computed by several processes: each puts its own into the cache, from which `extract` then takes them all.

A process opens the extractor by itself, on the GPU that its file is assigned to, so nothing large travels between
processes. The rows are the same ones, whatever the number of processes. `fill` starts them; `share` is for those
that a launcher started, on one machine or on several with a common cache.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from wdm_cli.engine.data import parallel
from wdm_cli.engine.device import keep_freed_memory_if_roomy
from wdm_cli.engine.errors import ConfigError, DataError
from wdm_cli.engine.metrics.extractor import Extractor, Opener
from wdm_cli.engine.metrics.features import Rows, Source, extract, kept_row, memory_needed, read_row
from wdm_cli.engine.metrics.metric import Progress, Steps
from wdm_cli.engine.metrics.volumes import Volumes

OPEN: dict[tuple[str, str], Extractor] = {}
"""The extractors of this process, by sha256 and device."""


@dataclass(frozen=True)
class Reopened:
    """The extractor of another process: small enough to send with every file, opened at its first volume."""

    again: Opener
    sha256: str
    device: str

    def __call__(self, volume: Rows) -> Rows:
        key = self.sha256, self.device
        if key not in OPEN:
            OPEN[key] = self.again(device=self.device)
        if OPEN[key].sha256 != self.sha256:
            raise ConfigError(
                "--workers: the network is another one in every process",
                why="features of two networks cannot be compared",
                hint="give it fixed weights or a fixed seed",
            )
        row: Rows = OPEN[key](torch.from_numpy(volume)[None, None])[0].numpy()
        return row


@dataclass(frozen=True)
class Task:
    """One file, and the rows that are wanted of it."""

    volumes: Volumes
    sources: tuple[Source, ...]


def fill(folders: Sequence[Volumes], sources: Sequence[Source], cache_dir: Path, workers: int) -> Steps[None]:
    """Compute the rows that are not in the cache yet, in `workers` processes, spread over the devices there are.

    Raises:
        DataError: a file cannot be read, or a row is not finite. ConfigError: the network differs between processes.
    """
    missing = [
        (volumes, index)
        for volumes in folders
        for index in range(len(volumes))
        if any(read_row(kept_row(cache_dir, volumes, index, source)) is None for source in sources)
    ]
    if min(workers, len(missing)) < 2 or any(source.extractor and not source.extractor.again for source in sources):
        return
    places = devices(sources)[:workers]
    tasks = [
        Task(volumes.only(index), tuple(portable(source, places[number % len(places)]) for source in sources))
        for number, (volumes, index) in enumerate(missing)
    ]
    threads = max(1, torch.get_num_threads() // workers)
    work = functools.partial(do, cache_dir=cache_dir, workers=workers, threads=threads)
    for done, (_, result) in enumerate(parallel.run(work, tasks, workers), start=1):
        if isinstance(result, DataError):
            raise result
        yield Progress(f"features by {workers} processes", done, len(tasks))


def share(folders: Sequence[Volumes], sources: Sequence[Source], cache_dir: Path, rank: int, world: int) -> Steps[None]:
    """Compute the rows of every `world`-th volume, from the `rank`-th on, that are not in the cache yet.

    For processes that were started together and share a cache. None waits for another: whoever needs a row that is
    still missing makes it, so one that is slow costs time, not the result. What a lost one costs is the launcher's
    choice: torchrun ends all, and the same command continues from the cache; where the others are left alone, they
    go on.
    """
    mine = [(volumes, index) for volumes in folders for index in range(len(volumes))][rank::world]
    for done, (volumes, index) in enumerate(mine, start=1):
        yield from extract(volumes.only(index), sources, cache_dir)
        yield Progress(f"features, this process's share of {world}", done, len(mine))


def do(task: Task, cache_dir: Path, workers: int, threads: int) -> None:
    """Put one file's rows into the cache, as one of so many workers."""
    torch.set_num_threads(threads)
    keep_freed_memory_if_roomy(workers * memory_needed(task.volumes.shape))
    for _ in extract(task.volumes, task.sources, cache_dir):
        pass


def devices(sources: Sequence[Source]) -> list[str]:
    """Where to compute: every GPU if the extractor is on `cuda` without a number, else where it is."""
    device = next((source.extractor.device for source in sources if source.extractor), torch.device("cpu"))
    if device.type == "cuda" and device.index is None:
        return [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return [str(device)]


def portable(source: Source, device: str) -> Source:
    """The source in a form that can be sent to another process."""
    if source.extractor is None or source.extractor.again is None:
        return source
    return Source(source.name, source.stamp, Reopened(source.extractor.again, source.extractor.sha256, device))
