"""What both networks are made of.

Modules carry the parameter names of the official checkpoints (`in_layers.0`, `emb_layers.1`, …), so
that a state_dict is an official file as it stands.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from wdm_cli.engine.models.dropout import RowDropout

Resample = Callable[[Tensor], Tensor]
COEFF_CHANNELS = 8  # sub-bands in, sub-bands out


class NormAct(nn.GroupNorm):
    """SiLU(GroupNorm(x)) in float32 whatever the precision around it; returned in the precision of x.

    One step of autograd that keeps x alone and computes the rest again in the backward pass: the peak of
    a float32 training step of ours_unet_128 falls from 4.7 to 3.8 GB, and the step is no slower.
    """

    def forward(self, x: Tensor) -> Tensor:
        return _NormAct.apply(x, self.weight, self.bias, self.num_groups, self.eps)  # type: ignore[no-any-return, no-untyped-call]


class _NormAct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        normed, mean, rstd = _group_norm(x, weight, bias, groups, eps)
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        ctx.groups, ctx.eps = groups, eps
        return F.silu(normed, inplace=True).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, rstd = ctx.saved_tensors
        normed, _, _ = _group_norm(x, weight, bias, ctx.groups, ctx.eps)
        grad = torch.ops.aten.silu_backward(grad.float().contiguous(), normed)
        batch, channels = x.shape[:2]
        of_x, of_weight, of_bias = torch.ops.aten.native_group_norm_backward(
            grad, x.float().contiguous(), mean, rstd, weight, batch, channels, x[0, 0].numel(), ctx.groups, [True] * 3
        )
        return of_x.to(x.dtype), of_weight, of_bias, None, None


def _group_norm(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised x in float32, with the mean and 1/std of each group."""
    batch, channels = x.shape[:2]
    return torch.native_group_norm(x.float().contiguous(), weight, bias, batch, channels, x[0, 0].numel(), groups, eps)


class Conv3(nn.Conv3d):
    """Conv3d that stays in float32 where oneDNN 3.12 (torch 2.13, CPU) goes wrong in bf16.

    There the weight gradient of a 3×3×3 kernel on a grid with two planes is made of uninitialised memory. The
    lowest level of the WavU-Net is such a grid.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] == 2 and x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                return super().forward(x.float())
        return super().forward(x)


def conv3(channels: int, out_channels: int, *, zero: bool = False) -> nn.Conv3d:
    """3×3×3 convolution that keeps the size; `zero` starts it at zero."""
    conv = Conv3(channels, out_channels, 3, padding=1)
    if zero:
        nn.init.zeros_(conv.weight)
        assert conv.bias is not None
        nn.init.zeros_(conv.bias)
    return conv


def timestep_embedding(t: Tensor, width: int) -> Tensor:
    """Sinusoids of t [B] -> [B, width], cosines first, frequencies 10000^(−i/(width/2))."""
    half = width // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = t[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def time_embed(base_channels: int) -> nn.Sequential:
    """MLP from sinusoids [B, base] to the embedding [B, 4·base]."""
    width = 4 * base_channels
    return nn.Sequential(nn.Linear(base_channels, width), nn.SiLU(), nn.Linear(width, width))


class ResBlock(nn.Module):
    """h = conv(act(norm(x))) + Linear(act(emb)); return shortcut(x) + conv(dropout(act(norm(h)))).

    With `resample`, both branches are resampled between the activation and the first convolution.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        *,
        groups: int,
        emb_width: int,
        dropout: float = 0.0,
        resample: Resample | None = None,
    ) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(NormAct(groups, channels), nn.Identity(), conv3(channels, out_channels))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_width, out_channels))
        self.out_layers = nn.Sequential(
            NormAct(groups, out_channels),
            nn.Identity(),  # the place of the activation in the official numbering
            RowDropout(dropout),
            conv3(out_channels, out_channels, zero=True),
        )
        self.skip_connection = (
            nn.Identity() if channels == out_channels else nn.Conv3d(channels, out_channels, kernel_size=1)
        )
        self.resample = resample

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        if self.resample is None:
            h = self.in_layers(x)
        else:
            norm_act, _, conv = self.in_layers
            h, x = conv(self.resample(norm_act(x))), self.resample(x)
        return self.finish(h, x, emb)

    def finish(self, h: Tensor, x: Tensor, emb: Tensor) -> Tensor:
        """Everything behind the first convolution: embedding, second convolution, shortcut."""
        h = h + self.emb_layers(emb).to(h.dtype)[:, :, None, None, None]
        out: Tensor = self.skip_connection(x) + self.out_layers(h)
        return out


def average_pool(x: Tensor) -> Tensor:
    return F.avg_pool3d(x, 2)


def nearest_upsample(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


class Network(nn.Module):
    """Base of the networks: `forward(x_t [B, 8, d, h, w], t [B] int64) -> x0`, same shape, float32."""

    checkpointing: bool = False
    """Recompute every block in the backward pass instead of keeping its activations."""

    def run(self, block: nn.Module, *inputs: Tensor) -> Any:
        """Apply a block, under gradient checkpointing if asked for."""
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)


def nested(modules: nn.ModuleList) -> list[list[nn.Module]]:
    """The modules of `input_blocks.I.J` and their like as plain lists, [I][J]."""
    return [list(layers) for layers in modules]  # type: ignore[call-overload]
