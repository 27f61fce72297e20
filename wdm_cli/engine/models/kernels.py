"""The steps that take a network's time: SiLU(GroupNorm(x)), the convolution behind it, resampling by 2.

Each has a plain twin, `plain_*`, that says in PyTorch's words what is computed; tests compare the two. The lean forms

- keep, for the backward pass, x alone: what lies between x and the convolution's output is computed again;
- on a CPU, stay in the channels-last layout, in which oneDNN's convolutions are fastest, and use the compiled loops of
  `native` where those are there: PyTorch's own GroupNorm backward and pooling are several times slower in that layout.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from wdm_cli.engine import native


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
    """On a CPU, x [B, C, D, H, W] in the channels-last layout; copied only if it lies otherwise in memory.

    With the strides that PyTorch's GroupNorm expects, also at sides of length 1, where others are contiguous, too.
    """
    if x.device.type != "cpu":
        return x
    voxels = x.permute(0, 2, 3, 4, 1).contiguous()
    return voxels.view(-1).view(voxels.shape).permute(0, 4, 1, 2, 3)


# --- SiLU(GroupNorm(x)) ---


def plain_norm_act(x: Tensor, norm: Norm) -> Tensor:
    """SiLU(GroupNorm(x)) of x [B, C, D, H, W] (Wu & He 2018), in float32, returned in the precision of x."""
    return F.silu(F.group_norm(x.float(), norm.groups, norm.weight, norm.bias, norm.eps)).to(x.dtype)


def norm_act(x: Tensor, norm: Norm) -> Tensor:
    """`plain_norm_act`, keeping x alone for the backward pass."""
    return _NormAct.apply(x, *norm)  # type: ignore[no-any-return, no-untyped-call]


def _checked(norm: Norm, channels: int) -> Norm:
    """The parameters as they may be read from memory.

    Raises:
        ValueError: they do not fit the channels.
    """
    weight, bias, groups, eps = norm
    if weight.shape != (channels,) or bias.shape != (channels,) or channels % groups:
        raise ValueError(f"{len(weight)} weights and {len(bias)} biases in {groups} groups for {channels} channels")
    return Norm(weight.contiguous(), bias.contiguous(), groups, eps)


def _norm_act(x: Tensor, norm: Norm) -> tuple[Tensor, Tensor, Tensor]:
    """SiLU(GroupNorm(x)) with the mean and 1/std of each group [B, G]; x as `dense` leaves it."""
    batch, channels = x.shape[:2]
    voxels = math.prod(x.shape[2:])
    weight, bias, groups, eps = _checked(norm, channels)
    if native.serves(x, weight, bias):
        out, (mean, rstd) = torch.empty_like(x), x.new_empty(2, batch, groups, dtype=torch.float32)
        native.run("norm_act", x, weight, bias, out, mean, rstd, batch, voxels, channels, groups, eps)
        return out, mean, rstd
    values = x if x.device.type == "cpu" else x.float().contiguous()
    normed, mean, rstd = torch.native_group_norm(values, weight, bias, batch, channels, voxels, groups, eps)
    return F.silu(normed, inplace=True).to(x.dtype), mean.float(), rstd.float()


class _NormAct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *norm: Any) -> Tensor:
        x = dense(x)  # in here it costs autograd nothing
        out, mean, rstd = _norm_act(x, Norm(*norm))
        ctx.save_for_backward(x, norm[0], norm[1], mean, rstd)
        ctx.settings = norm[2:]
        return out

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
    batch, channels = x.shape[:2]
    voxels = math.prod(x.shape[2:])
    weight, bias, groups, eps = _checked(norm, channels)
    if native.serves(x, weight, bias):
        of_x, of_weight, of_bias = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(bias)
        tensors = dense(grad.to(x.dtype)), x, weight, bias, mean, rstd, of_x, of_weight, of_bias
        native.run("norm_act_backward", *tensors, batch, voxels, channels, groups)
        return of_x, of_weight, of_bias
    values = x.float().contiguous()
    normed = torch.native_group_norm(values, weight, bias, batch, channels, voxels, groups, eps)[0]
    of_normed = torch.ops.aten.silu_backward(grad.float().contiguous(), normed)
    of_x, of_weight, of_bias = torch.ops.aten.native_group_norm_backward(
        of_normed, values, mean, rstd, weight, batch, channels, voxels, groups, [True] * 3
    )
    return preferred_layout(of_x.to(x.dtype)), of_weight, of_bias


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
    """Sums of 2×2×2 voxels times a factor, [B, C, D, H, W] -> [B, C, D/2, H/2, W/2]."""
    batch, channels, *sides = x.shape
    if not native.serves(x) or any(side % 2 for side in sides):
        values = x.float() if x.device.type == "cpu" else x  # there PyTorch pools no bf16
        return (F.avg_pool3d(values, 2) * (8 * factor)).to(x.dtype)
    halves = [side // 2 for side in sides]
    out = x.new_empty(batch, *halves, channels)
    native.run("sum_blocks", dense(x), out, batch, *halves, channels, factor)
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
        h, mean, rstd = _norm_act(x, Norm(*norm))
        ctx.save_for_backward(x, norm[0], norm[1], mean, rstd, weight)
        ctx.settings = norm[2], norm[3], resample, precision
        h = _input_of_conv(h, resample, precision)
        out = F.conv3d(h, weight.to(h.dtype), bias.to(h.dtype), padding=weight.shape[-1] // 2)
        return preferred_layout(out.to(precision))  # a small grid may have been convolved in the plain layout

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, norm_weight, norm_bias, mean, rstd, weight = ctx.saved_tensors
        groups, eps, resample, precision = ctx.settings
        norm = Norm(norm_weight, norm_bias, groups, eps)
        h = _input_of_conv(_norm_act(x, norm)[0], resample, precision)
        grad = preferred_layout(grad.to(h.dtype))  # the loss leaves that of the last layer in the plain layout
        of_h, of_weight, of_bias = _conv_gradients(grad, h, weight.to(h.dtype))
        del h
        of_norm = _norm_act_gradients(resample.adjoint(of_h) if resample else of_h, x, norm, mean, rstd)
        of_weight = of_weight.contiguous().to(weight.dtype)  # as the weight lies, or autograd copies it in float32
        return (*of_norm, None, None, of_weight, of_bias.to(weight.dtype), None, None)


def _input_of_conv(h: Tensor, resample: Resample | None, precision: torch.dtype) -> Tensor:
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
