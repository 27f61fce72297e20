"""The Haar transform of `wavelet.py` for a CPU: near the speed of a copy, in the layouts that the networks use.

For a volume it is a product of each 2×2×2 block with an 8×8 matrix: a convolution with stride 2 one way, a matrix
product the other. Features of many channels are added and subtracted plane by plane, so that what lies between stays
in the cache. Bands come out channels-last, [B, 8, d, h, w, C] in memory.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# on the CPU by name: this file may first be imported while a network is built on the meta device
_STEP = torch.tensor([[1.0, 1.0], [1.0, -1.0]], device="cpu")
_BLOCKS = torch.einsum("sa,tb,uc->stuabc", _STEP, _STEP, _STEP).reshape(8, 8) / 8**0.5
"""Row s = 4d + 2h + w makes band s of a block's eight voxels; orthogonal and symmetric."""


def haar(x: Tensor, lll_scale: float = 1.0) -> Tensor:
    """x [B, C, D, H, W] in float32 or a half precision -> bands [B, 8, C, D/2, H/2, W/2], LLL times lll_scale."""
    return _Haar.apply(x, lll_scale, _analyse, _synthesise)  # type: ignore[no-any-return, no-untyped-call]


def inverse_haar(bands: Tensor, lll_scale: float = 1.0) -> Tensor:
    """Bands [B, 8, C, d, h, w], whose LLL is first multiplied by lll_scale -> [B, C, 2d, 2h, 2w]."""
    return _Haar.apply(bands, lll_scale, _synthesise, _analyse)  # type: ignore[no-any-return, no-untyped-call]


class _Haar(torch.autograd.Function):
    """An orthogonal map times a diagonal: its adjoint is the other direction with the same scale."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, lll_scale: float, apply: Any, adjoint: Any) -> Tensor:
        ctx.lll_scale, ctx.adjoint = lll_scale, adjoint
        with torch.autocast("cpu", enabled=False):
            return apply(x, lll_scale)  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return ctx.adjoint(grad, ctx.lll_scale), None, None, None


def _matrix(lll_scale: float) -> Tensor:
    matrix = _BLOCKS.clone()
    matrix[0] *= lll_scale
    return matrix


def _analyse(x: Tensor, lll_scale: float) -> Tensor:
    batch, channels, *sides = x.shape
    d, h, w = (side // 2 for side in sides)
    if channels == 1:
        kernel = _matrix(lll_scale).view(8, 1, 2, 2, 2).to(memory_format=torch.channels_last_3d)
        return F.conv3d(x.float(), kernel, stride=2)[:, :, None].to(x.dtype)
    out = x.new_empty(batch, 2, 2, 2, d, h, w, channels)
    source = x.permute(0, 2, 3, 4, 1)
    for sample in range(batch):
        for plane in range(d):
            two = source[sample, 2 * plane : 2 * plane + 2].float() * 8**-0.5
            front, back = two
            for i, in_depth in enumerate((front + back, front - back)):
                rows = in_depth.reshape(h, 2, -1)
                for j, in_height in enumerate((rows[:, 0] + rows[:, 1], rows[:, 0] - rows[:, 1])):
                    columns = in_height.view(h, w, 2, channels)
                    torch.add(columns[:, :, 0], columns[:, :, 1], out=out[sample, i, j, 0, plane])
                    torch.sub(columns[:, :, 0], columns[:, :, 1], out=out[sample, i, j, 1, plane])
            if lll_scale != 1:
                out[sample, 0, 0, 0, plane] *= lll_scale
    return out.view(batch, 8, d, h, w, channels).permute(0, 1, 5, 2, 3, 4)


def _synthesise(bands: Tensor, lll_scale: float) -> Tensor:
    batch, _, channels, d, h, w = bands.shape
    if channels == 1:
        blocks = bands[:, :, 0].permute(0, 2, 3, 4, 1).reshape(-1, 8).float() @ _matrix(lll_scale)
        # neighbours along the last axis move together, as the two parts of a complex number
        pairs = torch.view_as_complex(blocks.view(batch, d, h, w, 2, 2, 2)).permute(0, 1, 4, 2, 5, 3)
        return torch.view_as_real(pairs.contiguous()).view(batch, 1, 2 * d, 2 * h, 2 * w).to(bands.dtype)
    out = bands.new_empty(batch, d, 2, h, 2, w, 2, channels)
    source = bands.permute(0, 1, 3, 4, 5, 2)
    for sample in range(batch):
        for plane in range(d):
            eight = source[sample, :, plane].float() * 8**-0.5
            eight[0] *= lll_scale
            low, high = eight[:4], eight[4:]
            for i, in_depth in enumerate((low + high, low - high)):
                for j, in_height in enumerate((in_depth[:2] + in_depth[2:], in_depth[:2] - in_depth[2:])):
                    torch.add(in_height[0], in_height[1], out=out[sample, plane, i, :, j, :, 0])
                    torch.sub(in_height[0], in_height[1], out=out[sample, plane, i, :, j, :, 1])
    return out.view(batch, 2 * d, 2 * h, 2 * w, channels).permute(0, 4, 1, 2, 3)
