"""What slices amount to: series, and for each a verdict with its reasons. Headers only."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from wdm_cli.engine.dicom.apart import MOST_IMAGES, doubled, entangled, first_made
from wdm_cli.engine.dicom.geometry import Geometry, is_frame
from wdm_cli.engine.dicom.grouping import SAME_DIRECTION, mixed
from wdm_cli.engine.dicom.headers import Slice
from wdm_cli.engine.dicom.image import is_localizer, is_phase, is_scout_series, kind_problem, unusable_image
from wdm_cli.engine.errors import ConfigError

MIN_SLICES = 4
MIN_EXTENT = {"CT": 100.0, "MR": 40.0}  # mm along the normal; less is no chest, or a slab
MAX_TILT = 0.1  # degrees
MAX_OBLIQUENESS = 20.0  # degrees, of CT; MR is planned at any angle
MAX_LOCALIZERS = 2
AXIAL = "LPS"  # where columns, rows and slices of an ordinary axial series rise
LONGEST_GAP = 10.0  # mm; nothing bridges more
MAX_GAP = 3  # slices
MOST_MISSING = 0.2  # share of the slices that may be interpolated
UNEVEN, MOST_CHANGES = 0.25, 4  # share of the median step, and how often steps may change so: other slices lie between
Verdict = Literal["accepted", "repaired", "skipped", "ignored"]


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What to do where a careful reader could decide either way. The defaults never guess.

    on_irregular: `skip` series whose steps differ, or `resample` them by their true positions.
    on_duplicate: `skip` series with different pixels at a few positions, or keep the slice that was made `first`.
    series: keep `all` series of a patient, the `thinnest` or the `first` by its UID.
    max_gap: how many missing slices in a row may be interpolated. tilt: `skip` tilted series or shear them back.
    """

    on_irregular: Literal["skip", "resample"] = "skip"
    on_duplicate: Literal["skip", "first"] = "skip"
    series: Literal["all", "thinnest", "first"] = "all"
    max_gap: int = 0
    tilt: Literal["skip", "resample"] = "skip"

    def __post_init__(self) -> None:
        if not 0 <= self.max_gap <= MAX_GAP:
            raise ConfigError(f"--max-gap {self.max_gap}: must be 0 to {MAX_GAP}", why="a longer gap hides anatomy")


@dataclass(frozen=True, eq=False)
class Series:
    """A series and its verdict.

    case: a safe name, unique to the series. source: hash of the series UID. files: all of them.
    stack: the slices to decode, one a position, in order; None without a usable geometry.
    twins: [n] for each slice of `stack`, other files at its position; their pixels must be equal to its own.
    twice: whether so many places are taken twice that differing pixels are those of another acquisition.
    title: the words of protocols in what the series is called.
    """

    case: str
    patient: str
    source: str
    files: tuple[Slice, ...]
    verdict: Verdict
    reasons: tuple[str, ...] = ()
    repairs: tuple[str, ...] = ()
    stack: Geometry | None = None
    twins: tuple[tuple[Slice, ...], ...] = ()
    twice: bool = False
    title: str = ""

    @property
    def usable(self) -> bool:
        return self.verdict in ("accepted", "repaired")


class _Unusable(Exception):
    """Why a series is skipped."""


def judge(slices: list[Slice], policy: Policy) -> Series:
    """The verdict on the slices of one series."""
    base = _named(slices)
    modality = slices[0].modality
    if all(is_localizer(item) for item in slices) or is_scout_series(slices):
        return replace(base, verdict="ignored", reasons=(f"{modality} localizer",))
    if all(is_phase(item) for item in slices):
        return replace(base, verdict="ignored", reasons=("MR phase, field, real or imaginary images",))
    repairs: list[str] = []
    try:
        _check_one_image(slices, repairs)
        kept = _without_localizers(slices, repairs)
        _check_images(kept)
        if why := entangled(kept):
            raise _Unusable(f"{kept[0].path.name}: {why}")
        stack = Geometry.of(sorted(kept, key=first_made))
        groups = stack.groups
        twins = tuple(tuple(stack.slices[i] for i in members[1:]) for members in groups)
        if any(twins):
            repairs.append(f"{sum(map(len, twins))} further files at positions already taken")
        distinct = stack.at_distinct_positions()
        _check_stack(distinct, policy, repairs)
    except _Unusable as error:
        return replace(base, verdict="skipped", reasons=(str(error),))
    verdict: Verdict = "repaired" if repairs else "accepted"
    return replace(base, verdict=verdict, repairs=tuple(repairs), stack=distinct, twins=twins, twice=doubled(kept))


