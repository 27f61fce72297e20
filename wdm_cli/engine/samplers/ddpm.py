"""Ancestral sampling (Ho et al. 2020, algorithm 2) for a network that predicts x0."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from wdm_cli.engine.samplers.sampler import Sampler, predict, respaced

if TYPE_CHECKING:
    from torch import Tensor

    from wdm_cli.engine.diffusion import Denoiser, Schedule
    from wdm_cli.engine.samplers.sampler import Map


@dataclass(frozen=True, kw_only=True)
class DDPM(Sampler):
    """The paper's sampler: posterior mean from x0 and x_t, variance β_t ("large").

    With fewer steps than the schedule has, the chain is respaced evenly (the official rule).
    """

    kind: Literal["ddpm"] = "ddpm"
    steps: int = 1000

    def run(self, denoise: Denoiser, noise: Tensor, schedule: Schedule, clip: Map, draw: Map) -> Iterator[Tensor]:
        chain = respaced(schedule, self.steps)
        of_x0, of_x_t = (c.tolist() for c in chain.posterior_mean_coefs)
        variance = chain.betas.clone()
        # β_0 would add noise that the last step does not remove; the posterior variance at 1 is used instead
        variance[0] = chain.posterior_variance[min(1, len(chain) - 1)]
        std = variance.sqrt().tolist()
        x_t = noise
        for i in reversed(range(len(chain))):
            x_t = of_x0[i] * predict(denoise, x_t, chain, i, clip) + of_x_t[i] * x_t
            if i > 0:
                x_t = x_t + std[i] * draw(x_t)
            yield x_t
