"""Whether slices under one UID are one volume, or several acquisitions at the same places or between each other.

Where slices lie decides. Parts that continue each other are one volume, whatever their tags say: a scan in two halves,
a number for every turn of the tube. Parts that lie doubly or between each other are several, if each is a whole volume
by itself; the first tag that tells them apart so is believed. What lies so and is not told apart is never used.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from wdm_cli.engine.dicom.geometry import ROUNDING, STEP_TOLERANCE, directions
from wdm_cli.engine.dicom.headers import MARKS, ORDER, Slice

SAME_PLACE = 0.05  # mm; wider than writers round, closer than any two slices
FEW_DOUBLE = 0.1  # share of the places of one acquisition that may be taken twice: copies, a slice made anew
CLOSEST = 0.75  # times the thickness; what is closer overlaps
FURTHEST = {"CT": 2.0, "MR": np.inf}  # times the thickness; samples of a lung leave so much out, MR in turn may too
FEW_ODD = 0.2  # share of the steps of an acquisition that lacks slices
SURE = ORDER[:-1]  # times of reconstruction may run through regular places in any order
MOST_IMAGES = 8  # images under one UID that become cases; more are a time or diffusion series
MOST_PARTS = 64  # more values of a tag are a number for every slice
LEAST = 4  # slices of an acquisition that is recognised by its places alone
Part = list[Slice]
Heights = npt.NDArray[np.float64]


def acquisitions(slices: Part) -> list[tuple[str, Part]]:
    """The acquisitions among slices of one direction, each with the NAME=VALUE that tells it; one if they are one.

    More than MOST_IMAGES are a time series, which stays together.
    """
    told = _told(_once(slices))
    if not 1 < len(told) <= MOST_IMAGES or not all(_whole(part) for _, part in told):
        return [("", slices)]
    names = {id(item): name for name, part in told for item in part}
    copies = {item.instance or id(item): names[id(item)] for _, part in told for item in part}
    found: dict[str, Part] = defaultdict(list)
    for item in slices:
        found[names.get(id(item)) or copies[item.instance or id(item)]].append(item)
    return list(found.items())


def entangled(slices: Part) -> str:
    """Why a group cannot be used however it is put together: several acquisitions, none known to be whole."""
    slices = _once(slices)
    if any(item.position is None or item.orientation is None for item in slices):
        return ""
    if _plain(_heights(slices)) or _side_by_side(slices):
        return ""
    marked = [(name, _joined(parts)) for name, parts in _marked(slices)]
    passes = [(name, _joined(parts)) for name, parts in _passes(slices, SURE) if not _may_be_in_turn(slices)]
    passes = [(name, images) for name, images in passes if sum(map(_nearly_regular, images)) > 1]
    for name, images in [*marked, *passes]:
        if len(images) > 1:
            count = len(images) if len(images) <= MOST_IMAGES else f"more than {MOST_IMAGES}"
            what = f"{count} acquisitions ({name}) under one series UID"
            return f"{what} lie doubly or between each other, so that none is known to be whole"
    combs = _combs(slices)
    if combs > 1:
        return f"{combs} acquisitions lie between each other under one series UID, and no tag tells them apart"
    return ""


def doubled(slices: Part) -> bool:
    """Whether so many places are taken twice that there are two acquisitions, not a slice made anew."""
    once = _once(slices)
    return len(once) - _distinct(_heights(once)) > max(1, FEW_DOUBLE * len(once))


def first_made(item: Slice) -> tuple[object, ...]:
    """What orders slices of one place: numbers of acquisition and instance, times, then the UID; no file name."""
    order = [np.inf if number is None else number for number in item.order or (None,) * len(ORDER)]
    return *order, [int(part) if part.isdigit() else 0 for part in item.instance.split(".")], str(item.path)


def _told(slices: Part, skip: int = 0) -> list[tuple[str, Part]]:
    """Split by the first tag whose values are acquisitions, then each of these by the tags after it."""
    plain = _plain(_heights(slices))
    if _side_by_side(slices) or (plain and _may_be_in_turn(slices)):
        return [("", slices)]
    ways = itertools.chain(_marked(slices), _passes(slices, SURE if plain else ORDER))
    for number, (name, parts) in enumerate(ways):
        images = _joined(parts) if number >= skip else []
        if len(images) > 1 and all(_regular(_heights(image)) for image in images):
            told = []
            for order, image in enumerate(images, start=1):
                own = _text(name, image, order)
                told += [(f"{own} {more}".strip(), part) for more, part in _told(image, number + 1)]
            return told
    return [("", slices)]


def _may_be_in_turn(slices: Part) -> bool:
    """Whether slices may have been acquired in turn, as in MR, where no thickness tells that they overlap."""
    return slices[0].modality == "MR" and _thickness(slices) is None


def _marked(slices: Part) -> Iterator[tuple[str, list[Part]]]:
    """Every way to split slices by their tags, the surest first. Of tags that are the same everywhere nothing comes."""
    kinds = {item.marks for item in slices}
    common = set.intersection(*map(set, kinds))
    differ = {mark.partition("=")[0] for marks in kinds for mark in marks if mark not in common}
    for name in MARKS:
        yield name, _by_mark(slices, name) if name in differ else []
    shapes: dict[object, Part] = defaultdict(list)
    for item in slices:
        shapes[item.rows, item.columns, item.spacing].append(item)
    yield "PixelSpacing", list(shapes.values())


def _passes(slices: Part, names: tuple[str, ...]) -> list[tuple[str, list[Part]]]:
    """Ways to split slices where numbers that order them run through the places again and again."""
    return [(name, _runs(slices, ORDER.index(name))) for name in names]


def _text(name: str, image: Part, order: int) -> str:
    """NAME=VALUE; of all but AcquisitionNumber its rank, since times and UIDs are not written."""
    values = {mark for item in image for mark in item.marks if mark.startswith(f"{name}=")}
    if name == "AcquisitionNumber" and len(values) == 1 and name in MARKS:
        return f"{name}={int(float(values.pop().partition('=')[2]))}"
    return f"{name}=#{order}"


def _by_mark(slices: Part, name: str) -> list[Part]:
    """Slices by the value of one tag. Absent is a value too."""
    parts: dict[str, Part] = defaultdict(list)
    for item in slices:
        parts[next((mark for mark in item.marks if mark.startswith(f"{name}=")), "")].append(item)
    return [parts[value] for value in sorted(parts)] if len(parts) <= MOST_PARTS else []


def _runs(slices: Part, number: int) -> list[Part]:
    """Slices in the order of a number, cut where the scan jumps back; nothing if numbers are absent or equal."""
    keys = [item.order[number] if item.order else None for item in slices]
    if None in keys or len(set(keys)) < len(keys):
        return []
    ordered = [slices[i] for i in np.argsort(np.array(keys, float))]
    heights = _heights(ordered)
    sign = np.sign(np.median(np.diff(heights))) or 1.0
    cuts = [0, *(np.flatnonzero(np.diff(heights) * sign <= 0) + 1).tolist(), len(ordered)]
    return [ordered[start:end] for start, end in itertools.pairwise(cuts)] if len(cuts) <= MOST_PARTS else []


def _joined(parts: list[Part]) -> list[Part]:
    """Parts that continue exactly one image joined to it; of too many images not all."""
    images: list[Part] = []
    for part in parts:
        if len(images) > MOST_IMAGES:
            break
        fitting = [image for image in images if _one_volume(image, part)]
        if len(fitting) > 1:
            fitting = [image for image in fitting if _plain(_heights([*image, *part]))]
        if len(fitting) == 1:
            fitting[0].extend(part)
        else:
            images.append(list(part))
    return images


def _one_volume(one: Part, other: Part) -> bool:
    """Whether two parts continue each other, or fill each other's gaps."""
    first, second = _heights(one), _heights(other)
    inside = [
        int(np.count_nonzero((a >= b[0] - SAME_PLACE) & (a <= b[-1] + SAME_PLACE)))
        for a, b in ((np.sort(first), np.sort(second)), (np.sort(second), np.sort(first)))
    ]
    if min(inside) <= 1:
        return True
    both = [*one, *other]
    return _plain(_heights(both)) and _side_by_side(both)


