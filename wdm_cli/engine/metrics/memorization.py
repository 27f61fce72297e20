"""Copies of training volumes among generated ones (method after Dar et al., 2024)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from wdm_cli.engine.errors import require
from wdm_cli.engine.metrics.extractor import Extractor
from wdm_cli.engine.metrics.features import NETWORK, Source, extract, network_source
from wdm_cli.engine.metrics.metric import DEFAULTS, Options, Steps
from wdm_cli.engine.metrics.pairwise import without_self
from wdm_cli.engine.metrics.volumes import Volumes

Rows = NDArray[Any]
LOW = "low-resolution"
DIRECTIONS = {
    "n_copies": "generated volumes nearer to a training volume than unseen ones are; read it against n_expected",
    "n_mem": "training volumes that were copied at least once",
    "n_expected": "generated volumes that chance alone would flag, from the number of unseen ones",
}
BLIND = (
    "what this cannot find: copies of a part of a volume, copies after strong deformation, rotation or inversion of "
    "contrast, and copies of training volumes that were not given; 0 found is no proof of privacy"
)


@dataclass(frozen=True, kw_only=True)
class Memorization:
    """size: side of the low-resolution volumes; false_alarms: share of unseen volumes that would be flagged."""

    size: int = 16
    false_alarms: float = 0.05

    def __post_init__(self) -> None:
        require(4 <= self.size <= 64, "size", "must be 4 to 64")
        require(0 < self.false_alarms < 0.5, "false_alarms", "must be above 0 and below 0.5")

    def describe(self, volume: NDArray[np.float32]) -> NDArray[np.float32]:
        """A volume [D, H, W], centred, averaged down to size³, with zero mean and unit length, [size³]."""
        small = F.adaptive_avg_pool3d(torch.from_numpy(centred(volume))[None, None], self.size)
        row: NDArray[np.float32] = unit_rows(small.flatten().numpy()[None])[0].astype(np.float32)
        return row


@dataclass(frozen=True)
class Match:
    """A generated volume and its nearest training volume, by their indices; flagged if nearer than the threshold."""

    fake: int
    train: int
    embedding: str
    distance: float
    threshold: float

    @property
    def flagged(self) -> bool:
        return self.distance < self.threshold


@dataclass(frozen=True)
class Memorized:
    """matches: the nearest neighbour of every generated volume in every embedding, relatively nearest first.

    thresholds_from: what they were taken from, and n_unseen how many. n_copies: generated volumes flagged in
    any embedding; n_mem: training volumes that were copied; expected: flags that chance alone would give.
    """

    matches: tuple[Match, ...]
    thresholds: dict[str, float]
    thresholds_from: str
    n_unseen: int
    n_copies: int
    n_mem: int
    expected: float


def memorization(
    train: Volumes,
    fake: Volumes,
    held_out: Volumes | None = None,
    extractor: Extractor | None = None,
    options: Options = DEFAULTS,
    settings: Memorization = Memorization(),
) -> Steps[Memorized]:
    """Find the nearest training volume of every generated one, and flag what is suspiciously near.

    Distance: 1 − correlation, of centred low-resolution volumes under all eight axis flips, and of the features of a
    network if one is given. Threshold: the false_alarms quantile of the distances from held-out volumes to their
    nearest training volume; without held-out volumes, of the training volumes to each other (twice-scanned
    patients then lower it).
    """
    sources = [Source(LOW, {"size": settings.size}, settings.describe)]
    if extractor is not None:
        sources.append(network_source(extractor))
    rows = {}
    for side, volumes in (("train", train), ("fake", fake), ("held_out", held_out)):
        if volumes is not None:
            rows[side] = yield from extract(volumes, sources, options.cache_dir)
    matches, thresholds = [], {}
    for source in sources:
        name, flips = source.name, source.name != NETWORK
        of_train, of_fake = rows["train"][name], rows["fake"][name]
        novel = (
            distances(rows["held_out"][name], of_train, flips)
            if held_out
            else without_self(distances(of_train, of_train, flips))
        )
        thresholds[name] = float(np.quantile(novel.min(axis=1), settings.false_alarms))
        near = distances(of_fake, of_train, flips)
        for index, other in enumerate(near.argmin(axis=1)):
            matches.append(Match(index, int(other), name, float(near[index, other]), thresholds[name]))
    matches.sort(key=lambda match: match.distance / max(match.threshold, 1e-12))
    flagged = [match for match in matches if match.flagged]
    return Memorized(
        tuple(matches),
        thresholds,
        f"{len(held_out)} held-out volumes" if held_out else f"{len(train)} training volumes among themselves",
        len(held_out or train),
        n_copies=len({match.fake for match in flagged}),
        n_mem=len({match.train for match in flagged}),
        expected=len(fake) * (1 - (1 - chance(settings.false_alarms, len(held_out or train))) ** len(sources)),
    )


def chance(share: float, n: int) -> float:
    """How often a new volume falls below the `share` quantile of n others like it.

    The quantile lies at place 1 + (n − 1)·share of n, and a new value falls below place k with k/(n + 1):
    3 volumes cannot give a threshold that only one in twenty passes.
    """
    return (1 + (n - 1) * share) / (n + 1)


def centred(volume: NDArray[np.float32]) -> NDArray[np.float32]:
    """The volume rolled so that what is brighter than its mean is centred: a shifted copy becomes the same."""
    bright = volume > volume.mean()
    shift = []
    for axis, side in enumerate(volume.shape):
        profile = bright.sum(axis=tuple(other for other in range(3) if other != axis))
        centre = float(profile @ np.arange(side)) / max(1, int(profile.sum()))
        shift.append(round((side - 1) / 2 - centre))
    return np.roll(volume, shift, axis=(0, 1, 2))


def distances(a: Rows, b: Rows, flips: bool) -> NDArray[np.float64]:
    """1 − correlation of all rows of a [n, d] and b [m, d]; with flips, the least over all axis flips of a."""
    y = unit_rows(b)
    best = np.full((len(a), len(b)), -1.0)
    for x in flipped(a) if flips else [a]:
        best = np.maximum(best, unit_rows(x) @ y.T)
    least: NDArray[np.float64] = np.maximum(0, 1 - best)
    return least


def flipped(rows: Rows) -> list[Rows]:
    """Rows of cubes [n, s³] under every combination of axis flips."""
    side = round(rows.shape[1] ** (1 / 3))
    cubes = rows.reshape(-1, side, side, side)
    choices = itertools.chain.from_iterable(itertools.combinations((1, 2, 3), k) for k in range(4))
    return [np.flip(cubes, axes).reshape(rows.shape) for axes in choices]


def unit_rows(rows: Rows) -> NDArray[np.float64]:
    """Rows with zero mean and unit length."""
    centred = rows.astype(np.float64) - rows.mean(axis=1, dtype=np.float64)[:, None]
    found: NDArray[np.float64] = centred / np.maximum(np.linalg.norm(centred, axis=1), 1e-12)[:, None]
    return found
