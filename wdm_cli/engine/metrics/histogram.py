"""Distance of intensity histograms: contrast and background, whatever the anatomy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from wdm_cli.engine.errors import require
from wdm_cli.engine.metrics.metric import DescribingMetric

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Histogram(DescribingMetric):
    """Wasserstein-1 distance of the mean histograms over [0, 1]."""

    kind: Literal["histogram"] = "histogram"
    bins: int = 256
    directions: ClassVar[dict[str, str]] = {
        "histogram": "lower = closer intensities: the mean shift in [0, 1] that turns one histogram into the other",
    }

    def __post_init__(self) -> None:
        require(self.bins >= 2, "bins", "must be at least 2")

    def describe(self, volume: NDArray[np.float32]) -> NDArray[np.float32]:
        """Share of voxels in each bin, [bins]."""
        import numpy as np

        counts = np.histogram(volume, bins=self.bins, range=(0, 1))[0]
        return (counts / volume.size).astype(np.float32)

    def score(self, real: NDArray[np.floating], fake: NDArray[np.floating], seed: int) -> dict[str, float]:
        import numpy as np

        difference = fake.mean(axis=0, dtype=np.float64) - real.mean(axis=0, dtype=np.float64)
        return {"histogram": float(np.abs(np.cumsum(difference)).sum() / self.bins)}
