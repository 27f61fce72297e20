"""DDIM (Song et al. 2021): fewer steps, with as much noise as `eta` says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from wdm_cli.engine.errors import require
from wdm_cli.engine.samplers.sampler import SpacedSampler, predict, respaced

if TYPE_CHECKING:
    from torch import Tensor

    from wdm_cli.engine.diffusion import Denoiser, Schedule
    from wdm_cli.engine.samplers.sampler import Map


@dataclass(frozen=True, kw_only=True)
class DDIM(SpacedSampler):
    """Deterministic, or with a share of fresh noise.

    The noise in x_t is taken as what is left of it beside the clamped x0.

    eta: share of fresh noise, 0 to 1: 0 is deterministic given x_T, 1 is ancestral sampling with posterior variance.
    """

    kind: Literal["ddim"] = "ddim"
    steps: int = 50
    eta: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.eta <= 1, "eta", "must be between 0 and 1")

    def run(self, denoise: Denoiser, noise: Tensor, schedule: Schedule, clip: Map, draw: Map) -> Iterator[Tensor]:
        chain = respaced(schedule, self.steps, self.grid)
        now, then = chain.alpha_bar, chain.alpha_bar_prev
        # eq. 16: σ = η·√((1−ᾱ')/(1−ᾱ))·√(1−ᾱ/ᾱ'), which is 0 at the last step
        std = self.eta * ((1 - then) / (1 - now) * (1 - now / then)).clamp(min=0).sqrt()
        x_t = noise
        for i in reversed(range(len(chain))):
            x0 = predict(denoise, x_t, chain, i, clip)
            direction = (x_t - now[i].sqrt().item() * x0) / (1 - now[i]).sqrt().item()
            # eq. 12
            x_t = then[i].sqrt().item() * x0 + (1 - then[i] - std[i] ** 2).clamp(min=0).sqrt().item() * direction
            if std[i] > 0:
                x_t = x_t + std[i].item() * draw(x_t)
            yield x_t
