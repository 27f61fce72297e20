"""Maximum mean discrepancy of features under a Gaussian kernel (Gretton et al., 2012)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from wdm_cli.engine.metrics.metric import FeatureMetric

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class MMD(FeatureMetric):
    """Unbiased squared MMD; the kernel's width is the median distance of two real volumes."""

    kind: Literal["mmd"] = "mmd"
    directions: ClassVar[dict[str, str]] = {
        "mmd": "lower = closer to the real volumes; unbiased, may fall below 0 (kernel width: median real distance)"
    }

    def score(self, real: NDArray[np.floating], fake: NDArray[np.floating], seed: int) -> dict[str, float]:
        import numpy as np

        from wdm_cli.engine.metrics.pairwise import distances, mmd2

        rr, ff, rf = distances(real, real), distances(fake, fake), distances(real, fake)
        width = float(np.median(rr[~np.eye(len(real), dtype=bool)])) or 1.0
        k_rr, k_ff, k_rf = (np.exp(-(d**2) / (2 * width**2)) for d in (rr, ff, rf))
        return {"mmd": mmd2(k_rr, k_ff, k_rf)}
