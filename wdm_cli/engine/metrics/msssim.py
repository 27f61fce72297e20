"""MS-SSIM between generated volumes (Wang et al., 2003): how alike they are."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from wdm_cli.engine.errors import DataError, require
from wdm_cli.engine.metrics.metric import Progress, Steps, VolumeMetric

if TYPE_CHECKING:
    from wdm_cli.engine.metrics.ssim import Scale
    from wdm_cli.engine.metrics.volumes import Volumes

WINDOW = 7
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
TILE_BYTES = 1.2e9
"""Memory for the prepared volumes of one tile; two tiles are held at a time."""


@dataclass(frozen=True, kw_only=True)
class MSSSIM(VolumeMetric):
    """Mean MS-SSIM over unordered pairs of volumes: Gaussian window 7, σ 1.5, data range 1.

    scales: 5 is the published measure; fewer fit smaller volumes, with the first weights renormalised to sum 1.
    pairs: how many pairs to draw (seeded) instead of taking all n(n − 1)/2; 0 means all.
    """

    kind: Literal["msssim"] = "msssim"
    scales: int = 5
    pairs: int = 0
    directions: ClassVar[dict[str, str]] = {
        "msssim": "lower = more diverse, but noise lowers it too: read it beside the real volumes' value",
        "msssim_std": "standard deviation over pairs",
        "msssim_pairs": "number of pairs",
        "msssim_real": "the same of the real volumes: what to come close to",
        "msssim_real_std": "standard deviation over pairs of real volumes",
    }

    def __post_init__(self) -> None:
        require(1 <= self.scales <= len(WEIGHTS), "scales", f"must be 1 to {len(WEIGHTS)}")
        require(self.pairs >= 0, "pairs", "must be at least 0 (0 = all)")

    @property
    def weights(self) -> tuple[float, ...]:
        """Exponents of the scales; the five of the paper, or the first ones renormalised to the same sum."""
        first = WEIGHTS[: self.scales]
        return WEIGHTS if self.scales == len(WEIGHTS) else tuple(w * sum(WEIGHTS) / sum(first) for w in first)

    @property
    def note(self) -> str:
        if self.scales == len(WEIGHTS):
            return ""
        return f"MS-SSIM over {self.scales} scales (weights renormalised) is not comparable with the usual five"

    def score(self, real: Volumes | None, fake: Volumes, seed: int) -> Steps[dict[str, float]]:
        values = yield from self.pairwise(fake, seed, "MS-SSIM pairs")
        mean, std = mean_and_std(values)
        scores = {"msssim": mean, "msssim_std": std, "msssim_pairs": float(len(values))}
        if real is not None:
            mean, std = mean_and_std((yield from self.pairwise(real, seed, "MS-SSIM pairs of real volumes")))
            scores |= {"msssim_real": mean, "msssim_real_std": std}
        return scores

    def pairwise(self, volumes: Volumes, seed: int, stage: str = "MS-SSIM pairs") -> Steps[list[float]]:
        """The value of every chosen pair, in the order of `choose_pairs`."""
        from wdm_cli.engine.metrics.ssim import ms_ssim, prepare

        self.check_size(volumes)
        chosen = choose_pairs(len(volumes), self.pairs, seed)
        tile = max(2, int(TILE_BYTES // (14 * math.prod(volumes.shape))))  # 3 arrays of float32 over 8/7 voxels
        by_tiles: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for i, j in chosen:
            by_tiles.setdefault((i // tile, j // tile), []).append((i, j))
        held: dict[int, dict[int, list[Scale]]] = {}
        values: dict[tuple[int, int], float] = {}
        for key in sorted(by_tiles):
            held = {t: prepared for t, prepared in held.items() if t in key}
            for i, j in by_tiles[key]:
                for k in (i, j):
                    loaded = held.setdefault(k // tile, {})
                    if k not in loaded:
                        loaded[k] = prepare(volumes[k], self.scales)
                values[i, j] = ms_ssim(held[i // tile][i], held[j // tile][j], self.weights)
                yield Progress(stage, len(values), len(chosen))
        return [values[pair] for pair in chosen]

    def check_size(self, volumes: Volumes) -> None:
        """Every scale must hold the window: side // 2^(scales − 1) ≥ 7."""
        side = min(volumes.shape)
        fits = sum(side // 2**k >= WINDOW for k in range(len(WEIGHTS)))
        if fits < self.scales:
            smallest = WINDOW * 2 ** (self.scales - 1)
            hint = f"use --scales {fits} (then the value is not comparable with the usual five)" if fits else ""
            raise DataError(
                f"{volumes.files[0]}: {'×'.join(map(str, volumes.shape))} voxels are too few for MS-SSIM",
                why=f"{self.scales} scales with a window of {WINDOW} need at least {smallest} voxels a side "
                f"({self.scales - 1} halvings must leave {WINDOW})",
                hint=hint,
            )


def choose_pairs(n: int, count: int, seed: int) -> list[tuple[int, int]]:
    """All unordered pairs i < j of n items, or `count` different ones drawn by `seed`, sorted."""
    total = n * (n - 1) // 2
    if not 0 < count < total:
        return list(itertools.combinations(range(n), 2))
    drawn = random.Random(seed).sample(range(total), count)
    return sorted(nth_pair(index) for index in drawn)


def nth_pair(index: int) -> tuple[int, int]:
    """The pair of this number when (0, 1), (0, 2), (1, 2), (0, 3) … are counted from 0."""
    j = (1 + math.isqrt(8 * index + 1)) // 2
    return index - j * (j - 1) // 2, j


def mean_and_std(values: list[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (0 for a single value)."""
    mean = math.fsum(values) / len(values)
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / max(1, len(values) - 1))
