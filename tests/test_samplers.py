"""Samplers: the official trajectory, and the data given back by an ideal denoiser."""

from typing import Any

import pytest
import torch
from golden.recipe import digest, golden_state_dict, smooth_volume

from wdm_cli.engine.diffusion import make_schedule
from wdm_cli.engine.models import UNet
from wdm_cli.engine.samplers import DDIM, DDPM, SAMPLERS, DPMSolverPP
from wdm_cli.engine.samplers.sampler import SpacedSampler
from wdm_cli.engine.spaces import Wavelet
from wdm_cli.engine.wavelet import decode, encode


def last(steps: Any) -> torch.Tensor:
    *_, final = steps
    return final


def ideal_denoiser(data: torch.Tensor, schedule: Any) -> Any:
    """E[x0 | x_t] when the data set is just these coeffs [N, 8, d, h, w]: a softmax over distances."""

    def denoise(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        alpha_bar = schedule.alpha_bar[t].view(-1, 1, 1, 1, 1, 1)
        gap = (x_t.double()[:, None] - alpha_bar.sqrt() * data.double()[None]).square().sum(dim=(2, 3, 4, 5))
        share = torch.softmax(-gap / (2 * (1 - alpha_bar[:, :, 0, 0, 0, 0])), dim=1)
        return torch.einsum("bn,ncdhw->bcdhw", share, data.double()).float()

    return denoise


@torch.no_grad()
def test_golden_sampling(golden: dict[str, Any], official_keys: dict[str, Any]) -> None:
    network = UNet(base_channels=32, channel_multipliers=(1, 2)).build(8, 8).eval()
    network.load_state_dict(golden_state_dict(official_keys["unet_c32_m12"]))
    stream = torch.Generator().manual_seed(42)

    def draw(like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape, generator=stream)

    noise = draw(torch.empty(1, 8, 16, 16, 16))
    steps = DDPM(steps=25).run(network, noise, make_schedule("linear", 1000), Wavelet().clamp, draw)
    found, expected = digest((decode(last(steps)) + 1) / 2), golden["sample/unet_c32_m12/size32/ddpm25/seed42"]
    assert max(abs(a - b) for a, b in zip(found["value"], expected["value"], strict=True)) <= 1e-3
    assert found["mean"] == pytest.approx(expected["mean"], abs=1e-3)


@pytest.mark.parametrize(
    "sampler",
    [
        *(kind(steps=steps) for kind in SAMPLERS for steps in (20, 250)),
        DDIM(steps=20, eta=1.0, grid="quadratic"),
        DPMSolverPP(steps=20, sde=True),
        DPMSolverPP(steps=20, grid="karras"),
        DPMSolverPP(steps=20, grid="linear"),
    ],
    ids=str,
)
def test_an_ideal_denoiser_gives_the_data_back(sampler: Any) -> None:
    data = encode(torch.cat([2 * smooth_volume(16, seed) - 1 for seed in (1, 2, 3)]))
    schedule = make_schedule("linear", 1000)
    noise = torch.randn(4, 8, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    chain = sampler.run(ideal_denoiser(data, schedule), noise, schedule, Wavelet().clamp, torch.randn_like)
    result = last(chain)
    nearest = (result[:, None] - data[None]).abs().amax(dim=(2, 3, 4, 5)).amin(dim=1)
    assert nearest.max() < 1e-4


@pytest.mark.parametrize("kind", SAMPLERS)
def test_a_sampler_yields_every_step_and_sees_original_timesteps(kind: Any) -> None:
    seen: list[int] = []

    def denoise(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        seen.append(int(t[0]))
        return torch.zeros_like(x_t)

    evenly = {"grid": "linear"} if issubclass(kind, SpacedSampler) else {}
    states = list(
        kind(steps=5, **evenly).run(
            denoise, torch.randn(2, 8, 2, 2, 2), make_schedule("linear", 1000), lambda x: x, torch.randn_like
        )
    )
    assert len(states) == 5
    assert all(state.shape == (2, 8, 2, 2, 2) for state in states)
    assert seen == [999, 749, 500, 250, 0]
    assert states[-1].abs().max() < 1e-6  # no noise after the last step
