"""Every row of features against every other: distances, kernels, and the discrepancy that they give."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def distances(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """Euclidean distances [n, m] of the rows of a [n, d] and b [m, d], in float64."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    origin = a.mean(axis=0)  # far from the origin the squares below would cancel
    x, y = a - origin, b - origin
    squared = (x * x).sum(1)[:, None] + (y * y).sum(1)[None, :] - 2 * (x @ y.T)
    found: NDArray[np.float64] = np.sqrt(squared.clip(0))
    return found


def without_self(within: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distances [n, n] within one folder, where nothing is its own neighbour: infinite on the diagonal."""
    others = within.copy()
    np.fill_diagonal(others, np.inf)
    return others


def kth_neighbour(within: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """Distance [n] of every row to its k-th nearest other row, from distances [n, n]; k is 1 to n − 1."""
    nearest: NDArray[np.float64] = np.partition(without_self(within), k - 1, axis=1)[:, k - 1]
    return nearest


def cubic_kernel(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """(x·y/d + 1)³ [n, m] of all rows x of a [n, d] and y of b [m, d]."""
    product: NDArray[np.float64] = (a.astype(np.float64) @ b.astype(np.float64).T / a.shape[1] + 1) ** 3
    return product


def mmd2(k_xx: NDArray[np.float64], k_yy: NDArray[np.float64], k_xy: NDArray[np.float64]) -> float:
    """Unbiased squared maximum mean discrepancy (Gretton et al., 2012); may fall below 0.

    Args:
        k_xx, k_yy, k_xy: kernel matrices [n, n], [m, m] and [n, m]; n and m at least 2.
    """
    n, m = k_xy.shape
    within_x = (k_xx.sum() - k_xx.trace()) / (n * (n - 1))
    within_y = (k_yy.sum() - k_yy.trace()) / (m * (m - 1))
    return float(within_x + within_y - 2 * k_xy.mean())