def _whole(part: Part) -> bool:
    return _regular(_heights(part)) and not doubled(part)


def _plain(heights: Heights) -> bool:
    """Whether all places differ and all steps are alike."""
    return _distinct(heights) == len(heights) and _regular(heights)


def _regular(heights: Heights) -> bool:
    steps = np.diff(np.sort(heights))
    steps = steps[steps > SAME_PLACE]
    middle = np.median(steps) if steps.size else 0.0
    return bool((np.abs(steps - middle) <= max(STEP_TOLERANCE * float(middle), ROUNDING)).all())


def _nearly_regular(image: Part) -> bool:
    """Whether all but a few steps are alike: an acquisition that lacks slices, not some of the slices of another."""
    steps = np.diff(np.sort(_heights(image)))
    middle = np.median(steps) if steps.size else 0.0
    odd = np.count_nonzero(np.abs(steps - middle) > max(STEP_TOLERANCE * float(middle), ROUNDING))
    return len(image) >= LEAST and bool(odd <= FEW_ODD * len(steps))


def _side_by_side(slices: Part) -> bool:
    """Whether slices lie as those of one acquisition do: each next to the last, but for some that are missing."""
    steps, thickness = np.diff(np.sort(_heights(slices))), _thickness(slices)
    if not steps.size:
        return True
    furthest = FURTHEST.get(slices[0].modality, np.inf)
    if thickness is None or not CLOSEST * thickness <= float(steps.min()) <= furthest * thickness:
        return False
    multiples = steps / np.median(steps)
    return bool((np.abs(multiples - np.rint(multiples)) < 0.05).all()) and float(multiples.min()) > 0.5


