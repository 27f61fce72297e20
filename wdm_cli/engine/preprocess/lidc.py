"""A folder of DICOM files to a plan: which series become cases, and what happens to every other file."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wdm_cli.engine.dicom import OtherFile, Policy, Series, Slice, choose, group, judge, settle
from wdm_cli.engine.errors import ConfigError, DataError
from wdm_cli.engine.preprocess import ct, mr
from wdm_cli.engine.preprocess.decode import TwoFiles
from wdm_cli.engine.preprocess.manifest import Entry
from wdm_cli.engine.preprocess.target import Prepared, Target
from wdm_cli.engine.preprocess.work import Plan


@dataclass(frozen=True)
class SeriesJob:
    """One usable series to make a volume of."""

    series: Series
    policy: Policy
    target: Target
    folder: Path

    case = property(lambda self: self.series.case)
    patient = property(lambda self: self.series.patient)
    source = property(lambda self: self.series.source)
    files = property(lambda self: [file.path for file in self.series.files])
    repairs = property(lambda self: self.series.repairs)
    where = property(lambda self: _where(self.series.files[0].path, self.folder))

    @property
    def output(self) -> str:
        """As `--dataset lidc-idri` wants CT, and `--dataset adni` or `nifti` MR."""
        case = self.series.case
        return f"{case}/preprocessed.nii.gz" if self.target.modality == "ct" else f"{case}.nii.gz"

    def prepare(self) -> Prepared:
        prepare = ct.prepare if self.target.modality == "ct" else mr.prepare
        try:
            made = prepare(self.series, self.policy, self.target)
        except TwoFiles as error:
            where = " and ".join(_where(path, self.folder) for path in error.paths)
            raise TwoFiles(error.what, error.paths, where) from error
        return dataclasses.replace(made, facts={**made.facts, **_facts(self.series)})


def plan_lidc(found: Iterable[Slice | OtherFile], folder: Path, policy: Policy, target: Target) -> Plan:
    """Judge every CT series that `scan` found under `folder`; no pixel is read.

    Raises:
        DataError: there is no CT series at all; what was found is counted.
    """
    return _plan("lidc", found, folder, policy, target)


def plan_mr(
    found: Iterable[Slice | OtherFile], folder: Path, policy: Policy, target: Target, protocol: str = ""
) -> Plan:
    """As `plan_lidc`, of MR series.

    Args:
        protocol: a regular expression that SeriesDescription or ProtocolName has to match, in any case.

    Raises:
        DataError: there is no such series at all; what was found is counted.
        ConfigError: the expression is none.
    """
    try:
        wanted = re.compile(protocol, re.IGNORECASE)
    except re.error as error:
        raise ConfigError(f"--protocol {protocol}: {error}", hint="e.g. --protocol 'mprage|spgr'") from error
    items, other = [], 0
    for item in found:
        unwanted = isinstance(item, Slice) and item.modality == "MR" and not wanted.search(item.protocol)
        other += unwanted
        if not unwanted:
            items.append(item)
    made = _plan("mr", items, folder, policy, target, [_ignored("MR of another protocol", other)] if other else [])
    return dataclasses.replace(made, protocol={**made.protocol, "series_protocol": protocol})


def _plan(
    command: str,
    found: Iterable[Slice | OtherFile],
    folder: Path,
    policy: Policy,
    target: Target,
    settled: Sequence[Entry] = (),
) -> Plan:
    modality = target.modality.upper()
    items = list(found)
    slices, warnings = settle([item for item in items if isinstance(item, Slice)])
    others = [item for item in items if isinstance(item, OtherFile)]
    scans = [item for item in slices if item.modality == modality]
    series = [judge(members, policy) for members in group(scans)]
    series = _with_siblings(series)
    series = blame_damaged(series, others)
    series = [_with_padding(item, target) for item in choose(series, policy)]
    entries = [*settled, *(_entry(item, folder) for item in series if not item.usable)]
    entries += _entries_of_others(others, folder)
    entries += _entries_of_modalities(item for item in slices if item.modality != modality)
    if not any(item.verdict != "ignored" for item in series):
        found_instead = ", ".join(f"{entry.files} {entry.reasons[0]}" for entry in entries) or "no files at all"
        raise DataError(
            f"no {modality} series found in {folder}; found {found_instead}",
            hint="name the folder of the DICOM files; `wdm preprocess lidc` takes CT, `wdm preprocess mr` MR",
        )
    jobs = [SeriesJob(item, policy, target, folder) for item in series if item.usable]
    protocol = {"command": command, **dataclasses.asdict(target), **dataclasses.asdict(policy)}
    return Plan(jobs, entries, protocol, tuple(warnings))


def blame_damaged(series: list[Series], others: list[OtherFile]) -> list[Series]:
    """A damaged file belongs to the only series of its folder, which then cannot be trusted to be whole."""
    if not any(other.verdict == "skipped" for other in others):
        return series
    by_folder: dict[Path, set[tuple[str, str]]] = defaultdict(set)
    for item in series:
        for file in item.files:
            by_folder[file.path.parent].add((file.patient, file.series_uid))
    damaged: dict[tuple[str, str], OtherFile] = {}
    for other in others:
        owners = by_folder.get(other.path.parent, set())
        if other.verdict == "skipped" and len(owners) == 1:
            damaged.setdefault(next(iter(owners)), other)
    blamed = []
    for item in series:
        culprit = damaged.get((item.patient, item.files[0].series_uid))
        if culprit and item.verdict != "ignored":
            reasons = (f"{culprit.path.name}: {culprit.reason}", *item.reasons)
            item = dataclasses.replace(item, verdict="skipped", reasons=reasons)
        blamed.append(item)
    return blamed


def _with_siblings(series: list[Series]) -> list[Series]:
    """Say which cases came out of one series UID."""
    count = Counter((item.patient, item.files[0].series_uid) for item in series)
    told = []
    for item in series:
        images = count[item.patient, item.files[0].series_uid]
        if item.usable and images > 1:
            which = ", ".join(item.files[0].contrast) if item.files[0].modality == "CT" else ""  # MR: in the facts
            text = f"one of {images} images under one series UID" + (f" ({which})" if which else "")
            item = dataclasses.replace(item, verdict="repaired", repairs=(*item.repairs, text))
        told.append(item)
    return told


def _with_padding(series: Series, target: Target) -> Series:
    """Padding a CT that is smaller than the volume is a repair."""
    if not series.usable or series.stack is None or target.modality != "ct":
        return series
    padded, _ = ct.padded_and_cropped(series.stack, ct.plan(series.stack, target))
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
        facts=_facts(series),
        where=_where(series.files[0].path, folder),
    )


def _facts(series: Series) -> dict[str, Any]:
    """What the manifest says of a series besides its figures: what it is called, and whose it is if PatientID lied."""
    first = series.files[0]
    moved = first.owner is not None and first.owner.study == first.patient != first.owner.code
    return {
        **({"description": series.title} if series.title else {}),
        **({"patient_is": "the study, since PatientID is shared by several people"} if moved else {}),
    }


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
