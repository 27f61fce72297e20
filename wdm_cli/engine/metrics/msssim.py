"""MS-SSIM between generated volumes (Wang et al., 2003): how alike they are."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from wdm_cli.engine.errors import require
from wdm_cli.engine.files import write_json
from wdm_cli.engine.metrics.metric import Found, Options, Progress, Steps, VolumeMetric

if TYPE_CHECKING:
    from wdm_cli.engine.metrics.ssim import Scale
    from wdm_cli.engine.metrics.volumes import Volumes

Pair = tuple[int, int]
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
    needs_real: ClassVar[bool] = False
    directions: ClassVar[dict[str, str]] = {
        "msssim": "lower = more diverse, but noise lowers it too: read it beside the real volumes' value",
        "msssim_std": "standard deviation over pairs",
        "msssim_pairs": "number of pairs",
        "msssim_real": "the same of the real volumes: what to come close to",
        "msssim_real_std": "standard deviation over pairs of real volumes",
        "msssim_real_pairs": "number of pairs of real volumes",
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

    def score(self, real: Volumes | None, fake: Volumes, options: Options) -> Steps[Found]:
        values: dict[str, float] = {}
        errors: dict[str, float] = {}
        for name, stage, volumes in (
            ("msssim", "MS-SSIM pairs", fake),
            ("msssim_real", "MS-SSIM pairs of real volumes", real),
        ):
            if volumes is None:
                continue
            pairs = choose_pairs(len(volumes), self.pairs, options.seed)
            found = yield from self.pairwise(volumes, pairs, stage, options.cache_dir)
            values |= {name: mean(found), f"{name}_std": deviation(found), f"{name}_pairs": float(len(found))}
            if (error := standard_error(len(volumes), pairs, found)) is not None:
                errors[name] = error
        return Found(values, errors)

    def pairwise(
        self, volumes: Volumes, pairs: list[Pair], stage: str = "MS-SSIM pairs", cache_dir: Path | None = None
    ) -> Steps[list[float]]:
        """The value of every pair.

        Volumes are worked through in tiles, so that at most two tiles of prepared volumes are held; finished
        tiles of pairs are kept in cache_dir, so an interrupted run continues.
        """
        tile = max(2, int(TILE_BYTES // (14 * math.prod(volumes.shape))))  # 3 arrays of float32 over 8/7 voxels
        by_tiles: dict[Pair, list[Pair]] = {}
        for i, j in pairs:
            by_tiles.setdefault((i // tile, j // tile), []).append((i, j))
        held: dict[int, dict[int, list[Scale]]] = {}
        values: dict[Pair, float] = {}
        for key in sorted(by_tiles):
            held = {t: prepared for t, prepared in held.items() if t in key}
            kept = cache_dir and cache_dir / "msssim" / f"{self.cache_key(volumes, by_tiles[key])}.json"
            found = read_values(kept, len(by_tiles[key])) if kept else []
            if not found:
                for i, j in by_tiles[key]:
                    found.append(
                        self.pair(volumes, i, j, held.setdefault(i // tile, {}), held.setdefault(j // tile, {}))
                    )
                    yield Progress(stage, len(values) + len(found), len(pairs))
                if kept:
                    write_json(kept, found)
            values |= dict(zip(by_tiles[key], found, strict=True))
            yield Progress(stage, len(values), len(pairs))
        return [values[pair] for pair in pairs]

    def pair(
        self, volumes: Volumes, i: int, j: int, tile_i: dict[int, list[Scale]], tile_j: dict[int, list[Scale]]
    ) -> float:
        """MS-SSIM of volumes i and j; what is prepared on the way stays in their tiles."""
        from wdm_cli.engine.metrics.ssim import ms_ssim, prepare

        for index, tile in ((i, tile_i), (j, tile_j)):
            if index not in tile:
                tile[index] = prepare(volumes[index], self.scales)
        return ms_ssim(tile_i[i], tile_j[j], self.weights)

    def cache_key(self, volumes: Volumes, pairs: list[Pair]) -> str:
        """Hash of all that the values of these pairs depend on."""
        names = {index: volumes.identity(index) for index in sorted({index for pair in pairs for index in pair})}
        text = json.dumps([self.scales, [(names[i], names[j]) for i, j in pairs]])
        return hashlib.sha256(text.encode()).hexdigest()

    def unfit(self, shape: tuple[int, int, int], n: int) -> tuple[str, str] | None:
        fits = fitting_scales(shape)
        if fits >= self.scales:
            return None
        smallest = WINDOW * 2 ** (self.scales - 1)
        return (
            f"MS-SSIM over {self.scales} scales with a window of {WINDOW} needs at least {smallest} voxels a side "
            f"({self.scales - 1} halvings must leave {WINDOW})",
            f"use --scales {fits} (then the value is not comparable with the usual five)" if fits else "",
        )


def fitting_scales(shape: tuple[int, int, int]) -> int:
    """How many scales a volume can have: side // 2^(scales − 1) must still hold the window."""
    return sum(min(shape) // 2**k >= WINDOW for k in range(len(WEIGHTS)))


def choose_pairs(n: int, count: int, seed: int) -> list[Pair]:
    """All unordered pairs i < j of n items, or `count` different ones drawn by `seed`, sorted."""
    total = n * (n - 1) // 2
    if not 0 < count < total:
        return list(itertools.combinations(range(n), 2))
    drawn = random.Random(seed).sample(range(total), count)
    return sorted(nth_pair(index) for index in drawn)


def nth_pair(index: int) -> Pair:
    """The pair of this number when (0, 1), (0, 2), (1, 2), (0, 3) … are counted from 0."""
    j = (1 + math.isqrt(8 * index + 1)) // 2
    return index - j * (j - 1) // 2, j


def read_values(path: Path, count: int) -> list[float]:
    """Kept values, or nothing if there are none or the file is damaged."""
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return []
    usable = isinstance(values, list) and len(values) == count and all(isinstance(v, float) for v in values)
    return values if usable else []


def mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def deviation(values: list[float]) -> float:
    """Sample standard deviation, 0 for a single value."""
    centre = mean(values)
    return math.sqrt(math.fsum((v - centre) ** 2 for v in values) / max(1, len(values) - 1))


def standard_error(n: int, pairs: list[Pair], values: list[float]) -> float | None:
    """Of the mean over pairs, by leaving out one volume at a time: pairs that share a volume depend on each other.

    None where leaving a volume out leaves no pair.
    """
    total, sums, counts = math.fsum(values), [0.0] * n, [0] * n
    for (i, j), value in zip(pairs, values, strict=True):
        for k in (i, j):
            sums[k] += value
            counts[k] += 1
    if any(count == len(values) for count in counts):
        return None
    without = [(total - s) / (len(values) - c) for s, c in zip(sums, counts, strict=True)]
    return math.sqrt((n - 1) / n * math.fsum((v - mean(without)) ** 2 for v in without))