def _distinct(heights: Heights) -> int:
    return 1 + int(np.count_nonzero(np.diff(np.sort(heights)) > SAME_PLACE))


def _thickness(slices: Part) -> float | None:
    """The least that is given, in mm, None if all are absent."""
    return min((item.thickness for item in slices if item.thickness is not None), default=None)


def _heights(slices: Part) -> Heights:
    """[n] mm along the normal of the first."""
    normal = directions(slices[0])[2]
    return np.array([item.position for item in slices], np.float64) @ normal


def _once(slices: Part) -> Part:
    """Without copies of one file: they carry its SOPInstanceUID."""
    return list({item.instance or id(item): item for item in slices}.values())


def _combs(slices: Part) -> int:
    """How many regular scans of one step make up uneven places, closer to each other than their thickness; 1 if not."""
    rest = np.sort(_heights(slices))
    rest = rest[np.append(True, np.diff(rest) > SAME_PLACE)]  # copies are judged by their pixels
    if len(rest) < 2 * LEAST or _regular(rest):
        return 1
    steps = np.round(np.diff(rest), 2)
    near = rest[2:] - rest[:-2]
    for step in {float(np.median(near)), Counter(steps.tolist()).most_common(1)[0][0], float(steps.max())}:
        combs = _chains(rest, step)
        if len(combs) > 1 and min(map(len, combs)) >= LEAST:
            low, high = max(comb[0] for comb in combs), min(comb[-1] for comb in combs)
            dense = [item for item, height in zip(slices, _heights(slices), strict=True) if low <= height <= high]
            if len(dense) >= LEAST and not _side_by_side(dense):
                return len(combs)
    return 1


def _chains(heights: Heights, step: float) -> list[Heights]:
    """Sorted heights as chains of one step; none if some are left over."""
    if step <= SAME_PLACE:
        return []
    left, chains = heights.tolist(), []
    tolerance = max(STEP_TOLERANCE * step, ROUNDING)
    while left:
        chain = [left.pop(0)]
        for height in list(left):
            if abs(height - chain[-1] - step) <= tolerance:
                chain.append(height)
                left.remove(height)
        chains.append(np.array(chain))
        if len(chain) < LEAST:
            return []
    return chains