def _named(slices: list[Slice]) -> Series:
    """A series without a verdict. Its source is that of earlier versions, whatever became of its patient's code."""
    first = min(slices, key=lambda item: item.contrast)
    code = first.owner.code if first.owner else first.patient
    identity = " ".join((first.series_uid, code, *first.contrast))
    source = hashlib.sha256(identity.encode(errors="surrogateescape")).hexdigest()[:16]
    adni = first.modality == "MR" and first.patient.startswith("ADNI")
    title = Counter(item.title for item in slices).most_common(1)[0][0]
    parts = [
        first.patient,
        *(["MR"] if adni else []),
        *([title] if title and first.modality == "MR" else []),
        source[:8],
    ]
    case = ("_" if adni else "-").join(parts)  # as ADNI names its files
    return Series(case, first.patient, source, tuple(slices), "accepted", title=title)


def choose(series: list[Series], policy: Policy) -> list[Series]:
    """Apply the series policy: usable series of a patient that are not wanted become ignored."""
    if policy.series == "all":
        return series
    best: dict[str, Series] = {}
    for item in series:
        if not item.usable:
            continue
        rival = best.get(item.patient)
        if rival is None or (policy.series == "thinnest" and _thickness(item) < _thickness(rival)):
            best[item.patient] = item
    reason = f"another series of the patient was chosen (--series-policy {policy.series})"
    return [
        replace(item, verdict="ignored", reasons=(reason,)) if item.usable and best[item.patient] is not item else item
        for item in series
    ]


def _thickness(series: Series) -> float:
    assert series.stack is not None
    return round(series.stack.step, 3)


def _check_one_image(slices: list[Slice], repairs: list[str]) -> None:
    """What `group` could not tell apart is no case; what it joined is said."""
    names, differ = mixed(slices)
    if differ:
        count = len({item.contrast for item in slices})
        why = (
            f"a time or diffusion series, at most {MOST_IMAGES} are split"
            if count > MOST_IMAGES
            else f"some lie between others ({_names([_odd_one(slices)])}), so that none is known to be whole"
        )
        raise _Unusable(f"{slices[0].path.name}: {count} different images under one series UID ({names}): {why}")
    if names:
        repairs.append(f"{names} not given alike in all slices, taken as one image")


def _odd_one(slices: list[Slice]) -> Slice:
    """One of the rarest tags."""
    rarest = Counter(item.contrast for item in slices).most_common()[-1][0]
    return next(item for item in slices if item.contrast == rarest)


def _without_localizers(slices: list[Slice], repairs: list[str]) -> list[Slice]:
    """Drop at most two slices that look in another direction than the rest."""
    for item in slices:
        problem = kind_problem(item) or ("" if item.orientation else "no ImageOrientationPatient")
        if problem and not is_localizer(item):
            raise _Unusable(f"{item.path.name}: {problem}")
    facing = Counter(item.orientation for item in slices if not is_localizer(item))
    common = facing.most_common(1)[0][0]
    same = {one for one in facing if one and common and np.allclose(one, common, atol=SAME_DIRECTION)}
    odd = [item for item in slices if item.orientation not in same or is_localizer(item)]
    if len(odd) > MAX_LOCALIZERS or 2 * len(odd) >= len(slices):
        raise _Unusable(f"{len(odd)} slices have another orientation, the first {odd[0].path.name}")
    if odd:
        repairs.append(f"dropped {len(odd)} of another orientation: {_names(odd)}")
    return [item for item in slices if item not in odd]


def _check_images(slices: list[Slice]) -> None:
    """What must hold for every file, and for all together."""
    for item in slices:
        problem = unusable_image(item)
        if problem:
            raise _Unusable(f"{item.path.name}: {problem}")
    for name, values in (
        ("Rows and Columns", [(item.rows, item.columns) for item in slices]),
        ("PixelSpacing", [item.spacing or () for item in slices]),
    ):
        common = Counter(values).most_common(1)[0][0]
        same = {value for value in set(values) if np.allclose(value, common, rtol=0, atol=1e-4)}
        odd = [item for item, value in zip(slices, values, strict=True) if value not in same]
        if odd:
            value = values[slices.index(odd[0])]
            raise _Unusable(f"{len(odd)} files with another {name}: {_names(odd)} ({value}, not {common})")


