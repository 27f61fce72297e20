"""A folder of DICOM files to a plan: which series become cases, and what happens to every other file."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from wdm_cli.engine.dicom import OtherFile, Policy, Series, Slice, choose, group, judge
from wdm_cli.engine.dicom.image import MODALITY
from wdm_cli.engine.errors import DataError
from wdm_cli.engine.preprocess.ct import padded_and_cropped, plan, prepare
from wdm_cli.engine.preprocess.manifest import Entry
from wdm_cli.engine.preprocess.target import Prepared, Target
from wdm_cli.engine.preprocess.work import Plan


@dataclass(frozen=True)
class CtJob:
    """One usable series to make a volume of."""

    series: Series
    policy: Policy
    target: Target
    where: str

    case = property(lambda self: self.series.case)
    patient = property(lambda self: self.series.patient)
    source = property(lambda self: self.series.source)
    files = property(lambda self: [file.path for file in self.series.files])
    repairs = property(lambda self: self.series.repairs)
    output = property(lambda self: f"{self.series.case}/preprocessed.nii.gz")

    def prepare(self) -> Prepared:
        return prepare(self.series, self.policy, self.target)


def plan_lidc(found: Iterable[Slice | OtherFile], folder: Path, policy: Policy, target: Target) -> Plan:
    """Judge everything that `scan` found under `folder`; no pixel is read.

    Raises:
        DataError: there is no CT series at all; what was found is counted.
    """
    items = list(found)
    slices = [item for item in items if isinstance(item, Slice)]
    others = [item for item in items if isinstance(item, OtherFile)]
    scans = [item for item in slices if item.modality == MODALITY]
    series = [judge(members, policy) for members in group(scans)]
    series = blame_damaged(series, others)
    series = [_with_padding(item, target) for item in choose(series, policy)]
    settled = [_entry(item, folder) for item in series if not item.usable]
    settled += _entries_of_others(others, folder)
    settled += _entries_of_modalities(item for item in slices if item.modality != MODALITY)
    if not any(item.verdict != "ignored" for item in series):
        found_instead = ", ".join(f"{entry.files} {entry.reasons[0]}" for entry in settled) or "no files at all"
        raise DataError(
            f"no CT series found in {folder}; found {found_instead}", hint="name the folder of the DICOM files"
        )
    jobs = [CtJob(item, policy, target, _where(item.files[0].path, folder)) for item in series if item.usable]
    protocol = {"command": "lidc", **dataclasses.asdict(target), **dataclasses.asdict(policy)}
    return Plan(jobs, settled, protocol)


def blame_damaged(series: list[Series], others: list[OtherFile]) -> list[Series]:
    """A damaged file belongs to the only series of its folder, which then cannot be trusted to be whole."""
    if not any(other.verdict == "skipped" for other in others):
        return series
    by_folder: dict[Path, set[str]] = defaultdict(set)
    for item in series:
        for file in item.files:
            by_folder[file.path.parent].add(item.source)
    damaged: dict[str, OtherFile] = {}
    for other in others:
        owners = by_folder.get(other.path.parent, set())
        if other.verdict == "skipped" and len(owners) == 1:
            damaged.setdefault(next(iter(owners)), other)
    blamed = []
    for item in series:
        culprit = damaged.get(item.source)
        if culprit and item.verdict != "ignored":
            reasons = (f"{culprit.path.name}: {culprit.reason}", *item.reasons)
            item = dataclasses.replace(item, verdict="skipped", reasons=reasons)
        blamed.append(item)
    return blamed


def _with_padding(series: Series, target: Target) -> Series:
    """Padding a scan that is smaller than the volume is a repair."""
    if not series.usable or series.stack is None:
        return series
    padded, _ = padded_and_cropped(series.stack, plan(series.stack, target))
    if not any(padded):
        return series
    text = "padded by " + ", ".join(f"{mm:g} mm {axis}" for mm, axis in zip(padded, "xyz", strict=True) if mm)
    return dataclasses.replace(series, verdict="repaired", repairs=(*series.repairs, text))


def _entry(series: Series, folder: Path) -> Entry:
    return Entry(
        case=series.case,
        verdict=series.verdict,
        source=series.source,
        files=len(series.files),
        patient=series.patient,
        reasons=series.reasons,
        where=_where(series.files[0].path, folder),
    )


def _entries_of_others(others: list[OtherFile], folder: Path) -> list[Entry]:
    """Files that are no DICOM images: ignored ones counted by reason, skipped ones named by folder and reason."""
    ignored = Counter(item.reason for item in others if item.verdict == "ignored")
    entries = [_ignored(reason, count) for reason, count in sorted(ignored.items())]
    damaged: dict[tuple[Path, str], list[OtherFile]] = defaultdict(list)
    for item in others:
        if item.verdict == "skipped":
            damaged[item.path.parent, item.reason].append(item)
    for (parent, reason), items in damaged.items():
        more = f" (and {len(items) - 1} more files)" if len(items) > 1 else ""
        where = _where(items[0].path, folder)
        source = hashlib.sha256(f"{parent} {reason}".encode(errors="surrogateescape")).hexdigest()[:16]
        text = f"{items[0].path.name}: {reason}{more}"
        entries.append(Entry("", "skipped", source, len(items), reasons=(text,), where=where))
    return entries


def _entries_of_modalities(slices: Iterable[Slice]) -> list[Entry]:
    return [_ignored(modality, count) for modality, count in sorted(Counter(s.modality for s in slices).items())]


def _ignored(reason: str, files: int) -> Entry:
    return Entry("", "ignored", hashlib.sha256(reason.encode()).hexdigest()[:16], files, reasons=(reason,))


def _where(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)
