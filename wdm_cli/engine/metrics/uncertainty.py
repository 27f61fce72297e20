"""How far a score can be trusted: what real against real gives, and 95 % intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wdm_cli.engine.metrics.metric import FeatureMetric

SPLITS = 5
GROUPS = 10
T_95 = 2.101  # Student's t for 2 · (GROUPS − 1) degrees of freedom
Rows = NDArray[Any]


@dataclass(frozen=True)
class Floor:
    """Mean scores at half the real volumes' number, over random splits.

    real: one half of the real volumes against the other; fake: the generated ones against a half, at the same n.
    n: volumes a side.
    """

    real: dict[str, float]
    fake: dict[str, float]
    n: int


def floor(metric: FeatureMetric, real: Rows, fake: Rows, seed: int) -> Floor | None:
    """What the metric gives where there is no difference to find; None if the halves are too small for it.

    FID and its kin depend on n, so the generated volumes are scored at the same n beside it.
    """
    n = min(len(real) // 2, len(fake))
    if n < metric.minimum:
        return None
    rng = np.random.default_rng(seed)
    of_real, of_fake = [], []
    for _ in range(SPLITS):
        order = rng.permutation(len(real))
        half, other = real[order[:n]], real[order[n : 2 * n]]
        of_real.append(metric.score(half, other, seed))
        of_fake.append(metric.score(half, fake[rng.permutation(len(fake))[:n]], seed))
    return Floor(average(of_real), average(of_fake), n)


def average(scores: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([score[name] for score in scores])) for name in scores[0]}


def half_widths(metric: FeatureMetric, real: Rows, fake: Rows, seed: int) -> dict[str, float]:
    """Half widths of 95 % intervals; empty if there are too few volumes.

    Delete-a-group jackknife (Kott, 2001): each folder is cut at random into ten groups, each left out once; the
    variances of both folders add up. Resampling with replacement would not do: repeated volumes bias FID and
    break nearest neighbours.
    """
    if min(len(real), len(fake)) < max(2 * GROUPS, metric.minimum + GROUPS):
        return {}
    rng = np.random.default_rng(seed)
    variance: dict[str, float] = {}
    for side in ("real", "fake"):
        rows = real if side == "real" else fake
        group = rng.permutation(len(rows)) % GROUPS
        left = [
            metric.score(rows[group != g], fake, seed) if side == "real" else metric.score(real, rows[group != g], seed)
            for g in range(GROUPS)
        ]
        for name in left[0]:
            values = np.array([score[name] for score in left])
            spread = (GROUPS - 1) / GROUPS * float(((values - values.mean()) ** 2).sum())
            variance[name] = variance.get(name, 0.0) + spread
    return {name: T_95 * value**0.5 for name, value in variance.items()}