def _check_stack(stack: Geometry, policy: Policy, repairs: list[str]) -> None:
    """Orientation, tilt, number and steps of slices at distinct positions."""
    first = stack.slices[0]
    is_ct, least = first.modality == "CT", MIN_EXTENT[first.modality]
    if not is_frame(first):
        raise _Unusable(f"{first.path.name}: ImageOrientationPatient is not two perpendicular unit vectors")
    if len(stack.slices) < MIN_SLICES:
        raise _Unusable(f"{first.path.name}: slices: {len(stack.slices)}, at least {MIN_SLICES} are needed")
    if is_ct and stack.obliqueness > MAX_OBLIQUENESS:
        raise _Unusable(f"{first.path.name}: oblique by {stack.obliqueness:.1f}°, at most {MAX_OBLIQUENESS:g}°")
    if stack.wander > 0.5 * min(first.spacing or (1.0,)):
        raise _Unusable(f"{first.path.name}: slices are shifted against each other by up to {stack.wander:.1f} mm")
    if is_ct and stack.axes != AXIAL:
        repairs.append(f"reoriented from {stack.axes} to RAS")
    if is_ct and stack.obliqueness > MAX_TILT:
        repairs.append(f"oblique by {stack.obliqueness:.1f}°, kept in the affine")
    if stack.tilt > MAX_TILT:
        if not is_ct:
            raise _Unusable(f"{first.path.name}: slices lean by {stack.tilt:.1f}° against their normal")
        if policy.tilt == "skip":
            raise _Unusable(f"{first.path.name}: gantry tilt {stack.tilt:.1f}° (--tilt resample shears it back)")
        repairs.append(f"gantry tilt {stack.tilt:.1f}° sheared back")
    if stack.odd_steps.any():
        _check_steps(stack, policy, repairs)
    if stack.extent[2] < least:
        raise _Unusable(f"{first.path.name}: covers {stack.extent[2]:.0f} mm of z, at least {least:g} are needed")


def _check_steps(stack: Geometry, policy: Policy, repairs: list[str]) -> None:
    """Missing slices and mixed spacings."""
    median = float(np.median(stack.steps))
    odd = np.flatnonzero(stack.odd_steps)
    longest = int(odd[np.argmax(stack.steps[odd])])
    where = f"spacing {stack.steps[longest]:.3f} mm after {stack.slices[longest].path.name}, median {median:.3f}"
    multiples = stack.steps[odd] / median
    missing = np.rint(multiples) - 1
    gaps_only = bool((missing >= 1).all() and (np.abs(multiples - missing - 1) < 0.05).all())
    changes = np.abs(np.diff(stack.steps))
    many = bool(missing.sum() > max(1, MOST_MISSING * len(stack.slices))) and not _as_thick_as_apart(stack)
    bridged = bool((missing <= policy.max_gap).all() and stack.steps.max() <= LONGEST_GAP) and not many
    if gaps_only and bridged:
        repairs.append(f"{int(missing.sum())} missing slices interpolated: {where}")
    elif gaps_only:
        can = missing.max() <= MAX_GAP and stack.steps.max() <= LONGEST_GAP
        option = f" (--max-gap {int(missing.max())} interpolates)" if can else ""
        option = (
            f"; nothing tells whether two acquisitions overlap here, {MOST_MISSING:.0%} are bridged at most"
            if many
            else option
        )
        raise _Unusable(f"{int(missing.sum())} slices missing: {where}{option}")
    elif stack.steps.max() > min(LONGEST_GAP, (MAX_GAP + 1.05) * median):
        raise _Unusable(f"{len(odd)} irregular steps: {where}")
    elif np.count_nonzero(changes > UNEVEN * median) > max(MOST_CHANGES, MOST_MISSING * len(odd)):
        raise _Unusable(f"{len(odd)} irregular steps: {where}; nothing tells whether two acquisitions lie there")
    elif policy.on_irregular == "resample":
        repairs.append(f"{len(odd)} irregular steps resampled by their true positions: {where}")
    else:
        raise _Unusable(f"{len(odd)} irregular steps: {where} (--on-irregular resample uses true positions)")


def _as_thick_as_apart(stack: Geometry) -> bool:
    """Whether every step is as long as its slice is thick: long steps are thick slices, as at the top of a head."""
    ratios = [(item.thickness or 0) / step for item, step in zip(stack.slices, stack.steps.tolist(), strict=False)]
    return all(0.7 < ratio < 1.4 for ratio in ratios)


def _names(slices: list[Slice]) -> str:
    names = [item.path.name for item in slices[:3]]
    return ", ".join(names) + (f" and {len(slices) - 3} more" if len(slices) > 3 else "")
