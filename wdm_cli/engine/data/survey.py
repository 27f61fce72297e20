"""What a data set is worth before training starts: every file read as training would read it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wdm_cli.engine.data import parallel
from wdm_cli.engine.data.dataset import Dataset
from wdm_cli.engine.data.inventory import Inventory
from wdm_cli.engine.data.volume import are_cubes, times
from wdm_cli.engine.errors import DataError

THUMBNAIL = 12
BACKGROUND = -0.8  # of [−1, 1]: a tenth of the range


@dataclass(frozen=True)
class CaseReport:
    """One file: what is in it, and `problem` if it cannot be used (the rest is then empty).

    Attributes:
        sides: of the file, in voxels; spacing in mm; orientation of its axes, e.g. RAS.
        factor: raw voxels averaged along each axis.
        lost: anatomy cropped away at both ends of each axis, in mm; warning: the same in a sentence.
        low, high: raw intensities. content: share of the training volume that is not background.
        digest: of the training voxels. thumbnail: the training volume, averaged down.
    """

    name: str
    path: Path
    problem: str = ""
    sides: tuple[int, ...] = ()
    spacing: tuple[float, ...] = ()
    orientation: str = ""
    factor: int = 0
    lost: tuple[tuple[float, float], ...] = ()
    warning: str = ""
    low: float = 0.0
    high: float = 0.0
    content: float = 0.0
    digest: str = ""
    thumbnail: NDArray[np.float32] | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, without the thumbnail."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "thumbnail"}
        return values | {"path": str(self.path)}


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


def oddities(reports: Sequence[CaseReport]) -> list[str]:
    """What no single file shows: axes, voxel sizes or proportions that a network would have to learn as well."""
    found = []
    usable = [report for report in reports if not report.problem]
    stretched = [report for report in usable if not are_cubes(report.spacing)]
    if stretched:
        found.append(
            f"{len(stretched)} of {len(usable)} volumes have voxels that are no cubes (e.g. {stretched[0].name}); "
            "training keeps voxels as they are, so resample them first if distances matter"
        )
    kinds: tuple[tuple[str, Callable[[CaseReport], str]], ...] = (
        ("orientation", lambda report: report.orientation),
        ("voxel size", lambda report: "×".join(f"{mm:.2g}" for mm in report.spacing) + " mm"),
    )
    for what, value in kinds:
        counts = Counter(map(value, usable)).most_common()
        if len(counts) > 1:
            listed = ", ".join(f"{text} ({count})" for text, count in counts[:4]) + (" …" if len(counts) > 4 else "")
            found.append(f"more than one {what}: {listed}")
    return found


def _inspect(job: _Job) -> CaseReport:
    try:
        prepared = job.dataset.prepare(job.path)
    except DataError as error:
        return CaseReport(job.name, job.path, problem=error.what.removeprefix(f"{job.path}: "))
    array = prepared.volume.array
    return CaseReport(
        name=job.name,
        path=job.path,
        sides=prepared.raw,
        spacing=tuple(round(mm, 4) for mm in prepared.raw_spacing),
        orientation=prepared.orientation,
        factor=prepared.factor,
        lost=prepared.lost,
        warning=prepared.warning,
        low=round(prepared.raw_range[0], 4),
        high=round(prepared.raw_range[1], 4),
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


def describe(report: CaseReport) -> str:
    """Sides, spacing and orientation on one line."""
    return f"{times(report.sides)}  {'×'.join(f'{mm:.3g}' for mm in report.spacing)} mm  {report.orientation}"
