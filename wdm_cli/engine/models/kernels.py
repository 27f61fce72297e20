"""The steps that take a network's time: SiLU(GroupNorm(x)), the convolution behind it, resampling by 2.

Each has a plain twin, `plain_*`, that says in PyTorch's words what is computed; tests compare the two. The lean forms

- keep, for the backward pass, x alone: what lies between x and the convolution's output is computed again;
- on a CPU, stay in the channels-last layout, in which oneDNN's convolutions are fastest, and go through memory in
  pieces that fit a core's cache. PyTorch's own GroupNorm backward and pooling are several times slower in that layout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

PIECE = 2**18  # values a piece: a megabyte in float32, so that the working tensors of a piece stay in a core's cache
SMALL = 2**19  # values below which one call of PyTorch's own costs less than the calls for the pieces
LANES = 4096  # values in a row of a piece, so that the vector units are kept busy


class Norm(NamedTuple):
    """The parameters of a GroupNorm: weight and bias [C], how many groups, and what keeps 1/std finite."""

    weight: Tensor
    bias: Tensor
    groups: int
    eps: float


def preferred_layout(x: Tensor) -> Tensor:
    """x in the memory layout that the device's convolutions like best; those behind it follow."""
    return x.contiguous(memory_format=torch.channels_last_3d) if x.device.type == "cpu" else x


def dense(x: Tensor) -> Tensor:
    """On a CPU, x [B, C, D, H, W] in one of the two usual layouts; copied only if it lies otherwise in memory.

    PyTorch's GroupNorm refuses the rest there, and even a usual one with unusual strides at sides of length 1.
    """
    if x.device.type != "cpu":
        return x
    if x.is_contiguous():
        return x.view(-1).view(x.shape)
    voxels = x.permute(0, 2, 3, 4, 1)
    return voxels.reshape(-1).view(voxels.shape).permute(0, 4, 1, 2, 3)


# --- SiLU(GroupNorm(x)) ---


def plain_norm_act(x: Tensor, norm: Norm) -> Tensor:
    """SiLU(GroupNorm(x)) of x [B, C, D, H, W] (Wu & He 2018), in float32, returned in the precision of x."""
    return F.silu(F.group_norm(x.float(), norm.groups, norm.weight, norm.bias, norm.eps)).to(x.dtype)


def norm_act(x: Tensor, norm: Norm) -> Tensor:
    """`plain_norm_act`, keeping x alone for the backward pass."""
    return _NormAct.apply(x, *norm)  # type: ignore[no-any-return, no-untyped-call]


def _normalise(x: Tensor, norm: Norm) -> tuple[Tensor, Tensor, Tensor]:
    """GroupNorm(x) with the mean and 1/std of each group [B, G]; sums are made in float32 in any precision."""
    x = x if x.device.type == "cpu" else x.float().contiguous()
    batch, channels = x.shape[:2]
    weight, bias, groups, eps = norm
    normed, mean, rstd = torch.native_group_norm(x, weight, bias, batch, channels, x[0, 0].numel(), groups, eps)
    return normed, mean.float(), rstd.float()


def _activate(normed: Tensor, dtype: torch.dtype) -> Tensor:
    return F.silu(normed, inplace=True).to(dtype)


