"""Kernel inception distance (Bińkowski et al., 2018): unbiased, so it may be read at small n."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from wdm_cli.engine.errors import require
from wdm_cli.engine.metrics.metric import FeatureMetric

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class KID(FeatureMetric):
    """Squared maximum mean discrepancy under the kernel (x·y/d + 1)³, mean over random subsets.

    subsets: how many; subset_size: volumes a subset, 0 for half the smaller folder, at most 1000.
    """

    kind: Literal["kid"] = "kid"
    subsets: int = 100
    subset_size: int = 0
    directions: ClassVar[dict[str, str]] = {
        "kid": "lower = closer to the real volumes; unbiased, may fall below 0",
        "kid_std": "standard deviation over subsets",
    }

    def __post_init__(self) -> None:
        require(self.subsets >= 1, "subsets", "must be at least 1")
        require(self.subset_size == 0 or self.subset_size >= 2, "subset_size", "must be at least 2 (or 0)")

    @property
    def minimum(self) -> int:
        return max(2, self.subset_size)

    def score(self, real: NDArray[np.floating], fake: NDArray[np.floating], seed: int) -> dict[str, float]:
        import numpy as np

        from wdm_cli.engine.metrics.pairwise import cubic_kernel, mmd2

        n, m = len(real), len(fake)
        size = self.subset_size or max(2, min(1000, min(n, m) // 2))
        k_rr, k_ff, k_rf = cubic_kernel(real, real), cubic_kernel(fake, fake), cubic_kernel(real, fake)
        rng = np.random.default_rng(seed)
        values = []
        for _ in range(self.subsets):
            i, j = rng.choice(n, size, replace=False), rng.choice(m, size, replace=False)
            values.append(mmd2(k_rr[np.ix_(i, i)], k_ff[np.ix_(j, j)], k_rf[np.ix_(i, j)]))
        return {"kid": float(np.mean(values)), "kid_std": float(np.std(values))}
