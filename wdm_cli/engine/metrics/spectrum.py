"""Energies of wavelet bands: missing or invented fine detail, the weak spot of wavelet diffusion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from wdm_cli.engine.errors import require
from wdm_cli.engine.metrics.metric import DescribingMetric

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_LEVELS = 4
FLOOR_ENERGY = 1e-12  # −120 dB: an empty band stays finite


@dataclass(frozen=True, kw_only=True)
class Spectrum(DescribingMetric):
    """Energies in dB of the seven high bands of each Haar level (1 = finest), compared as distributions.

    levels: at most so many; fewer where a side cannot be halved evenly any more.
    """

    kind: Literal["spectrum"] = "spectrum"
    levels: int = MOST_LEVELS
    directions: ClassVar[dict[str, str]] = {
        "spectrum": "lower = closer: mean over bands of the Wasserstein-1 distance of their energies, in dB",
        **{
            f"spectrum_level{level}": f"generated minus real energy in dB at {scale}: "
            "above 0 = more detail or noise, below 0 = smoother"
            for level, scale in enumerate(("the finest scale", "scale 2", "scale 3", "scale 4"), start=1)
        },
    }

    def __post_init__(self) -> None:
        require(1 <= self.levels <= MOST_LEVELS, "levels", f"must be 1 to {MOST_LEVELS}")

    def unfit(self, shape: tuple[int, int, int], n: int) -> tuple[str, str] | None:
        if any(side % 2 for side in shape):
            return f"the wavelet transform needs even sides, not {'×'.join(map(str, shape))}", "crop one voxel"
        return super().unfit(shape, n)

    def describe(self, volume: NDArray[np.float32]) -> NDArray[np.float32]:
        """Mean energy in dB of the bands LLH … HHH of every level, [7 · levels]."""
        import numpy as np
        import torch

        from wdm_cli.engine.wavelet import dwt

        low, rows = torch.from_numpy(np.ascontiguousarray(volume))[None, None], []
        for _ in range(self.levels):
            if any(side % 2 for side in low.shape[2:]):
                break
            bands = dwt(low)[0, :, 0]
            energy = bands[1:].double().square().mean(dim=(1, 2, 3))
            rows.append(10 * torch.log10(energy + FLOOR_ENERGY))
            low = bands[None, :1]
        return torch.cat(rows).float().numpy() if rows else np.zeros(0, np.float32)

    def score(self, real: NDArray[np.floating], fake: NDArray[np.floating], seed: int) -> dict[str, float]:
        import numpy as np

        per_band = [wasserstein(r, f) for r, f in zip(real.T, fake.T, strict=True)]
        shift = (fake.mean(axis=0, dtype=np.float64) - real.mean(axis=0, dtype=np.float64)).reshape(-1, 7).mean(axis=1)
        levels = {f"spectrum_level{level}": float(value) for level, value in enumerate(shift, start=1)}
        return {"spectrum": float(np.mean(per_band)), **levels}


def wasserstein(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Wasserstein-1 distance of two samples of numbers: the area between their distribution functions."""
    import numpy as np

    points = np.sort(np.concatenate([a, b])).astype(np.float64)
    cdf_a = np.searchsorted(np.sort(a), points[:-1], side="right") / len(a)
    cdf_b = np.searchsorted(np.sort(b), points[:-1], side="right") / len(b)
    return float((np.abs(cdf_a - cdf_b) * np.diff(points)).sum())
