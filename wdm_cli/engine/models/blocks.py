"""What both networks are made of.

Modules carry the parameter names of the official checkpoints (`in_layers.0`, `emb_layers.1`, …), so
that a state_dict is an official file as it stands.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Resample = Callable[[Tensor], Tensor]
COEFF_CHANNELS = 8  # sub-bands in, sub-bands out


class GroupNorm32(nn.GroupNorm):
    """GroupNorm computed in float32 whatever the precision around it."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float()).to(x.dtype)


def conv3(channels: int, out_channels: int, *, zero: bool = False) -> nn.Conv3d:
    """3×3×3 convolution that keeps the size; `zero` starts it at zero."""
    conv = nn.Conv3d(channels, out_channels, 3, padding=1)
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
        self.in_layers = nn.Sequential(GroupNorm32(groups, channels), nn.SiLU(), conv3(channels, out_channels))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_width, out_channels))
        self.out_layers = nn.Sequential(
            GroupNorm32(groups, out_channels),
            nn.SiLU(),
            nn.Dropout(dropout),
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
            norm, act, conv = self.in_layers
            h, x = conv(self.resample(act(norm(x)))), self.resample(x)
        return self.finish(h, x, emb)

    def finish(self, h: Tensor, x: Tensor, emb: Tensor) -> Tensor:
        """Everything behind the first convolution: embedding, second convolution, shortcut."""
        h = h + self.emb_layers(emb).to(h.dtype)[:, :, None, None, None]
        shortcut: Tensor = self.skip_connection(x)
        return shortcut + self.out_layers(h)


def average_pool(x: Tensor) -> Tensor:
    return F.avg_pool3d(x, 2)


def nearest_upsample(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


class Network(nn.Module):
    """Base of the networks: `forward(x_t [B, 8, d, h, w], t [B] int64) -> x0`, same shape, float32."""

    checkpointing: bool = False
    """Recompute every block in the backward pass instead of keeping its activations."""

    def run(self, block: nn.Module, *inputs: Tensor) -> Tensor:
        """Apply a block, under gradient checkpointing if asked for."""
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False)  # type: ignore[no-any-return]
        return block(*inputs)  # type: ignore[no-any-return]
