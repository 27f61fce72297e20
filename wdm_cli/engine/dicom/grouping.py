"""Which slices make up one volume: those of a series that belong to one image of the places.

Scanners put several images of a place under one series UID: in MR echoes, phase, time points, diffusion directions, in
CT contrast phases, reconstructions, iodine maps. They must never be mixed, and a volume must never be cut in parts
because a writer rounded a tag of every second slice. So tags alone decide nothing: where images lie tells whether they
are several of one place or parts of one volume (`apart`).
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from wdm_cli.engine.dicom.apart import MOST_IMAGES, SAME_PLACE, acquisitions
from wdm_cli.engine.dicom.geometry import directions
from wdm_cli.engine.dicom.headers import Slice

SAME_DIRECTION = 0.02
SAME_NUMBER = 0.01  # share by which a tag may differ between the slices of one image
Part = list[Slice]


def group(slices: Iterable[Slice]) -> list[Part]:
    """Slices by patient and SeriesInstanceUID, wherever their files lie, and by image; in a fixed order.

    A group may still hold different images (`mixed`): what cannot be told apart safely stays together, to be skipped.
    """
    series: dict[tuple[str, str], Part] = defaultdict(list)
    for item in slices:
        series[item.patient, item.series_uid].append(item)
    return [part for key in sorted(series) for kind in _kinds(series[key]) for part in _images_of(kind)]


def mixed(slices: Part) -> tuple[str, bool]:
    """Names of the tags that differ between slices of one group, and whether by more than writers round."""
    contrasts = sorted({item.contrast for item in slices})
    names = sorted({text.partition("=")[0] for one in contrasts for text in set(one) ^ set(contrasts[0])})
    return ", ".join(names), not all(_alike(one, other) for one in contrasts for other in contrasts)


def _kinds(slices: Part) -> list[Part]:
    """What shows anatomy and what measures something else (maps, phase), if these are images of the same places."""
    kinds: dict[str, Part] = defaultdict(list)
    for item in slices:
        kinds[item.not_image].append(item)
    parts = [kinds[kind] for kind in sorted(kinds)]
    if any(2 * _shared(*sorted(pair, key=len)) < min(map(len, pair)) for pair in itertools.combinations(parts, 2)):
        return [slices]
    return [parts[0], *([replace(item, contrast=(*item.contrast, f"kind={item.not_image}")) for item in part]
                        for part in parts[1:])]  # fmt: skip


def _images_of(slices: Part) -> list[Part]:
    """The images of one UID. All slices together if they are too many or cannot be told apart."""
    if slices[0].modality != "MR":
        return _acquisitions(slices)
    by_tags: dict[tuple[str, ...], Part] = defaultdict(list)
    for item in slices:
        by_tags[item.contrast].append(item)
    images: list[Part] = []
    for contrast in sorted(by_tags, key=lambda tags: (-len(by_tags[tags]), tags)):
        part = by_tags[contrast]
        fitting = [image for image in images if _completes(part, image)]
        if len(fitting) == 1:
            fitting[0].extend(part)
        else:
            images.append(part)
    if len(images) > MOST_IMAGES or any(_lie_between(*pair) for pair in itertools.combinations(images, 2)):
        return [slices]
    found = [part for image in sorted(images, key=lambda image: image[0].contrast) for part in _acquisitions(image)]
    return found if len(found) <= MOST_IMAGES else [slices]


def _completes(part: Part, image: Part) -> bool:
    """Whether a part has the tags of an image, but for rounding and absence, and none of its places."""
    tags = {item.contrast for item in image}
    if not all(_alike(part[0].contrast, one) for one in tags) or _places(part) is None or _places(image) is None:
        return False
    return _shared(part, image) == 0


def _lie_between(one: Part, other: Part) -> bool:
    """Whether slices of two images lie between each other without being two images of the same places."""
    first, second = one[0].orientation, other[0].orientation
    if _places(one) is None or _places(other) is None or not (first and second):
        return False
    if not np.allclose(first, second, atol=SAME_DIRECTION) or 2 * _shared(one, other) > min(len(one), len(other)):
        return False
    normal = directions(one[0])[2]
    ranges = [np.asarray(_places(image)) @ normal for image in (one, other)]
    return bool(max(ends.min() for ends in ranges) <= min(ends.max() for ends in ranges))


def _acquisitions(image: Part) -> list[Part]:
    """The acquisitions of one image, what tells them noted; slices of another direction stay with the first."""
    facing = Counter(item.orientation for item in image if item.position is not None and item.orientation)
    common = facing.most_common(1)[0][0] if facing else None
    alike = {one for one in facing if one and common and np.allclose(one, common, atol=SAME_DIRECTION)}
    same = [item for item in image if item.orientation in alike]
    if not same or any(item.position is None for item in same):
        return [image]
    found = acquisitions(same)
    if len(found) == 1:
        return [image]
    parts = [[replace(item, contrast=(*item.contrast, text)) for item in part] for text, part in found]
    taken = {id(item) for item in same}
    parts[0] += [replace(item, contrast=parts[0][0].contrast) for item in image if id(item) not in taken]
    return parts


def _places(part: Part) -> npt.NDArray[np.float64] | None:
    """[n, 3] mm, None if one has no place."""
    if any(item.position is None or item.orientation is None for item in part):
        return None
    return np.array([item.position for item in part], np.float64)


def _shared(one: Part, other: Part) -> int:
    """How many slices of `one` lie at places of `other`, in the same direction."""
    places, others = _places(one), _places(other)
    if places is None or others is None:
        return 0
    if not np.allclose(one[0].orientation or (), other[0].orientation or (), atol=SAME_DIRECTION):
        return 0
    return sum(bool(np.abs(others - place).max(axis=1).min() <= SAME_PLACE) for place in places)


def _alike(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether tags agree: numbers but for rounding; a tag that is absent from one is not known to differ."""
    first, second = (dict(text.split("=", 1) for text in tags) for tags in (one, other))
    return all(_same(first[name].split("/"), second[name].split("/")) for name in first.keys() & second.keys())


def _same(one: list[str], other: list[str]) -> bool:
    try:
        return len(one) == len(other) and np.allclose(
            np.array(one, float), np.array(other, float), rtol=SAME_NUMBER, atol=SAME_NUMBER
        )
    except ValueError:
        return one == other
