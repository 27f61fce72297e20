"""What a data set is worth before training starts: every file read as training would read it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from wdm_cli.engine.data import parallel
from wdm_cli.engine.data.dataset import Dataset
from wdm_cli.engine.data.inventory import Inventory
from wdm_cli.engine.data.volume import times
from wdm_cli.engine.errors import DataError

CUBIC = 1.1  # largest ratio of voxel sides that passes for a cube


@dataclass(frozen=True)
class CaseReport:
    """One file: what is in it, and `problem` if it cannot be used (the rest is then empty).

    Attributes:
        sides: of the file, in voxels; spacing in mm; orientation of its axes, e.g. RAS.
        factor: raw voxels averaged along each axis.
        lost: anatomy cropped away at both ends of each axis, in mm; warning: the same in a sentence.
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
    stretched = [report for report in usable if max(report.spacing) > CUBIC * min(report.spacing)]
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
    return CaseReport(
        name=job.name,
        path=job.path,
        sides=prepared.raw,
        spacing=tuple(round(mm, 4) for mm in prepared.raw_spacing),
        orientation=prepared.orientation,
        factor=prepared.factor,
        lost=prepared.lost,
        warning=prepared.warning,
    )


def describe(report: CaseReport) -> str:
    """Sides, spacing and orientation on one line."""
    return f"{times(report.sides)}  {'×'.join(f'{mm:.3g}' for mm in report.spacing)} mm  {report.orientation}"
