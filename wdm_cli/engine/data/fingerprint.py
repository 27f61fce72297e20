"""What a data set is like as a whole: ranges, copies, empty and turned volumes, and what that suggests."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wdm_cli.engine.data.facts import Facts
from wdm_cli.engine.data.header import millimetres
from wdm_cli.engine.data.survey import CaseReport, known
from wdm_cli.engine.data.transforms import needed
from wdm_cli.engine.data.volume import ALIKE, times

NEAR_EMPTY = 0.01  # share of a volume that is not background; a head fills some 15 %
TURNED = 0.05  # by how much a turned volume must fit the others better
ENOUGH_TO_COMPARE = 4  # volumes; with fewer there is no rule to break
FEW, SOME = 100, 500  # cases
STEPS = {128: 32, 256: 64}  # the sides of ours_unet_128 and ours_unet_256 are multiples of these
LARGE = 224  # voxels of a side from which a model at 256³ is worth its price
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
    found = [_sizes(cases)]
    if len(cases) < FEW:
        found.append(
            f"{len(cases)} cases is few: expect noise, and copies of training volumes (`wdm eval memorization`)"
        )
    elif len(cases) < SOME:
        found.append(f"{len(cases)} cases are enough to begin; published models saw 1,000 or more")
    return found


def _sizes(cases: Sequence[Facts]) -> str:
    """An image size to begin with, and one that keeps the resolution; slices that are thick are kept in both."""
    sides = np.median([facts.sides for facts in cases], axis=0)
    spacing = np.median([facts.spacing for facts in cases], axis=0)
    thick = spacing > ALIKE * spacing.min()
    longest = float(np.median([max(facts.sides) for facts in cases]))
    told = f"half of the volumes have {longest:.0f} voxels or more along their longest side"
    told += f", and thick slices ({millimetres(spacing.tolist())} mm)" if thick.any() else ""
    begin = f"{told}: ours_unet_128{_image_size(sides, thick, 128)} to begin"
    least = needed([round(side) for side in sides[~thick]] + [1] * int(thick.sum()), (256, 256, 256))
    if longest >= LARGE and max(least) == 1:
        return f"{begin}, ours_unet_256{_image_size(sides, thick, 256)} to keep their resolution"
    return begin


def _image_size(sides: NDArray[np.float64], thick: NDArray[np.bool_], preset: int) -> str:
    """What `--set` makes of a preset's size: less where that would be padding, as many slices as there are."""
    fit = np.maximum(1, np.ceil(np.where(thick, sides * 0.9, sides) / STEPS[preset])).astype(int) * STEPS[preset]
    if not thick.any():
        fit[:] = fit.max()
    wanted = np.where(thick, fit, np.minimum(fit, preset)).tolist()
    if wanted == [preset] * 3:
        return ""
    return f" --set data.image_size={wanted[0]}" if len(set(wanted)) == 1 else f" --set 'data.image_size={wanted}'"


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
