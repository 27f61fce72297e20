"""Does this machine compute what it should? A few milliseconds of convolutions, bf16 against float32."""

from __future__ import annotations

import torch
from torch import Tensor

from wdm_cli.engine.models.blocks import conv3

CHANNELS, SIDE = 16, 8
PLANES = (2, 4, 8)  # of the grids, as on the lower levels of the networks


def bf16_deviation(device: torch.device) -> float:
    """How far the convolutions of the networks are from float32 when they run in bf16, relative to the largest value.

    Outputs and all gradients are compared, and the largest deviation counts; NaN counts as infinity. Rounding
    alone gives about 0.005.
    """
    worst = 0.0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for planes in PLANES:
            conv = conv3(CHANNELS, CHANNELS).to(device)
            x = torch.randn(2, CHANNELS, planes, SIDE, SIDE).to(device)
            exact, rounded = _pass(conv, x, False), _pass(conv, x, True)
            for a, b in zip(exact, rounded, strict=True):
                off = float((a - b).abs().max() / a.abs().max())
                worst = max(worst, off if off == off else float("inf"))
    return worst


def _pass(conv: torch.nn.Conv3d, x: Tensor, bf16: bool) -> tuple[Tensor, ...]:
    """Output, gradient of the input, and gradients of weight and bias, in float32."""
    x = x.clone().requires_grad_()
    with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
        y = conv(x).float()
    assert conv.bias is not None
    return (y.detach(), *torch.autograd.grad(y.square().sum(), (x, conv.weight, conv.bias)))
