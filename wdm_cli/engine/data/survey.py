"""What a data set is worth before training starts: every file read as training would read it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wdm_cli.engine.data import parallel
from wdm_cli.engine.data.dataset import Dataset
from wdm_cli.engine.data.facts import Facts
from wdm_cli.engine.data.inventory import Inventory
from wdm_cli.engine.errors import DataError

THUMBNAIL = 12
BACKGROUND = -0.8  # of [−1, 1]: a tenth of the range


@dataclass(frozen=True)
class CaseReport:
    """One file: what is in it, or `problem` if it cannot be used.

    Attributes:
        facts: what is known of it; None with a problem.
        content: share of the training volume that is not background.
        digest: of the training voxels. thumbnail: the training volume, averaged down.
    """

    name: str
    path: Path
    problem: str = ""
    facts: Facts | None = None
    content: float = 0.0
    digest: str = ""
    thumbnail: NDArray[np.float32] | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, without the thumbnail."""
        facts = {**self.facts.to_dict(), "warning": self.facts.warning} if self.facts else {}
        own = {"name": self.name, "path": str(self.path), "problem": self.problem}
        return own | facts | {"content": self.content, "digest": self.digest}


@dataclass(frozen=True)
class _Job:
    dataset: Dataset
    name: str
    path: Path


def survey(dataset: Dataset, inventory: Inventory, workers: int = 1) -> Iterator[CaseReport]:
    """Read every case as training would and yield a report for each, as they are finished."""
    jobs = [_Job(dataset, case.name, case.path) for case in inventory.cases]
    for _, report in parallel.run(_inspect, jobs, workers):
        assert isinstance(report, CaseReport)
        yield report


def known(reports: Sequence[CaseReport]) -> dict[str, Facts]:
    """Name -> facts of the volumes that can be used."""
    return {report.name: report.facts for report in reports if report.facts}


def _inspect(job: _Job) -> CaseReport:
    try:
        prepared = job.dataset.prepare(job.path)
    except DataError as error:
        problem = error.what.removeprefix(f"{job.path}: ") + (f" ({error.hint})" if error.hint else "")
        return CaseReport(job.name, job.path, problem=problem)
    array = prepared.volume.array
    return CaseReport(
        name=job.name,
        path=job.path,
        facts=prepared.facts,
        content=round(float((array > BACKGROUND).mean()), 4),
        digest=hashlib.sha256(array.tobytes()).hexdigest()[:16],
        thumbnail=thumbnail(array),
    )


def thumbnail(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """[12, 12, 12] block means of a larger volume; smaller sides stay as they are."""
    for axis, side in enumerate(array.shape):
        starts = np.arange(min(THUMBNAIL, side)) * side // min(THUMBNAIL, side)
        counts = np.diff(starts, append=side).astype(np.float32)
        sums = np.add.reduceat(array, starts, axis=axis)
        array = sums / counts.reshape([-1 if other == axis else 1 for other in range(3)])
    return array
