"""All samplers against diffusers, step for step; grids; order of convergence and spread on a Gaussian."""

import itertools
import math
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from wdm_cli.engine.diffusion import Denoiser, Schedule, make_schedule
from wdm_cli.engine.samplers import DDIM, DDPM, DPMSolverPP

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from diffusers.schedulers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler

LINEAR = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
SHAPE = (2, 8, 2, 2, 2)


def denoise(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Some smooth function of both arguments."""
    return torch.tanh(0.5 * x_t + 0.001 * t.view(-1, 1, 1, 1, 1))


def noises(seed: int = 1) -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield torch.randn(SHAPE, generator=generator, dtype=torch.float64)


def ours(sampler: Any, timesteps: list[int], bound: float = math.inf) -> list[torch.Tensor]:
    """All states on a given chain (float64), with the noise stream of `noises` and x0 clamped to ±bound."""
    index = torch.tensor(timesteps)
    chain, stream = Schedule(index, make_schedule("linear", 1000).alpha_bar[index]), noises()
    start = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return list(sampler.run(denoise, start, chain, lambda x: x.clamp(-bound, bound), lambda like: next(stream)))


def theirs(scheduler: Any, noise_of: Any) -> list[torch.Tensor]:
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    states = []
    for t in scheduler.timesteps:
        x = noise_of(scheduler, denoise(x, t.expand(2)), t, x)
        states.append(x)
    return states


def same(mine: list[torch.Tensor], other: list[torch.Tensor]) -> None:
    assert len(mine) == len(other)
    for a, b in zip(mine, other, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-4, atol=2e-4)  # diffusers keeps its tables in float32


CLAMPED = {"clip_sample": True, "clip_sample_range": 0.3}  # tighter than what `denoise` gives
UNCLAMPED = {"clip_sample": False}
BOUNDS = pytest.mark.parametrize(("clip", "bound"), [(UNCLAMPED, math.inf), (CLAMPED, 0.3)], ids=["free", "clamped"])


@BOUNDS
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_equals_diffusers(eta: float, clip: dict[str, Any], bound: float) -> None:
    scheduler = DDIMScheduler(**LINEAR, **clip, prediction_type="sample", timestep_spacing="leading")
    scheduler.set_timesteps(50)
    stream = noises()

    def step(scheduler: Any, x0: torch.Tensor, t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        noise = next(stream) if eta else None
        return scheduler.step(x0, t, x, eta=eta, variance_noise=noise, use_clipped_model_output=True).prev_sample

    same(ours(DDIM(steps=50, eta=eta), scheduler.timesteps.tolist()[::-1], bound), theirs(scheduler, step))


@BOUNDS
@pytest.mark.parametrize("steps", [50, 1000])
def test_ddpm_equals_diffusers(steps: int, clip: dict[str, Any], bound: float) -> None:
    scheduler = DDPMScheduler(**LINEAR, **clip, prediction_type="sample", variance_type="fixed_large")
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(1)  # as in `noises`

    def step(scheduler: Any, x0: torch.Tensor, t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return scheduler.step(x0, t, x, generator=generator).prev_sample

    same(ours(DDPM(steps=steps), scheduler.timesteps.tolist()[::-1], bound), theirs(scheduler, step))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of diffusers
@pytest.mark.parametrize("steps", [6, 25])
@pytest.mark.parametrize("sde", [False, True])
def test_dpm_solver_equals_diffusers(sde: bool, steps: int) -> None:
    kind = "sde-dpmsolver++" if sde else "dpmsolver++"
    scheduler = DPMSolverMultistepScheduler(
        **LINEAR, prediction_type="sample", algorithm_type=kind, timestep_spacing="linspace"
    )
    scheduler.set_timesteps(steps)
    stream = noises()

    def step(scheduler: Any, x0: torch.Tensor, t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        noise = next(stream) if sde else None
        return scheduler.step(x0, t, x, variance_noise=noise).prev_sample

    same(
        ours(DPMSolverPP(steps=steps, sde=sde, grid="linear"), scheduler.timesteps.tolist()[::-1]),
        theirs(scheduler, step),
    )


def test_ddim_with_full_noise_and_all_steps_is_ancestral_sampling() -> None:
    """Ho et al. (2020), algorithm 2, written out, with the posterior variance where the paper's sampler takes β_t."""
    schedule, stream = make_schedule("linear", 1000), noises()
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    of_x0, of_x_t = schedule.posterior_mean_coefs
    for state, t in zip(ours(DDIM(steps=1000, eta=1.0), list(range(1000))), reversed(range(1000)), strict=True):
        x = of_x0[t] * denoise(x, torch.tensor([t] * 2)) + of_x_t[t] * x
        if t:
            x = x + schedule.posterior_variance[t].sqrt() * next(stream)
        torch.testing.assert_close(state, x, rtol=0, atol=1e-9)


SPREAD = 0.5


def gaussian(full: Schedule) -> Denoiser:
    """E[x0 | x_t] for data ~ N(0, SPREAD²)."""

    def denoise(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        a = full.alpha_bar[t[0]]
        return a.sqrt() * SPREAD**2 / (a * SPREAD**2 + 1 - a) * x_t

    return denoise


@pytest.mark.parametrize(("sampler", "order"), [(DDIM, 1), (DPMSolverPP, 2)])
def test_order_of_convergence_on_a_gaussian(sampler: Any, order: int) -> None:
    """For data ~ N(0, s²) the denoiser and the end of every deterministic trajectory are known exactly."""
    # a fine chain, so that rounding to whole timesteps costs nothing
    full = make_schedule("linear", 20000, 1e-4 / 20, 0.02 / 20)
    start = torch.ones(1, 8, 1, 1, 1, dtype=torch.float64)
    a_end, a_start = full.alpha_bar[0], full.alpha_bar[-1]
    # along the probability flow x_t scales as the standard deviation of its marginal
    exact = start * ((a_end * SPREAD**2 + 1 - a_end) / (a_start * SPREAD**2 + 1 - a_start)).sqrt()
    errors = []
    for steps in (20, 40, 80):
        run = sampler(steps=steps, grid="log-snr").run(gaussian(full), start, full, lambda x: x, torch.randn_like)
        *states, _ = run
        errors.append((states[-1] - exact).abs().max().item())
    for coarse, fine in itertools.pairwise(errors):
        assert coarse / fine > 0.75 * 2**order


@pytest.mark.parametrize(
    "sampler",
    [
        DDPM(),
        DDIM(eta=1.0, steps=1000),
        DDIM(steps=200, grid="log-snr"),
        DPMSolverPP(steps=50, grid="log-snr"),
        DPMSolverPP(steps=50, grid="karras"),
        DPMSolverPP(steps=100, sde=True, grid="log-snr"),
    ],
    ids=str,
)
def test_samples_of_a_gaussian_have_its_spread(sampler: Any) -> None:
    """Noise of the right size in every step: with too much or too little of it the end is too wide or too narrow."""
    full, generator = make_schedule("linear", 1000), torch.Generator().manual_seed(2)

    def draw(like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape, generator=generator, dtype=torch.float64)

    noise = draw(torch.empty(1, 8, 12, 12, 12))
    *_, end = sampler.run(gaussian(full), noise, full, lambda x: x, draw)
    assert end.mean().abs() < 0.02
    assert end.std().item() == pytest.approx(SPREAD, rel=0.025)  # 13,824 values: ± 1.2 % by chance


@pytest.mark.parametrize("grid", ["linear", "quadratic", "log-snr", "karras"])
@pytest.mark.parametrize("n", [2, 5, 50, 400, 1000])
def test_grids_have_n_rising_timesteps_with_both_ends(grid: Any, n: int) -> None:
    steps = make_schedule("linear", 1000).respace(n, grid).timesteps.tolist()
    assert len(steps) == n
    assert steps == sorted(set(steps))
    assert (steps[0], steps[-1]) == (0, 999)


def test_grids_are_what_their_names_say() -> None:
    full = make_schedule("linear", 1000)
    quadratic = full.respace(10, "quadratic").timesteps.tolist()
    assert quadratic == [round((i / 9) ** 2 * 999) for i in range(10)]
    even = full.respace(10, "log-snr").sigma.log().diff()
    assert (even[3:] / even[3:].mean() - 1).abs().max() < 0.1  # the first timesteps are whole numbers apart
    power = (full.respace(10, "karras").sigma ** (1 / 7)).diff()
    assert (power[3:] / power[3:].mean() - 1).abs().max() < 0.1
