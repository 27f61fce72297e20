"""The arithmetic of MS-SSIM: terms of one volume, computed once, and what is left for each pair.

SSIM = l · cs with l = (2 μ_x μ_y + C1)/(μ_x² + μ_y² + C1) and cs = (2 σ_xy + C2)/(σ_x² + σ_y² + C2), moments
under a Gaussian window of 7 (σ 1.5), valid positions only. MS-SSIM = Π_k relu(mean cs_k)^w_k, the last scale
with l · cs in place of cs. Only σ_xy = E[xy] − μ_x μ_y belongs to the pair.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from wdm_cli.engine.metrics.msssim import WINDOW

SIGMA = 1.5
C1, C2 = 0.01**2, 0.03**2
SLAB = 16
"""Slices worked on at once: a slab of a 128³ volume stays in the processor's cache (about 1 MB)."""


class Scale(NamedTuple):
    """A volume at one scale, [D, H, W], with its windowed mean and σ²/2 + C2/4, [D−6, H−6, W−6]."""

    volume: Tensor
    mean: Tensor
    half: Tensor


def prepare(volume: object, scales: int) -> list[Scale]:
    """Per-volume terms at every scale.

    Args:
        volume: [D, H, W] in [0, 1], float32 array or tensor; each side at least 7·2^(scales − 1).
    """
    x = torch.as_tensor(volume, dtype=torch.float32)
    terms = []
    for index in range(scales):
        if index:
            x = F.avg_pool3d(x[None, None], 2)[0, 0]
        mean = blur(x)
        half = (blur(x * x) - mean * mean) / 2 + C2 / 4
        terms.append(Scale(x.contiguous(), mean, half))
    return terms


def ms_ssim(a: list[Scale], b: list[Scale], weights: tuple[float, ...]) -> float:
    """MS-SSIM of two prepared volumes; negative terms count as 0."""
    product = 1.0
    for index, (x, y, weight) in enumerate(zip(a, b, weights, strict=True)):
        term = similarity(x, y, luminance=index == len(weights) - 1)
        product *= max(0.0, term) ** weight
    return product


def similarity(x: Scale, y: Scale, *, luminance: bool) -> float:
    """Mean over all window positions of cs, or of l · cs; worked through slab by slab."""
    depth = x.mean.shape[0]
    total = 0.0
    for start in range(0, depth, SLAB):
        stop = min(start + SLAB, depth)
        mx, my = x.mean[start:stop], y.mean[start:stop]
        inside = slice(start, stop + WINDOW - 1)
        cs = blur(x.volume[inside] * y.volume[inside])
        cs.addcmul_(mx, my, value=-1).add_(C2 / 2)  # σ_xy + C2/2
        cs.div_(x.half[start:stop] + y.half[start:stop])  # over (σ_x² + σ_y² + C2)/2
        if luminance:
            cs.mul_((2 * mx * my + C1) / (mx * mx + my * my + C1))
        total += float(cs.sum())
    return total / x.mean.numel()


def blur(x: Tensor) -> Tensor:
    """Gaussian window along the three axes of [D, H, W], valid positions, as three matrix products."""
    depth, height, width = (band_matrix(n, x.device) for n in x.shape)
    x = torch.matmul(height, x @ width.T)
    return (depth @ x.reshape(x.shape[0], -1)).reshape(-1, *x.shape[1:])


@functools.lru_cache(maxsize=64)
def band_matrix(n: int, device: torch.device) -> Tensor:
    """[n − 6, n]: row i holds the window's weights at columns i … i + 6."""
    offsets = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    weights = torch.exp(-0.5 * (offsets / SIGMA) ** 2)
    weights = (weights / weights.sum()).float()
    matrix = torch.zeros(n - WINDOW + 1, n)
    for row in range(n - WINDOW + 1):
        matrix[row, row : row + WINDOW] = weights
    return matrix.to(device)
