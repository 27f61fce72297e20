"""Folders of volumes (NIfTI, NRRD, MetaImage; BraTS) to plans."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wdm_cli.engine.data.brats import CONTRASTS, NAME
from wdm_cli.engine.data.inventory import Case, Inventory, named, stem, walk
from wdm_cli.engine.data.patients import codes
from wdm_cli.engine.data.transforms import AIR
from wdm_cli.engine.errors import DataError
from wdm_cli.engine.files import safe_name
from wdm_cli.engine.preprocess.ct import Seen
from wdm_cli.engine.preprocess.foreign import SUFFIXES, read_volume
from wdm_cli.engine.preprocess.manifest import Entry
from wdm_cli.engine.preprocess.resample import Axis, axis_for, even, grid_affine, resample
from wdm_cli.engine.preprocess.target import METAL, Prepared, Target, finish_ct, finish_mr, to_ras
from wdm_cli.engine.preprocess.work import Plan


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
    repairs: tuple[str, ...] = ()

    files = property(lambda self: [self.path])

    def prepare(self) -> Prepared:
        try:
            return prepare(self.path, self.target)
        except DataError as error:  # reasons go into the manifest, and names of folders may be names of patients
            raise DataError(error.what.replace(str(self.path), self.path.name)) from error


def prepare(path: Path, target: Target) -> Prepared:
    """Read, reorient to RAS, resample and crop or pad where wanted, scale intensities.

    Raises:
        DataError: the file cannot be used; it is named.
    """
    volume = read_volume(path)
    array, affine, _ = to_ras(volume.array, volume.affine)
    is_ct, seen = target.modality == "ct", Seen()
    seen.add(array, None)
    in_hu = is_ct and not (target.intensity == "paper" and seen.census.in_unit_range)
    if in_hu:
        array = np.clip(array, AIR, METAL)
    spacing = np.linalg.norm(affine[:3, :3], axis=0).tolist()
    axes = [axis_for(even(n, mm), target.size, target.spacing) for n, mm in zip(array.shape, spacing, strict=True)]
    if target.size is not None or target.spacing is not None:
        low, high = float(array.min()), float(array.max())
        array = np.clip(resample(array, axes, AIR if in_hu else low), low, high)  # splines overshoot at edges
        affine = grid_affine(affine, axes)
    try:
        if in_hu:
            result = finish_ct(array, target, seen.census)
        else:  # CT in [0, 1] has been through the paper's rule before
            result = np.clip(array, 0, 1) if is_ct else finish_mr(array)
    except DataError as error:
        raise DataError(f"{path.name}: {error.what}") from error
    repairs = (*(seen.repairs() if in_hu else ()), *_padding(axes)) if is_ct else ()
    return Prepared(result, affine, repairs, _facts(seen, spacing, axes, affine, result.shape))


def plan_nifti(folder: Path, target: Target) -> Plan:
    """Every NIfTI, NRRD and MetaImage file under a folder is a case CASE.nii.gz.

    Raises:
        DataError: there is none.
    """
    files, ignored = walk(folder)
    files += [path for path, _ in ignored if path.suffix.lower() in SUFFIXES]
    ignored = [(path, reason) for path, reason in ignored if path.suffix.lower() not in SUFFIXES]
    cases = named([(_stem(path), path) for path in sorted(files)], folder)
    whose = codes(Inventory(folder, cases))
    jobs = [_job(case, f"{case.name}.nii.gz", folder, target, whose) for case in cases]
    return _plan("nifti", jobs, ignored, folder, target, "NIfTI, NRRD or MetaImage files")


def plan_brats(folder: Path, target: Target) -> Plan:
    """Every BraTS file (all contrasts) becomes CASE/CASE-t1n.nii.gz and so on, named as since 2023.

    Raises:
        DataError: no file is named as in BraTS.
    """
    files, ignored = walk(folder)
    found: list[tuple[str, str, Path]] = []
    for path in files:
        match = NAME.fullmatch(stem(path))
        kind = match["kind"].lower() if match else ""
        if match is None or kind == "seg":
            ignored.append((path, "segmentation" if match else "not named as in BraTS"))
        else:
            found.append((match["case"], CONTRASTS.get(kind, kind), path))
    cases = named(_brats_names(found, folder, ignored), folder)
    whose = codes(Inventory(folder, cases))
    jobs = [_job(case, f"{case.name.rpartition('-')[0]}/{case.name}.nii.gz", folder, target, whose) for case in cases]
    return _plan("brats", jobs, ignored, folder, target, "files named CASE-t1n.nii.gz, CASE_flair.nii.gz, …")


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


def _job(case: Case, output: str, folder: Path, target: Target, whose: dict[str, str]) -> FileJob:
    where = str(case.path.relative_to(folder))
    source = hashlib.sha256(f"{where} {case.path.stat().st_size}".encode(errors="surrogateescape")).hexdigest()[:16]
    return FileJob(case.path, case.name, output, where, source, whose[case.name], target)


def _plan(
    command: str, jobs: list[FileJob], ignored: list[tuple[Path, str]], folder: Path, target: Target, wanted: str
) -> Plan:
    counts = Counter(reason for _, reason in ignored)
    if not jobs:
        there = ", ".join(f"{count} {reason}" for reason, count in counts.most_common()) or "nothing"
        raise DataError(
            f"no volume found in {folder}; found {there}",
            why=f"expected {wanted}",
            hint="`wdm preprocess lidc` takes DICOM, `wdm preprocess nifti` volumes of any name",
        )
    settled = [
        Entry("", "ignored", hashlib.sha256(reason.encode()).hexdigest()[:16], count, reasons=(reason,))
        for reason, count in sorted(counts.items())
    ]
    return Plan(jobs, settled, {"command": command, **dataclasses.asdict(target)})


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


def _stem(path: Path) -> str:
    return path.stem if path.suffix.lower() in SUFFIXES else stem(path)
