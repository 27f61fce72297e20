"""What is wrong with a folder of volumes, file by file, before any score is believed."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from wdm_cli.engine.data.volume import Volume, read_nifti
from wdm_cli.engine.errors import DataError
from wdm_cli.engine.metrics.folder import nifti_files, read_told
from wdm_cli.engine.metrics.intensity import Intensity
from wdm_cli.engine.metrics.metric import Progress, Steps

CLIPPED = 0.01  # share of voxels at the very top of the range from which a volume counts as clipped
FLAT = 0.01  # standard deviation in [0, 1] below which a volume counts as nearly empty


@dataclass(frozen=True)
class Finding:
    """unusable: no score can be computed with this file; suspicious: look at it; left out: it is not scored.

    name: the file below the folder.
    """

    file: Path
    level: Literal["unusable", "suspicious", "left out"]
    text: str
    name: str = ""


@dataclass(frozen=True)
class Sanity:
    """All findings of a folder of n files, and how many volumes have each shape, spacing (mm) and orientation."""

    root: Path
    n: int
    findings: tuple[Finding, ...]
    shapes: dict[str, int]
    spacings: dict[str, int]
    orientations: dict[str, int]

    @property
    def unusable(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.level == "unusable")

    def to_dict(self) -> dict[str, Any]:
        """Plain tables for JSON."""
        findings = [{"file": str(f.file), "level": f.level, "finding": f.text} for f in self.findings]
        counts = {"shapes": self.shapes, "spacings": self.spacings, "orientations": self.orientations}
        return {"folder": str(self.root), "n": self.n, "findings": findings, **counts}


@dataclass(frozen=True)
class Look:
    """What one readable volume is like."""

    file: Path
    shape: str
    spacing: str
    orientation: str
    content: str


def inspect(root: str | Path, intensity: Intensity | None = None, least: int = 2) -> Steps[Sanity]:
    """Look at every NIfTI file of a folder: readable, finite, in range, empty, clipped, duplicated, out of line.

    Args:
        intensity: how volumes are stored; None takes it from the folder's run.json, else `paper`.
        least: how many files there must be.
    """
    root = Path(root)
    scheme = intensity or read_told(root).intensity or Intensity()
    files, left_out = nifti_files(root, least)
    looks, findings = [], [Finding(path, "left out", reason) for path, reason in left_out]
    for done, path in enumerate(files, start=1):
        try:
            volume = read_nifti(path)
            looks.append(look_at(path, volume))
            findings += [Finding(path, "suspicious", text) for text in oddities(scheme.to_unit(volume.array, path))]
        except DataError as error:
            findings.append(Finding(path, "unusable", error.what.removeprefix(f"{path}: ")))
        yield Progress(f"looking at {root}", done, len(files))
    findings += duplicates(looks)
    for name, level in (("shape", "unusable"), ("spacing", "suspicious"), ("orientation", "suspicious")):
        findings += out_of_line(looks, name, level)
    counts = (dict(Counter(getattr(look, name) for look in looks)) for name in ("shape", "spacing", "orientation"))
    findings = [dataclasses.replace(found, name=str(found.file.relative_to(root))) for found in findings]
    return Sanity(root, len(files), tuple(sorted(findings, key=lambda f: (f.level != "unusable", f.file))), *counts)


def oddities(array: np.ndarray) -> list[str]:
    """What is odd about the intensities of a volume in [0, 1]."""
    found = []
    at_top = float((array >= 1).mean())
    if at_top > CLIPPED:
        found.append(f"{at_top:.1%} of the voxels are at the top of the range: clipped?")
    if (spread := float(array.std())) < FLAT:
        found.append(f"nearly empty (standard deviation {spread:.2g})")
    return found


def look_at(path: Path, volume: Volume) -> Look:
    """What is compared between the volumes of a folder."""
    import nibabel as nib

    return Look(
        path,
        "×".join(map(str, volume.shape)),
        " × ".join(f"{mm:.3g}" for mm in volume.spacing),
        "".join(nib.aff2axcodes(volume.affine)),
        hashlib.sha256(volume.array.tobytes()).hexdigest(),
    )


def duplicates(looks: list[Look]) -> list[Finding]:
    """Volumes with the very voxels of an earlier one, whatever their files are like."""
    first: dict[str, Path] = {}
    found = []
    for look in looks:
        if (earlier := first.setdefault(look.content, look.file)) != look.file:
            found.append(Finding(look.file, "suspicious", f"the same voxels as {named(earlier, look.file)}"))
    return found


def named(path: Path, other: Path) -> str:
    """A file as one reads it beside another: its name, with its folder where both are named alike."""
    return path.name if path.name != other.name else f"{path.parent.name}/{path.name}"


def out_of_line(looks: list[Look], name: str, level: Any) -> list[Finding]:
    """Volumes that differ from the majority in one respect."""
    counts = Counter(getattr(look, name) for look in looks)
    if len(counts) < 2:
        return []
    usual, count = counts.most_common(1)[0]
    return [
        Finding(look.file, level, f"{name} {getattr(look, name)}, but {count} volumes have {usual}")
        for look in looks
        if getattr(look, name) != usual
    ]
