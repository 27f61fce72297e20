"""What a sampler is. No network, no file and no progress bar inside."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from wdm_cli.engine.errors import require

if TYPE_CHECKING:
    from torch import Tensor

    from wdm_cli.engine.diffusion import Denoiser, Schedule

    Map = Callable[[Tensor], Tensor]

Grid = Literal["linear", "quadratic", "log-snr", "karras"]


@dataclass(frozen=True, kw_only=True)
class Sampler(ABC):
    """Settings of a sampler.

    steps: how often the network is asked, from 1 to diffusion.steps; fewer are as much quicker and lose quality.
    """

    kind: str
    steps: int

    def __str__(self) -> str:
        """All that decides what it makes, in words: "dpm++, 15 steps, grid log-snr"; what is off is left away."""
        others = {key: value for key, value in vars(self).items() if key not in ("kind", "steps") and value}
        words = [key if value is True else f"{key} {value}" for key, value in others.items()]
        return ", ".join([self.kind, f"{self.steps} step{'s' * (self.steps > 1)}", *words])

    def __post_init__(self) -> None:
        require(self.steps >= 1, "steps", "must be at least 1")

    @abstractmethod
    def run(self, denoise: Denoiser, noise: Tensor, schedule: Schedule, clip: Map, draw: Map) -> Iterator[Tensor]:
        """Yield x_t after every step; the last one is the clean coeffs.

        Args:
            denoise: (x_t [B, 8, d, h, w], t [B]) -> x0, with the original timesteps.
            noise: x_T, standard normal.
            schedule: the full chain; the sampler respaces it to `steps`.
            clip: coeffs of the same volume with its voxels clamped; applied to every predicted x0.
            draw: fresh standard normal noise like its argument, one generator a sample.
        """


@dataclass(frozen=True, kw_only=True)
class SpacedSampler(Sampler):
    """A sampler that may keep other timesteps than evenly spaced ones.

    grid: which timesteps are kept: `linear` evenly, as the official code; `quadratic` denser at low noise; `log-snr`
        even in the logarithm of noise over signal; `karras` even in its seventh root. It matters where steps are few.
    """

    grid: Grid = "linear"


def predict(denoise: Denoiser, x_t: Tensor, chain: Schedule, i: int, clip: Map) -> Tensor:
    """The clamped x0 at position i of the chain."""
    return clip(denoise(x_t, chain.timesteps[i].to(x_t.device).expand(x_t.shape[0])))


def respaced(schedule: Schedule, steps: int, grid: Grid = "linear") -> Schedule:
    """The chain of a sampler; a schedule shorter than `steps` is taken whole."""
    return schedule.respace(min(steps, len(schedule)), grid)
