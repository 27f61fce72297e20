"""What both networks are made of.

Modules carry the parameter names of the official checkpoints (`in_layers.0`, `emb_layers.1`, …), so
that a state_dict is an official file as it stands.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from wdm_cli.engine.models.dropout import RowDropout
from wdm_cli.engine.models.kernels import Norm, Resample, autocast_dtype, conv_precision, norm_act, norm_act_conv


class NormAct(nn.GroupNorm):
    """SiLU(GroupNorm(x)), computed in float32, returned in the precision of x."""

    @property
    def parts(self) -> Norm:
        return Norm(self.weight, self.bias, self.num_groups, self.eps)

    def forward(self, x: Tensor) -> Tensor:
        return norm_act(x, self.parts)


class Conv3(nn.Conv3d):
    """Conv3d that stays in float32 where bf16 goes wrong (`kernels.conv_precision`)."""

    def forward(self, x: Tensor) -> Tensor:
        precision = autocast_dtype(x)
        if precision and conv_precision(x, precision) != precision:
            with torch.autocast(x.device.type, enabled=False):
                return super().forward(x.float()).to(precision)
        return super().forward(x)


class Shortcut(nn.Conv3d):
    """1×1×1 convolution whose weight's gradient has the plain strides that autograd's and DDP's buffers have.

    Of a channels-last convolution it has others: the same memory, but compared number by number, with a warning.
    """

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__(channels, out_channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.flatten(1)[:, :, None, None, None]
        return torch.conv3d(x, weight, self.bias)


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
        self.skip_connection = nn.Identity() if channels == out_channels else Shortcut(channels, out_channels)
        self.resample = resample

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = activate_and_convolve(self.in_layers, x, self.resample)
        return self.finish(h, self.resample(x) if self.resample else x, emb)

    def finish(self, h: Tensor, x: Tensor, emb: Tensor) -> Tensor:
        """Everything behind the first convolution: embedding, second convolution, shortcut."""
        # in place: nothing needs what a convolution gave before its sum with the rest
        h = h.add_(self.emb_layers(emb).to(h.dtype)[:, :, None, None, None])
        return activate_and_convolve(self.out_layers, h).add_(self.skip_connection(x))


def activate_and_convolve(layers: nn.Sequential, x: Tensor, resample: Resample | None = None) -> Tensor:
    """NormAct, resampling, dropout and convolution, as `in_layers`, `out_layers` and `out` hold them."""
    norm, *between, conv = layers
    assert isinstance(norm, NormAct)
    assert isinstance(conv, nn.Conv3d)
    assert conv.bias is not None
    if not any(isinstance(layer, nn.Dropout) and layer.p and layer.training for layer in between):
        return norm_act_conv(x, norm.parts, conv.weight, conv.bias, resample)
    assert resample is None
    out: Tensor = layers(x)
    return out


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
