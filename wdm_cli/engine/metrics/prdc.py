"""Precision and recall (Kynkäänniemi et al., 2019), density and coverage (Naeem et al., 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from wdm_cli.engine.errors import require
from wdm_cli.engine.metrics.metric import FeatureMetric

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class PRDC(FeatureMetric):
    """Each volume has a ball that reaches to its k-th nearest neighbour of its own folder."""

    kind: Literal["prdc"] = "prdc"
    k: int = 5
    directions: ClassVar[dict[str, str]] = {
        "precision": "higher = more generated volumes lie in some real volume's ball: fidelity, at most 1",
        "recall": "higher = more real volumes lie in some generated volume's ball: diversity, at most 1",
        "density": "higher = generated volumes lie in more real balls; about 1 for real against real, can exceed 1",
        "coverage": "higher = more real balls hold a generated volume: diversity without outliers, at most 1",
    }

    def __post_init__(self) -> None:
        require(self.k >= 1, "k", "must be at least 1")

    @property
    def minimum(self) -> int:
        return self.k + 1

    def unfit(self, shape: tuple[int, int, int], n: int) -> tuple[str, str] | None:
        if n >= self.minimum:
            return None
        rule = f"prdc with k = {self.k} needs at least {self.minimum} volumes in each folder, there are {n}"
        return rule, f"add volumes, or --k {max(1, n - 1)} (then the values are not comparable with k = {self.k})"

    def score(self, real: NDArray[np.floating], fake: NDArray[np.floating], seed: int) -> dict[str, float]:
        from wdm_cli.engine.metrics.pairwise import distances, kth_neighbour

        real_radius = kth_neighbour(distances(real, real), self.k)
        fake_radius = kth_neighbour(distances(fake, fake), self.k)
        cross = distances(real, fake)  # [real, fake]
        in_real = cross < real_radius[:, None]
        return {
            "precision": float(in_real.any(axis=0).mean()),
            "recall": float((cross < fake_radius[None, :]).any(axis=1).mean()),
            "density": float(in_real.sum(axis=0).mean() / self.k),
            "coverage": float((cross.min(axis=1) < real_radius).mean()),
        }