class _NormAct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *norm: Any) -> Tensor:
        x = dense(x)  # in here it costs autograd nothing
        normed, mean, rstd = _normalise(x, Norm(*norm))
        ctx.save_for_backward(x, norm[0], norm[1], mean, rstd)
        ctx.settings = norm[2:]
        return _activate(normed, x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, rstd = ctx.saved_tensors
        norm = Norm(weight, bias, *ctx.settings)
        return (*_norm_act_gradients(grad, x, norm, mean, rstd), None, None)


def _norm_act_gradients(
    grad: Tensor, x: Tensor, norm: Norm, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias for the gradient of SiLU(GroupNorm(x)); mean and rstd are [B, G]."""
    if x.device.type == "cpu" and x.numel() >= SMALL:
        return _in_pieces(grad, x, norm, mean, rstd)
    batch, channels = x.shape[:2]
    grad = torch.ops.aten.silu_backward(grad.float().contiguous(), _normalise(x, norm)[0].float().contiguous())
    of_x, of_weight, of_bias = torch.ops.aten.native_group_norm_backward(
        grad, x.float().contiguous(), mean, rstd, norm.weight, batch, channels, x[0, 0].numel(), norm.groups, [True] * 3
    )
    return preferred_layout(of_x.to(x.dtype)), of_weight, of_bias


def _in_pieces(grad: Tensor, x: Tensor, norm: Norm, mean: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same, in two passes over memory.

    With y = x̂·w + b and g = grad·silu'(y), the gradient of x is rstd·(w·g − mean(w·g) − x̂·mean(x̂·w·g)), means over a
    group. As a·g + b·x + c, with one a a channel and one b and c a group, it needs only the sums of g and of g·x over
    the voxels of each channel: the first pass.
    """
    batch, channels = x.shape[:2]
    members = channels // norm.groups * x[0, 0].numel()

    def spread(of_group: Tensor) -> Tensor:
        return of_group.repeat_interleave(channels // norm.groups, dim=1)

    scale = spread(rstd) * norm.weight
    shift = norm.bias - spread(mean) * scale
    out = torch.empty_like(x, memory_format=torch.channels_last_3d)
    sums = torch.zeros(2, batch, channels)
    for sample in range(batch):
        views = [_lanes(tensor[sample]) for tensor in (x, grad, out)]
        repeats = views[0].shape[1] // channels
        a, b = scale[sample].repeat(repeats), shift[sample].repeat(repeats)
        for x_piece, grad_piece, out_piece in _pieces(*views):
            values = x_piece.float()
            g = torch.ops.aten.silu_backward(grad_piece.float(), torch.addcmul(b, values, a))
            ones = g.new_ones(1, len(g))
            sums[0, sample] += (ones @ g).view(repeats, channels).sum(0)
            sums[1, sample] += (ones @ (g * values)).view(repeats, channels).sum(0)
            out_piece.copy_(g)

    of_g, of_gx = ((s * norm.weight).view(batch, norm.groups, -1).sum(2) / members for s in sums)
    slope = (of_g * mean - of_gx) * rstd**3
    constant = -slope * mean - of_g * rstd
    for sample in range(batch):
        views = [_lanes(tensor[sample]) for tensor in (x, out)]
        repeats = views[0].shape[1] // channels
        a, b, c = (row[sample].repeat(repeats) for row in (scale, spread(slope), spread(constant)))
        for x_piece, out_piece in _pieces(*views):
            out_piece.copy_(torch.addcmul(c, x_piece.float(), b).addcmul_(out_piece.float(), a))
    return out, ((sums[1] - sums[0] * spread(mean)) * spread(rstd)).sum(0), sums[0].sum(0)


def _lanes(x: Tensor) -> Tensor:
    """One volume [C, D, H, W] as rows of whole voxels, about LANES values long; a view if x is channels-last."""
    together = math.gcd(x[0].numel(), max(1, LANES // len(x)))
    return x.permute(1, 2, 3, 0).reshape(-1, together * len(x))


def _pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    rows = max(1, PIECE // tensors[0].shape[1])
    return zip(*(torch.split(tensor, rows) for tensor in tensors), strict=True)


# --- Resampling by 2 ---


class Resample(NamedTuple):
    """A linear map on features and its adjoint, which is its backward pass; nothing need be kept for it."""

    apply: Callable[[Tensor], Tensor]
    adjoint: Callable[[Tensor], Tensor]

    def __call__(self, x: Tensor) -> Tensor:
        return _Linear.apply(x, self)  # type: ignore[no-any-return, no-untyped-call]


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, linear: Resample) -> Tensor:
        ctx.linear = linear
        return linear.apply(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.linear.adjoint(grad), None


def plain_average_pool(x: Tensor) -> Tensor:
    return F.avg_pool3d(x, 2)


def plain_nearest_upsample(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


def sum_blocks(x: Tensor, factor: float) -> Tensor:
    """Sums of 2×2×2 voxels times a factor; on a CPU in float32, two planes at a time."""
    if x.device.type != "cpu":
        return F.avg_pool3d(x, 2) * (8 * factor)
    batch, channels, *sides = x.shape
    source = x.permute(0, 2, 3, 4, 1)
    out = x.new_empty(batch, *(side // 2 for side in sides), channels)
    for sample in range(batch):
        for plane in range(sides[0] // 2):
            two = source[sample, 2 * plane : 2 * plane + 2].float()
            rows = (two[0] + two[1]).reshape(sides[1] // 2, 2, -1)
            columns = (rows[:, 0] + rows[:, 1]).view(-1, 2, channels)
            out[sample, plane] = ((columns[:, 0] + columns[:, 1]) * factor).view(out.shape[2:])
    return out.permute(0, 4, 1, 2, 3)


average_pool = Resample(lambda x: sum_blocks(x, 1 / 8), lambda grad: plain_nearest_upsample(grad / 8))
"""Means of 2×2×2 voxels, [B, C, D, H, W] -> [B, C, D/2, H/2, W/2]."""

nearest_upsample = Resample(plain_nearest_upsample, lambda grad: sum_blocks(grad, 1.0))
"""Every voxel twice along each axis, [B, C, d, h, w] -> [B, C, 2d, 2h, 2w]."""


# --- The convolution behind SiLU(GroupNorm(x)) ---


def plain_norm_act_conv(
    x: Tensor, norm: Norm, weight: Tensor, bias: Tensor, resample: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """conv(resample(SiLU(GroupNorm(x)))) with a kernel of odd size that keeps the size."""
    h = plain_norm_act(x, norm)
    return F.conv3d(resample(h) if resample else h, weight, bias, padding=weight.shape[-1] // 2)


def norm_act_conv(x: Tensor, norm: Norm, weight: Tensor, bias: Tensor, resample: Resample | None = None) -> Tensor:
    """`plain_norm_act_conv`, keeping x alone; the convolution is made in autocast's precision if that is on."""
    precision = autocast_dtype(x)
    if precision is None:
        return _NormActConv.apply(x, *norm, weight, bias, resample, x.dtype)  # type: ignore[no-any-return, no-untyped-call]
    with torch.autocast(x.device.type, enabled=False):
        return _NormActConv.apply(x, *norm, weight, bias, resample, precision)  # type: ignore[no-any-return, no-untyped-call]


class _NormActConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *inputs: Any) -> Tensor:
        *norm, weight, bias, resample, precision = inputs
        x = dense(x)  # in here it costs autograd nothing
        normed, mean, rstd = _normalise(x, Norm(*norm))
        ctx.save_for_backward(x, norm[0], norm[1], mean, rstd, weight)
        ctx.settings = norm[2], norm[3], resample, precision
        h = _input_of_conv(normed, x.dtype, resample, precision)
        del normed
        out = F.conv3d(h, weight.to(h.dtype), bias.to(h.dtype), padding=weight.shape[-1] // 2)
        return preferred_layout(out.to(precision))  # a small grid may have been convolved in the plain layout

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, norm_weight, norm_bias, mean, rstd, weight = ctx.saved_tensors
        groups, eps, resample, precision = ctx.settings
        norm = Norm(norm_weight, norm_bias, groups, eps)
        h = _input_of_conv(_normalise(x, norm)[0], x.dtype, resample, precision)
        grad = preferred_layout(grad.to(h.dtype))  # the loss leaves that of the last layer in the plain layout
        of_h, of_weight, of_bias = _conv_gradients(grad, h, weight.to(h.dtype))
        del h
        of_norm = _norm_act_gradients(resample.adjoint(of_h) if resample else of_h, x, norm, mean, rstd)
        return (*of_norm, None, None, of_weight.to(weight.dtype), of_bias.to(weight.dtype), None, None)


def _input_of_conv(normed: Tensor, dtype: torch.dtype, resample: Resample | None, precision: torch.dtype) -> Tensor:
    h = _activate(normed, dtype)
    h = resample.apply(h) if resample else h
    return h.to(conv_precision(h, precision))


def _conv_gradients(grad: Tensor, h: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of input, weight and bias of a convolution that keeps the size."""
    channels, kernel = len(weight), weight.shape[-1]
    once, padding = [1, 1, 1], [kernel // 2] * 3
    return torch.ops.aten.convolution_backward(  # type: ignore[no-any-return]
        grad, h, weight, [channels], once, padding, once, False, [0, 0, 0], 1, [True, True, True]
    )


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The precision that autocast asks for on the device of x; None if it is off."""
    device = x.device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


def conv_precision(h: Tensor, wanted: torch.dtype) -> torch.dtype:
    """The precision to convolve h in: `wanted`, but float32 where oneDNN 3.12 (torch 2.13, CPU) goes wrong in bf16.

    There the weight gradient of a 3×3×3 kernel on a grid with two planes is made of uninitialised memory. The
    lowest level of the WavU-Net is such a grid.
    """
    return torch.float32 if h.shape[2] == 2 and h.device.type == "cpu" else wanted
