"""What a data set is like as a whole: ranges, copies, empty and turned volumes, and what that suggests."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wdm_cli.engine.data.facts import Facts
from wdm_cli.engine.data.survey import CaseReport, known
from wdm_cli.engine.data.volume import times

NEAR_EMPTY = 0.01  # share of a volume that is not background; a head fills some 15 %
TURNED = 0.05  # by how much a turned volume must fit the others better
ENOUGH_TO_COMPARE = 4  # volumes; with fewer there is no rule to break
FEW, SOME = 100, 500  # cases
UNET_STEP = 32  # the sides of ours_unet_128 are multiples of it
FLIPS = [axes for count in (1, 2, 3) for axes in itertools.combinations(range(3), count)]
SHOWN = 5


def usable(reports: Sequence[CaseReport]) -> list[CaseReport]:
    return [report for report in reports if not report.problem]


def duplicates(reports: Sequence[CaseReport]) -> list[list[str]]:
    """Names of cases with equal training voxels, in groups."""
    groups: dict[str, list[str]] = defaultdict(list)
    for report in usable(reports):
        groups[report.digest].append(report.name)
    return sorted(sorted(names) for names in groups.values() if len(names) > 1)


def near_empty(reports: Sequence[CaseReport]) -> list[str]:
    """Cases that hold hardly anything but background."""
    return [report.name for report in usable(reports) if report.content < NEAR_EMPTY]


def turned(reports: Sequence[CaseReport]) -> dict[str, str]:
    """Case -> the array axes along which it seems flipped: so it fits the mean of the others better.

    Compared on thumbnails by correlation. A flip of left and right is seen only where the anatomy is uneven enough.
    """
    cases = usable(reports)
    if len(cases) < ENOUGH_TO_COMPARE:
        return {}
    small = np.stack([report.thumbnail for report in cases if report.thumbnail is not None])
    found = {}
    for report, own, others in zip(cases, small, (small.sum(axis=0) - small) / (len(cases) - 1), strict=True):
        straight = _correlation(own, others)
        fits = {axes: _correlation(np.flip(own, axes), others) for axes in FLIPS}
        best = max(fits, key=lambda axes: fits[axes])
        if fits[best] > straight + TURNED:
            found[report.name] = ", ".join("ijk"[axis] for axis in best)
    return found


def doubts(reports: Sequence[CaseReport]) -> list[str]:
    """Copies, near-empty and turned volumes, one sentence a kind."""
    found = []
    copies, empty, flipped = duplicates(reports), near_empty(reports), turned(reports)
    if copies:
        pairs = "; ".join(" = ".join(names[:3]) for names in copies[:SHOWN])
        found.append(f"{sum(map(len, copies)) - len(copies)} volumes are copies of others: {pairs}")
    if empty:
        found.append(f"{len(empty)} volumes are nearly empty: {_some(empty)}")
    if flipped:
        named = [f"{name} (axes {axes})" for name, axes in flipped.items()]
        found.append(f"{len(flipped)} volumes seem flipped against the others, look at them: {_some(named)}")
    return found


def fingerprint(kind: str, reports: Sequence[CaseReport]) -> dict[str, Any]:
    """The whole data set in plain values, for fingerprint.json."""
    cases, facts = usable(reports), list(known(reports).values())
    spacings = np.array([one.spacing for one in facts]).reshape(-1, 3)
    return {
        "dataset": kind,
        "usable": len(cases),
        "unusable": len(reports) - len(cases),
        "shapes": dict(Counter(times(one.sides) for one in facts).most_common()),
        "orientations": dict(Counter(one.orientation for one in facts).most_common()),
        "spacing_mm": {axis: _spread(spacings[:, number]) for number, axis in enumerate("ijk")},
        "lowest": _spread([one.low for one in facts]),
        "highest": _spread([one.high for one in facts]),
        "content": _spread([report.content for report in cases]),
        "duplicates": duplicates(reports),
        "near_empty": near_empty(reports),
        "seem_flipped": turned(reports),
    }


def suggestions(cases: Sequence[Facts]) -> list[str]:
    """What to do with such data."""
    if not cases:
        return []
    found = []
    side = float(np.median([max(facts.sides) for facts in cases]))
    choice = "ours_unet_128"
    if side <= 128 - UNET_STEP:  # 128³ would be padding for the most part
        choice += f" --set data.image_size={max(1, math.ceil(side / UNET_STEP)) * UNET_STEP}"
    found.append(f"half of the volumes have {side:.0f} voxels or more along their longest side: {choice} to begin")
    if side >= 224:
        found[-1] += ", ours_unet_256 to keep their resolution"
    if len(cases) < FEW:
        found.append(
            f"{len(cases)} cases is few: expect noise, and copies of training volumes (`wdm eval memorization`)"
        )
    elif len(cases) < SOME:
        found.append(f"{len(cases)} cases are enough to begin; published models saw 1,000 or more")
    if len(cases) > 1 and len({facts.spacing for facts in cases}) > 1:
        found.append("voxel sizes differ: `wdm preprocess nifti --spacing 1` brings them to one")
    return found


def _correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / max(1e-12, float(np.linalg.norm(a) * np.linalg.norm(b))))


def _spread(values: Any) -> list[float]:
    """Smallest, median and largest."""
    if not len(values):
        return []
    return [round(float(value), 4) for value in (np.min(values), np.median(values), np.max(values))]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
