"""The Haar transform of `wavelet.py` for a CPU, at the speed of a copy, in the layouts that the networks use.

Bands of features come out as [B, 8, d, h, w, C] in memory, those of a volume as [B, d, h, w, 8]: channels-last for what
comes next in both. Needs the compiled loops (`native.serves`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from wdm_cli.engine import native


def haar(x: Tensor, lll_scale: float = 1.0) -> Tensor:
    """x [B, C, D, H, W] in float32 or bf16 -> bands [B, 8, C, D/2, H/2, W/2], LLL times lll_scale."""
    return _Haar.apply(x, lll_scale, _analyse, _synthesise)  # type: ignore[no-any-return, no-untyped-call]


def inverse_haar(bands: Tensor, lll_scale: float = 1.0) -> Tensor:
    """Bands [B, 8, C, d, h, w], whose LLL is first multiplied by lll_scale -> [B, C, 2d, 2h, 2w]."""
    return _Haar.apply(bands, lll_scale, _synthesise, _analyse)  # type: ignore[no-any-return, no-untyped-call]


class _Haar(torch.autograd.Function):
    """An orthogonal map times a diagonal: its adjoint is the other direction with the same scale."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, lll_scale: float, apply: Any, adjoint: Any) -> Tensor:
        ctx.lll_scale, ctx.adjoint = lll_scale, adjoint
        return apply(x, lll_scale)  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return ctx.adjoint(grad, ctx.lll_scale), None, None, None


def _analyse(x: Tensor, lll_scale: float) -> Tensor:
    batch, channels, *sides = x.shape
    d, h, w = (side // 2 for side in sides)
    voxels = x.permute(0, 2, 3, 4, 1).contiguous()
    bands = x.new_empty(batch, 8, d, h, w, channels) if channels > 1 else x.new_empty(batch, d, h, w, 8)
    native.run("haar", voxels, bands, batch, d, h, w, channels, lll_scale)
    return bands.permute(0, 1, 5, 2, 3, 4) if channels > 1 else bands.permute(0, 4, 1, 2, 3)[:, :, None]


def _synthesise(bands: Tensor, lll_scale: float) -> Tensor:
    batch, _, channels, d, h, w = bands.shape
    source = bands.permute(0, 1, 3, 4, 5, 2) if channels > 1 else bands[:, :, 0].permute(0, 2, 3, 4, 1)
    voxels = bands.new_empty(batch, 2 * d, 2 * h, 2 * w, channels)
    native.run("inverse_haar", voxels, source.contiguous(), batch, d, h, w, channels, lll_scale)
    return voxels.permute(0, 4, 1, 2, 3)
