"""The U-Net of WDM, parameter names as in the official checkpoints."""

from __future__ import annotations

from functools import partial

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
from wdm_cli.engine.models.kernels import average_pool, nearest_upsample, preferred_layout
from wdm_cli.engine.models.settings import UNet


class UNetNetwork(Network):
    """Residual U-Net with additive skips: h = (h + skip)/2 before each decoder block.

    The decoder takes the encoder's outputs in reverse, res_blocks + 1 a level; a decoder block is as
    wide as the skip that comes next.
    """

    def __init__(self, settings: UNet, in_channels: int, out_channels: int) -> None:
        super().__init__()
        base, widths = settings.base_channels, settings.widths
        block = partial(ResBlock, groups=settings.groups, emb_width=4 * base, dropout=settings.dropout)
        self.time_embed = time_embed(base)

        width = base
        self.input_blocks = nn.ModuleList([nn.ModuleList([conv3(in_channels, base)])])
        skip_widths = [base]
        for level, level_width in enumerate(widths):
            for _ in range(settings.res_blocks):
                self.input_blocks.append(nn.ModuleList([block(width, level_width)]))
                width = level_width
                skip_widths.append(width)
            if level < len(widths) - 1:
                self.input_blocks.append(nn.ModuleList([block(width, width, resample=average_pool)]))
                skip_widths.append(width)

        self.middle_block = nn.ModuleList([block(width, width), block(width, width)])

        self.output_blocks = nn.ModuleList()
        for level in reversed(range(len(widths))):
            for i in range(settings.res_blocks + 1):
                skip_widths.pop()
                next_width = skip_widths[-1] if skip_widths else base
                layers = nn.ModuleList([block(width, next_width)])
                width = next_width
                if i == settings.res_blocks and level > 0:
                    layers.append(block(width, width, resample=nearest_upsample))
                self.output_blocks.append(layers)

        self.out = nn.Sequential(NormAct(settings.groups, width), nn.Identity(), conv3(width, out_channels, zero=True))
        self.base_channels = base

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        emb = self.time_embed(timestep_embedding(t, self.base_channels))
        (stem,), *encoder = nested(self.input_blocks)
        h = stem(preferred_layout(x_t))
        skips = [h]
        for (block,) in encoder:
            h = self.run(block, h, emb)
            skips.append(h)
        for block in self.middle_block:
            h = self.run(block, h, emb)
        for layers in nested(self.output_blocks):
            h = torch.lerp(h, skips.pop(), 0.5)
            for block in layers:
                h = self.run(block, h, emb)
        return activate_and_convolve(self.out, h).float()
