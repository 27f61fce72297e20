"""Fréchet distance of features (Heusel et al., 2017), in float64 and without a matrix square root."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from wdm_cli.engine.metrics.metric import FeatureMetric

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class FID(FeatureMetric):
    """Distance of the Gaussians fitted to the features of the real and the generated volumes."""

    kind: Literal["fid"] = "fid"
    directions: ClassVar[dict[str, str]] = {
        "fid": "lower = closer to the real volumes",
        "fid_x1000": "the same × 10³, as the WDM paper prints it",
    }

    def score(self, real: NDArray[np.floating], fake: NDArray[np.floating], seed: int) -> dict[str, float]:
        value = frechet_distance(real, fake)
        return {"fid": value, "fid_x1000": 1000 * value}


def frechet_distance(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """|μ_a − μ_b|² + tr Σ_a + tr Σ_b − 2 tr (Σ_a Σ_b)^½, with sample covariances (n − 1).

    Args:
        a, b: features [n, d] and [m, d]; n and m at least 2.

    With X = (a − μ_a)/√(n−1), Y likewise, Σ_a = XᵀX, and tr (Σ_a Σ_b)^½ is the nuclear norm of X Yᵀ: an n × m
    matrix, exact for rank-deficient covariances too. Where both n and m exceed d the eigenvalues of the d × d
    matrix Σ_a^½ Σ_b Σ_a^½ cost less and give the same.
    """
    import numpy as np

    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    x = (a - a.mean(0)) / np.sqrt(len(a) - 1)
    y = (b - b.mean(0)) / np.sqrt(len(b) - 1)
    difference = a.mean(0) - b.mean(0)
    return float(difference @ difference + (x * x).sum() + (y * y).sum() - 2 * trace_of_root(x, y))


def trace_of_root(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """tr (XᵀX YᵀY)^½ of X [n, d] and Y [m, d].

    On one thread: LAPACK's many small steps lose more by waiting for each other than threads gain (0.2 s against
    several seconds for n = 1000 on a busy machine).
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        s, t = torch.from_numpy(x), torch.from_numpy(y)
        if min(len(s), len(t)) <= s.shape[1]:
            return float(torch.linalg.svdvals(s @ t.T).sum())
        values, vectors = torch.linalg.eigh(s.T @ s)
        root = vectors * values.clamp(min=0).sqrt() @ vectors.T
        return float(torch.linalg.eigvalsh(root @ (t.T @ t) @ root).clamp(min=0).sqrt().sum())
    finally:
        torch.set_num_threads(threads)
