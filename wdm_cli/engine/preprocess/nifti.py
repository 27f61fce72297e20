"""Folders of volumes (NIfTI, NRRD, MetaImage; BraTS) to plans."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from wdm_cli.engine.data.brats import CONTRASTS, NAME, Brats
from wdm_cli.engine.data.facts import SIGNS
from wdm_cli.engine.data.formats import CONVERTED, NIFTI, format_of, suffix_of
from wdm_cli.engine.data.header import MAX_SHEAR, refuse_impossible, refuse_leaning, shear, voxel_size
from wdm_cli.engine.data.inventory import Case, Inventory, Listing, counted, named, some_of, stem, walk
from wdm_cli.engine.data.labelmaps import BY_NAME, by_content, by_name
from wdm_cli.engine.data.patients import codes
from wdm_cli.engine.data.remedies import remedies
from wdm_cli.engine.data.transforms import AIR, background
from wdm_cli.engine.dicom.series import Verdict
from wdm_cli.engine.errors import DataError
from wdm_cli.engine.files import safe_name
from wdm_cli.engine.preprocess.crop import of_volume
from wdm_cli.engine.preprocess.ct import Seen
from wdm_cli.engine.preprocess.foreign import read_volume
from wdm_cli.engine.preprocess.manifest import Entry
from wdm_cli.engine.preprocess.pairs import NO_ORIENTATION, is_analyze
from wdm_cli.engine.preprocess.resample import (
    Axis,
    axis_for,
    even,
    grid_affine,
    refuse_too_large,
    resample,
    straighten,
)
from wdm_cli.engine.preprocess.target import BODY, METAL, Prepared, Target, finish_ct, finish_mr, to_ras
from wdm_cli.engine.preprocess.work import Plan

READ = (*NIFTI, *CONVERTED)
LabelMaps = Literal["leave", "take"]


@dataclass(frozen=True)
class FileJob:
    """One file to make a volume of."""

    path: Path
    case: str
    output: str
    where: str
    source: str
    patient: str
    target: Target
    label_maps: LabelMaps = "leave"

    repairs: ClassVar[tuple[str, ...]] = ()

    files = property(lambda self: [self.path])

    def prepare(self) -> Prepared:
        try:
            made = prepare(self.path, self.target, self.label_maps)
            if suffix_of(self.path.name) == ".hdr" and is_analyze(self.path):
                made = dataclasses.replace(made, repairs=(NO_ORIENTATION, *made.repairs))
            return made
        except DataError as error:
            raise DataError(_without_places(error.what, self.path)) from error


def _without_places(reason: str, path: Path) -> str:
    """A reason as it may stand in the manifest: names of folders may be names of patients."""
    if path.is_symlink():
        reason = reason.replace(str(path.readlink()), "another file")
    return reason.replace(f"{path.parent}/", "")


def prepare(path: Path, target: Target, label_maps: LabelMaps = "leave") -> Prepared:
    """Read, reorient to RAS, resample and crop or pad where wanted, scale intensities.

    Raises:
        DataError: the file cannot be used; it is named.
    """
    volume = read_volume(path)
    if label_maps == "leave" and (reason := by_content(volume.array)):
        raise DataError(f"{path}: {reason} (--label-maps take of `wdm preprocess nifti` takes it as a volume)")
    refuse_impossible(path, volume.affine)
    if target.tilt == "skip":
        refuse_leaning(path, volume.affine)
    array, affine, _ = to_ras(volume.array, volume.affine)
    is_ct, seen = target.modality == "ct", Seen()
    seen.add(array, None)
    in_hu = is_ct and not (target.intensity == "paper" and seen.census.in_unit_range)
    if in_hu:
        array = np.clip(array, AIR, METAL)
    spacing, low, high = list(voxel_size(affine)), float(array.min()), float(array.max())
    ground = None if in_hu else background(array)  # of MR that was scaled inside a mask it is not the lowest value
    fill, repairs = AIR if in_hu else low, [SIGNS[sign].removeprefix("have ") for sign in volume.signs]
    fill = fill if ground is None else ground
    if (angle := shear(affine)) > MAX_SHEAR:
        array, affine = _straighten(path, array, affine, fill)
        repairs.append(f"leaned by {angle:.1f}°, sheared back")
    sides = zip(array.shape, voxel_size(affine), target.along(affine), strict=True)
    axes = [axis_for(even(n, mm), *wanted) for n, mm, wanted in sides]
    refuse_too_large(path.name, axes)
    lost = of_volume(array, axes, BODY if in_hu else None)
    if not target.keeps_grid:
        array, affine = resample(array, axes, fill), grid_affine(affine, axes)
    array = np.clip(array, low, high)  # splines overshoot at edges
    try:
        if in_hu:
            result = finish_ct(array, target, seen.census)
        else:  # CT in [0, 1] has been through the paper's rule before
            result = np.clip(array, 0, 1) if is_ct else finish_mr(array)
    except DataError as error:
        raise DataError(f"{path.name}: {error.what}") from error
    if is_ct:
        repairs += [*(seen.repairs() if in_hu else ()), *_padding(axes)]
    facts = _facts(seen, spacing, axes, affine, result.shape) | lost
    if not is_ct and seen.census.looks_like_hu:
        facts["looks_like_hu"] = True
    return Prepared(result, affine, tuple(repairs), facts)


def _straighten(path: Path, array: Any, affine: Any, fill: float) -> tuple[Any, Any]:
    try:
        return straighten(array, affine, fill)
    except ValueError as error:
        raise DataError(f"{path.name}: {error} (3D Slicer resamples it onto a straight grid)") from error


def plan_nifti(folder: Path, target: Target, label_maps: LabelMaps = "leave") -> Plan:
    """Every file of a format that is read, under a folder, is a case CASE.nii.gz.

    Args:
        label_maps: `take` them as volumes like others; else they are ignored by name and skipped by content.

    Raises:
        DataError: there is none.
    """
    listing = walk(folder, READ)
    files = _images(listing, folder, label_maps)
    cases = named([(stem(path), path) for path in files], folder)
    whose = codes(Inventory(folder, cases))
    jobs = [_job(case, f"{case.name}.nii.gz", folder, whose, target, label_maps) for case in cases]
    plan = _plan("nifti", jobs, listing, folder, "NIfTI, NRRD, MetaImage, Analyze or FreeSurfer files")
    formats = [known.name for path in files if (known := format_of(path.name))]
    several = f"several formats are read ({counted(formats)}): the same scan may be here twice"
    return dataclasses.replace(plan, notes=(several,) if len(set(formats)) > 1 else ())


def plan_brats(folder: Path, target: Target) -> Plan:
    """Every BraTS file (all contrasts) becomes CASE/CASE-t1n.nii.gz and so on, named as since 2023.

    Raises:
        DataError: no file is named as in BraTS.
    """
    listing = walk(folder, READ)
    found: list[tuple[str, str, Path]] = []
    for path in _images(listing, folder, "leave"):
        match = NAME.fullmatch(stem(path))
        if match is None:
            listing.ignored.append((path, Brats.unlike))
        else:
            found.append((match["case"], CONTRASTS.get(kind := match["kind"].lower(), kind), path))
    cases = named(_brats_names(found, folder, listing.ignored), folder)
    whose = codes(Inventory(folder, cases))
    jobs = [_job(case, f"{case.name.rpartition('-')[0]}/{case.name}.nii.gz", folder, whose, target) for case in cases]
    plan = _plan("brats", jobs, listing, folder, "files named CASE-t1n.nii.gz, CASE_flair.nii.gz, …")
    return dataclasses.replace(plan, notes=_lacking(found))


def _images(listing: Listing, folder: Path, label_maps: LabelMaps) -> list[Path]:
    """The files found but for those that are label maps by name, which are ignored as such."""
    told = {path: by_name(path, folder) if label_maps == "leave" else "" for path in listing.files}
    listing.ignored += [(path, reason) for path, reason in told.items() if reason]
    return [path for path, reason in told.items() if not reason]


def _lacking(found: list[tuple[str, str, Path]]) -> tuple[str, ...]:
    """A sentence for each contrast that most cases have and others lack."""
    cases: dict[str, set[str]] = defaultdict(set)
    for case, contrast, _ in found:
        cases[case].add(contrast)
    count = Counter(contrast for own in cases.values() for contrast in own)
    usual = sorted(contrast for contrast, times in count.items() if len(cases) > times >= len(cases) / 2)
    lacking = {contrast: sorted(case for case, own in cases.items() if contrast not in own) for contrast in usual}
    return tuple(
        f"{len(names)} of {len(cases)} cases {'has' if len(names) == 1 else 'have'} no {contrast}: {some_of(names)}"
        for contrast, names in lacking.items()
    )


def _brats_names(
    found: list[tuple[str, str, Path]], folder: Path, ignored: list[tuple[Path, str]]
) -> list[tuple[str, Path]]:
    """CASE-CONTRAST of every file; cases of one name in several folders take their folder into it."""
    homes: dict[str, set[Path]] = defaultdict(set)
    for case, _, path in found:
        homes[case.lower()].add(path.parent)
    names: dict[str, Path] = {}
    for case, contrast, path in found:
        alone = len(homes[case.lower()]) == 1
        text = case if alone else f"{(path.parent / case).relative_to(folder)} "  # the blank brings a hash
        name = f"{safe_name(text, limit=60)}-{contrast}"
        if name in names:
            ignored.append((path, "a second file of the same case and contrast"))
        names.setdefault(name, path)
    return list(names.items())


def _job(
    case: Case, output: str, folder: Path, whose: dict[str, str], target: Target, label_maps: LabelMaps = "leave"
) -> FileJob:
    where = str(case.path.relative_to(folder))
    size = case.path.stat().st_size if case.path.exists() else 0
    source = hashlib.sha256(f"{where} {size}".encode(errors="surrogateescape")).hexdigest()[:16]
    return FileJob(case.path, case.name, output, where, source, whose[case.name], target, label_maps)


def _plan(command: str, jobs: list[FileJob], listing: Listing, folder: Path, wanted: str) -> Plan:
    if not jobs:
        there = listing.text or "nothing"
        raise DataError(
            f"no volume found in {folder}; found {there}",
            why=f"expected {wanted}",
            hint=_hint(command, listing, folder),
        )
    counts = Counter(reason for _, reason in listing.ignored)
    unread = Counter(known for _, known in listing.foreign)
    first = {known: path for path, known in reversed(listing.foreign)}
    settled = [_settled("ignored", reason, count) for reason, count in sorted(counts.items())]
    for known, count in unread.most_common():
        text = f"{known.name}: {known.remedy}"
        settled.append(_settled("skipped", text, count, str(first[known].relative_to(folder))))
    for path, reason in sorted(listing.closed):
        text = "a link to what is not there" if path.is_symlink() else reason
        settled.append(_settled("skipped", text, 1, str(path.relative_to(folder))))
    job = jobs[0]
    protocol = {"command": command, **dataclasses.asdict(job.target), "label_maps": job.label_maps}
    return Plan(jobs, settled, protocol)


def _settled(verdict: Verdict, reason: str, count: int, where: str = "") -> Entry:
    source = hashlib.sha256(f"{reason}{where}".encode(errors="surrogateescape")).hexdigest()[:16]
    return Entry("", verdict, source, count, reasons=(reason,), where=where)


def _hint(command: str, listing: Listing, folder: Path) -> str:
    """What to type where no volume was found: never the command that was typed."""
    if listing.foreign:
        return "; ".join(text for text, _ in remedies(listing.foreign, folder))
    if command == "brats":
        return "`wdm preprocess nifti` takes volumes of any name"
    labels = any(reason == BY_NAME for _, reason in listing.ignored)
    return "--label-maps take reads label maps and masks, too" if labels else "check the path"


def _facts(seen: Seen, spacing: list[float], axes: list[Axis], affine: Any, shape: tuple[int, ...]) -> dict[str, Any]:
    return {
        "spacing_in": [round(mm, 4) for mm in spacing],
        "spacing_out": [round(mm, 4) for mm in np.linalg.norm(affine[:3, :3], axis=0).tolist()],
        "shape": list(shape),
        "padded_mm": [axis.padded for axis in axes],
        "cropped_mm": [axis.cropped for axis in axes],
        "range": seen.span,
    }


def _padding(axes: list[Axis]) -> list[str]:
    padded = ", ".join(f"{axis.padded:g} mm {name}" for axis, name in zip(axes, "xyz", strict=True) if axis.padded)
    return [f"padded by {padded}"] if padded else []
