"""The WavU-Net of WDM: wavelet down- and upsampling inside the network, and an input pyramid."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wdm_cli.engine.models.blocks import (
    Network,
    NormAct,
    ResBlock,
    activate_and_convolve,
    conv3,
    nested,
    time_embed,
    timestep_embedding,
)
from wdm_cli.engine.models.kernels import (
    Resample,
    nearest_upsample,
    plain_nearest_upsample,
    preferred_layout,
    sum_blocks,
)
from wdm_cli.engine.models.settings import WavUNet
from wdm_cli.engine.wavelet import LLL_SCALE, dwt, idwt

LOW = 1 / (LLL_SCALE * 8**0.5)
"""What a block's sum is multiplied by to make its LLL/3."""

low_band = Resample(lambda x: sum_blocks(x, LOW), lambda grad: plain_nearest_upsample(grad * LOW))
"""LLL/3 alone, [B, C, D, H, W] -> [B, C, D/2, H/2, W/2]."""


class WaveletDown(ResBlock):
    """Residual block that halves by the Haar transform; returns LLL/3 features and the high bands.

    Norm, activation and convolution come first, then the transform of both branches. The seven high
    bands [B, 7, C, d, h, w] of the main branch go to the decoder.
    """

    def forward(self, x: Tensor, emb: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        bands = dwt(activate_and_convolve(self.in_layers, x), lll_scale=1 / LLL_SCALE)
        return self.finish(bands[:, 0].clone(), low_band(x), emb), bands[:, 1:]


class WaveletUp(ResBlock):
    """Residual block that doubles by the inverse transform of 3·h with the encoder's high bands.

    Both branches get the same high bands, and the transform is linear: those are transformed once, and each
    branch's low band, spread over its block, is added.
    """

    def forward(self, x: Tensor, emb: Tensor, high: Tensor) -> Tensor:  # type: ignore[override]
        detail = idwt(torch.cat([torch.zeros_like(high[:, :1]), high], dim=1))
        h = activate_and_convolve(self.in_layers, x)
        return self.finish(self._raise(h, detail), self._raise(x, detail), emb)

    @staticmethod
    def _raise(h: Tensor, detail: Tensor) -> Tensor:
        return nearest_upsample(h * (LLL_SCALE / 8**0.5)).add_(detail)


class PyramidConv(nn.Module):
    """The next level of the input pyramid: conv3 of the eight bands, each divided by 3."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = conv3(8 * channels, out_channels)

    def forward(self, pyramid: Tensor) -> Tensor:
        bands = dwt(pyramid) / LLL_SCALE
        return self.conv(preferred_layout(bands.flatten(1, 2)))  # type: ignore[no-any-return]


class WavUNetNetwork(Network):
    """Every level ends in a down block, so the sides are halved once more than in the U-Net.

    A quirk that the checkpoints carry: in each decoder level the last residual block is applied
    twice with the same weights, as a block of its own and again before the up block. Its tensors
    stand in official files under both names, and so they do in this state_dict.
    """

    def __init__(self, settings: WavUNet, in_channels: int, out_channels: int) -> None:
        super().__init__()
        base, widths, count = settings.base_channels, settings.widths, settings.res_blocks

        def make(kind: type[ResBlock], channels: int, out_channels: int) -> ResBlock:
            return kind(channels, out_channels, groups=settings.groups, emb_width=4 * base, dropout=settings.dropout)

        self.base_channels = base
        self.time_embed = time_embed(base)

        width, pyramid_width = base, in_channels
        self.input_blocks = nn.ModuleList([nn.ModuleList([conv3(in_channels, base)])])
        for level_width in widths:
            for _ in range(count):
                self.input_blocks.append(nn.ModuleList([make(ResBlock, width, level_width)]))
                width = level_width
            self.input_blocks.append(nn.ModuleList([make(WaveletDown, width, width)]))
            self.input_blocks.append(nn.ModuleList([PyramidConv(pyramid_width, width)]))
            pyramid_width = width

        self.middle_block = nn.ModuleList([make(ResBlock, width, width), make(ResBlock, width, width)])

        self.output_blocks = nn.ModuleList()
        for level_width in reversed(widths):
            for _ in range(count):
                residual = make(ResBlock, width, level_width)
                width = level_width
                self.output_blocks.append(nn.ModuleList([residual]))
            self.output_blocks.append(nn.ModuleList([residual, make(WaveletUp, width, width)]))

        self.out_res = nn.ModuleList([nn.ModuleList([make(ResBlock, width, width)]) for _ in range(2)])
        self.out = nn.Sequential(NormAct(settings.groups, width), nn.Identity(), conv3(width, out_channels))

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        emb = self.time_embed(timestep_embedding(t, self.base_channels))
        (stem,), *encoder = nested(self.input_blocks)
        x_t = preferred_layout(x_t)
        h, pyramid = stem(x_t), x_t
        high_bands: list[Tensor] = []
        for (block,) in encoder:
            if isinstance(block, WaveletDown):
                h, high = self.run(block, h, emb)
                high_bands.append(high)
            elif isinstance(block, PyramidConv):
                h = pyramid = h + self.run(block, pyramid)
            else:
                h = self.run(block, h, emb)
        for block in self.middle_block:
            h = self.run(block, h, emb)
        for layers in nested(self.output_blocks):
            for block in layers:
                skip = [high_bands.pop()] if isinstance(block, WaveletUp) else []
                h = self.run(block, h, emb, *skip)
        for (block,) in nested(self.out_res):
            h = self.run(block, h, emb)
        return activate_and_convolve(self.out, h).float()
