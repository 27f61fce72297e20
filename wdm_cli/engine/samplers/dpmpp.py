"""DPM-Solver++ 2M (Lu et al. 2022b, algorithm 2) and its stochastic form."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from wdm_cli.engine.samplers.sampler import Grid, SpacedSampler, predict, respaced

if TYPE_CHECKING:
    from torch import Tensor

    from wdm_cli.engine.diffusion import Denoiser, Schedule
    from wdm_cli.engine.samplers.sampler import Map


@dataclass(frozen=True, kw_only=True)
class DPMSolverPP(SpacedSampler):
    """A second-order multistep solver for networks that predict x0: one evaluation a step.

    With x_t = α·x0 + σ·noise and λ = ln(α/σ), a step from λ_s to λ_t of length h extrapolates x0 from its last two
    predictions. The first step has one prediction only; the last one ends in x0 itself. Its 15 steps on the grid
    `log-snr` are where quality stops to grow on the models measured (docs/sampling.md).

    sde: the stochastic form (SDE-DPM-Solver++), which adds noise in every step.
    """

    kind: Literal["dpm++"] = "dpm++"
    steps: int = 15
    grid: Grid = "log-snr"
    sde: bool = False

    def run(self, denoise: Denoiser, noise: Tensor, schedule: Schedule, clip: Map, draw: Map) -> Iterator[Tensor]:
        chain = respaced(schedule, self.steps, self.grid)
        alpha, sigma = chain.alpha_bar.sqrt().tolist(), (1 - chain.alpha_bar).sqrt().tolist()
        lam = (-chain.sigma.log()).tolist()
        x_t, x0_before, h_before = noise, noise, 0.0
        for i in reversed(range(len(chain))):
            x0 = predict(denoise, x_t, chain, i, clip)
            if i == 0:
                yield x0  # σ = 0: nothing else is left
                return
            h = lam[i - 1] - lam[i]
            blend = x0 if h_before == 0 else x0 + (x0 - x0_before) * (h / (2 * h_before))
            keep = sigma[i - 1] / sigma[i]
            if self.sde:
                x_t = keep * math.exp(-h) * x_t + alpha[i - 1] * (1 - math.exp(-2 * h)) * blend
                x_t = x_t + sigma[i - 1] * math.sqrt(1 - math.exp(-2 * h)) * draw(x_t)
            else:
                x_t = keep * x_t + alpha[i - 1] * (1 - math.exp(-h)) * blend
            x0_before, h_before = x0, h
            yield x_t
