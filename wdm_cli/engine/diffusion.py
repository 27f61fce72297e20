"""Gaussian diffusion with prediction of x0, in any space (Ho et al. 2020; Friedrich et al. 2024, "WDM").

Forward: x_t = √ᾱ_t·x0 + √(1−ᾱ_t)·noise (Ho et al. 2020, eq. 4). The network, a *denoiser*
`denoise(x_t, t) -> x0`, sees x_t [B, C, d, h, w] of a space and the original timesteps t [B] (int64) and returns the
clean x0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Denoiser = Callable[[Tensor, Tensor], Tensor]
Grid = Literal["linear", "quadratic", "log-snr", "karras"]


@dataclass(frozen=True)
class Schedule:
    """Noise levels of a (possibly respaced) chain; all tables are float64 and cast last.

    timesteps: [T] int64, what the network is told; alpha_bar: [T] float64, falling from ~1 to ~0.
    """

    timesteps: Tensor
    alpha_bar: Tensor

    def __len__(self) -> int:
        return len(self.timesteps)

    @property
    def alpha_bar_prev(self) -> Tensor:
        return torch.cat([self.alpha_bar.new_ones(1), self.alpha_bar[:-1]])

    @property
    def betas(self) -> Tensor:
        return 1 - self.alpha_bar / self.alpha_bar_prev

    @property
    def posterior_variance(self) -> Tensor:
        """β̃_t of q(x_{t−1} | x_t, x0) (Ho et al. 2020, eq. 7)."""
        return self.betas * (1 - self.alpha_bar_prev) / (1 - self.alpha_bar)

    @property
    def posterior_mean_coefs(self) -> tuple[Tensor, Tensor]:
        """Factors of x0 and of x_t in the mean of q(x_{t−1} | x_t, x0) (eq. 7)."""
        of_x0 = self.betas * self.alpha_bar_prev.sqrt() / (1 - self.alpha_bar)
        of_x_t = (1 - self.alpha_bar_prev) * (1 - self.betas).sqrt() / (1 - self.alpha_bar)
        return of_x0, of_x_t

    @property
    def sigma(self) -> Tensor:
        """Noise over signal, √((1−ᾱ)/ᾱ) [T]; −ln σ is half the log signal-to-noise ratio."""
        return ((1 - self.alpha_bar) / self.alpha_bar).sqrt()

    def respace(self, n: int, grid: Grid = "linear") -> Schedule:
        """Keep n timesteps, always with both ends; n = 1 keeps the last.

        The betas follow from the kept ᾱ (Nichol & Dhariwal 2021, sec. 4). Grids, for u_i = i/(n−1):
        `linear` round(u·(T−1)), the official rule; `quadratic` u²·(T−1) (Song et al. 2021, DDIM); `log-snr` even in
        ln σ (Lu et al. 2022); `karras` even in σ^(1/7) (Karras et al. 2022, eq. 5). The last three take the
        nearest timesteps that are still free.

        Raises:
            ValueError: n is below 1 or above the chain's length.
        """
        total = len(self)
        if not 1 <= n <= total:
            raise ValueError(f"steps must be between 1 and {total}, got {n}")
        if n == 1:
            keep = [total - 1]
        elif grid == "linear":
            keep = [round(i * (total - 1) / (n - 1)) for i in range(n)]
        else:
            keep = _distinct(_wanted(self, torch.linspace(0, 1, n, dtype=torch.float64), grid), total)
        index = torch.tensor(keep)
        return Schedule(self.timesteps[index], self.alpha_bar[index])


def _wanted(schedule: Schedule, u: Tensor, grid: Grid) -> list[int]:
    """Positions in the chain that a grid asks for, rising, possibly repeated."""
    if grid == "quadratic":
        return (u.square() * (len(schedule) - 1)).round().long().tolist()
    sigma = schedule.sigma
    low, high = sigma[0], sigma[-1]
    if grid == "log-snr":
        targets = torch.exp(low.log() + u * (high.log() - low.log()))
    else:
        targets = (low ** (1 / 7) + u * (high ** (1 / 7) - low ** (1 / 7))) ** 7
    return (targets.log()[:, None] - sigma.log()[None]).abs().argmin(dim=1).tolist()


def _distinct(positions: list[int], total: int) -> list[int]:
    """The same positions moved apart until all differ, both ends kept."""
    n = len(positions)
    for i in range(1, n):
        positions[i] = max(positions[i], positions[i - 1] + 1)
    for i in range(n):  # those pushed beyond the end come back
        positions[i] = min(positions[i], total - n + i)
    return positions


def make_schedule(
    kind: Literal["linear", "cosine"], steps: int, beta_start: float = 1e-4, beta_end: float = 0.02
) -> Schedule:
    """Linear betas (Ho et al. 2020) or the cosine ᾱ (Nichol & Dhariwal 2021, eq. 17, β ≤ 0.999)."""
    if kind == "linear":
        betas = torch.linspace(beta_start, beta_end, steps, dtype=torch.float64)
    else:
        grid = torch.arange(steps + 1, dtype=torch.float64) / steps
        curve = torch.cos((grid + 0.008) / 1.008 * math.pi / 2) ** 2
        betas = (1 - curve[1:] / curve[:-1]).clamp(max=0.999)
    return Schedule(torch.arange(steps), torch.cumprod(1 - betas, dim=0))


def add_noise(x0: Tensor, noise: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
    """x_t for x0, noise [B, C, d, h, w] and t [B]."""
    alpha_bar = schedule.alpha_bar.to(t.device)[t].view(-1, *[1] * (x0.dim() - 1))
    return alpha_bar.sqrt().to(x0.dtype) * x0 + (1 - alpha_bar).sqrt().to(x0.dtype) * noise


def loss(denoise: Denoiser, x0: Tensor, noise: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
    """Mean squared error of the predicted x0, one value a channel.

    Args:
        x0: [B, C, d, h, w], clean, of a space. noise: the same shape, standard normal. t: [B] int64.

    Returns:
        [C]; the training loss is its mean.
    """
    x_t = add_noise(x0, noise, t, schedule)
    return (denoise(x_t, t).float() - x0).square().mean(dim=(0, 2, 3, 4))
