"""The orthonormal wavelet transform, one level, in three dimensions.

Along each axis, for neighbours a and b: low = (a + b)/√2, high = (a − b)/√2 (Haar). The eight
sub-bands stand in the order LLL LLH LHL LHH HLL HLH HHL HHH, so band s = 4·d + 2·h + w where d, h, w
are 1 for high-pass along the first, second and third spatial axis.
"""

from __future__ import annotations

import contextlib
from functools import lru_cache

import torch
from torch import Tensor

from wdm_cli.engine import native
from wdm_cli.engine.haar import haar, inverse_haar

# What the network sees of the LLL band is LLL / 3. √8 would map a constant volume to itself exactly;
# 3 is what the released weights were trained with (wdm-3d), so 3 is the compatibility value.
LLL_SCALE = 3.0
_SQRT_HALF = 0.5**0.5


def dwt(x: Tensor, wavelet: str = "haar", lll_scale: float = 1.0) -> Tensor:
    """Transform features to sub-bands.

    Args:
        x: [B, C, D, H, W] with even D, H, W; float32 or float64 (half precisions are computed in
            float32 and returned as they came, also inside autocast).
        wavelet: an orthonormal wavelet of PyWavelets ("haar", "db2", …), periodised at the borders.
        lll_scale: what the LLL band is multiplied by.

    Returns:
        [B, 8, C, D/2, H/2, W/2], energy preserved (but for lll_scale).

    Raises:
        ValueError: an axis is odd or empty.
    """
    if x.dim() != 5 or any(n < 2 or n % 2 for n in x.shape[2:]):
        raise ValueError(f"the wavelet transform needs [B, C, D, H, W] with even D, H, W; got {tuple(x.shape)}")
    return haar(x, lll_scale) if _is_lean(x, wavelet) else plain_dwt(x, wavelet, lll_scale)


def idwt(bands: Tensor, wavelet: str = "haar", lll_scale: float = 1.0) -> Tensor:
    """Inverse of `dwt`.

    Args:
        bands: [B, 8, C, d, h, w] in band order; types as in `dwt`.
        wavelet: the one they were made with.
        lll_scale: what the LLL band is multiplied by before; undoes a `dwt` with its reciprocal.

    Returns:
        [B, C, 2d, 2h, 2w], in the type of `bands`.

    Raises:
        ValueError: another number of axes or bands.
    """
    if bands.dim() != 6 or bands.shape[1] != 8:
        raise ValueError(f"the inverse transform needs [B, 8, C, d, h, w]; got {tuple(bands.shape)}")
    return inverse_haar(bands, lll_scale) if _is_lean(bands, wavelet) else plain_idwt(bands, wavelet, lll_scale)


def encode(volume: Tensor, wavelet: str = "haar") -> Tensor:
    """Volume [B, 1, D, H, W] -> coeffs [B, 8, D/2, H/2, W/2] as the network sees them (LLL / 3)."""
    return dwt(volume, wavelet, 1 / LLL_SCALE).squeeze(2)


def decode(coeffs: Tensor, wavelet: str = "haar") -> Tensor:
    """Inverse of `encode`: coeffs [B, 8, d, h, w] -> volume [B, 1, 2d, 2h, 2w]."""
    return idwt(coeffs.unsqueeze(2), wavelet, LLL_SCALE)


def _is_lean(x: Tensor, wavelet: str) -> bool:
    return wavelet == "haar" and native.serves(x)


def plain_dwt(x: Tensor, wavelet: str, lll_scale: float) -> Tensor:
    """`dwt` as it is defined, axis by axis, on any device."""
    bands = [x if x.dtype in (torch.float32, torch.float64) else x.float()]
    for dim in (2, 3, 4):  # first axis first, so that its letter varies slowest
        bands = [half for band in bands for half in _analyse(band, dim, wavelet)]
    return torch.stack([bands[0] * lll_scale, *bands[1:]], dim=1).to(x.dtype)


def plain_idwt(bands: Tensor, wavelet: str, lll_scale: float) -> Tensor:
    """`idwt` as it is defined, axis by axis, on any device."""
    lll, *high = (bands if bands.dtype in (torch.float32, torch.float64) else bands.float()).unbind(1)
    parts = [lll * lll_scale, *high]
    for dim in (4, 3, 2):
        parts = [_synthesise(low, high, dim, wavelet) for low, high in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0].to(bands.dtype)


def _analyse(x: Tensor, dim: int, wavelet: str) -> tuple[Tensor, Tensor]:
    """Low and high half of x along one axis."""
    if wavelet == "haar":
        even, odd = x.reshape(*x.shape[:dim], -1, 2, *x.shape[dim + 1 :]).unbind(dim + 1)
        return (even + odd) * _SQRT_HALF, (even - odd) * _SQRT_HALF
    low, high = _apply(_matrix(wavelet, x.shape[dim]), x, dim).chunk(2, dim)
    return low, high


def _synthesise(low: Tensor, high: Tensor, dim: int, wavelet: str) -> Tensor:
    if wavelet == "haar":
        return torch.stack([(low + high) * _SQRT_HALF, (low - high) * _SQRT_HALF], dim + 1).flatten(dim, dim + 1)
    return _apply(_matrix(wavelet, 2 * low.shape[dim]).T, torch.cat([low, high], dim), dim)


@lru_cache(maxsize=32)
def _matrix(wavelet: str, n: int) -> Tensor:
    """The orthogonal n×n matrix of one periodised level, low-pass rows first (float64)."""
    import numpy as np
    import pywt

    low, high = pywt.dwt(np.eye(n), wavelet, mode="periodization", axis=0)
    return torch.from_numpy(np.concatenate([low, high]))


def _apply(matrix: Tensor, x: Tensor, dim: int) -> Tensor:
    """Matrix along one axis, in the precision of x whatever autocast says (on the meta device it has no say)."""
    device = x.device.type
    with contextlib.nullcontext() if device == "meta" else torch.autocast(device, enabled=False):
        return (x.movedim(dim, -1) @ matrix.T.to(x)).movedim(-1, dim)
