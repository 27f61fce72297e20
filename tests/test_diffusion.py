"""Schedule, noising and loss against the official implementation."""

from typing import Any

import numpy as np
import pytest
import torch
from golden.recipe import golden_state_dict, smooth_volume

from wdm_cli.engine.diffusion import add_noise, loss, make_schedule
from wdm_cli.engine.models import UNet
from wdm_cli.engine.spaces import Wavelet
from wdm_cli.engine.wavelet import decode, dwt, encode


def test_golden_schedule(golden: dict[str, Any]) -> None:
    schedule = make_schedule("linear", 1000)
    of_x0, of_x_t = schedule.posterior_mean_coefs
    tables = {
        "betas": schedule.betas,
        "alphas_cumprod": schedule.alpha_bar,
        "posterior_variance": schedule.posterior_variance,
        "posterior_mean_coef1": of_x0,
        "posterior_mean_coef2": of_x_t,
    }
    for name, table in tables.items():
        values = table[[0, 1, 499, 998, 999]].numpy()
        np.testing.assert_allclose(values, golden["schedule/linear1000"][name], rtol=1e-12, atol=1e-18)


def test_golden_loss_and_gradients(golden: dict[str, Any], official_keys: dict[str, Any]) -> None:
    expected = golden["loss/unet_c32_m12/size32"]
    network = UNet(base_channels=32, channel_multipliers=(1, 2)).build(8, 8)
    network.load_state_dict(golden_state_dict(official_keys["unet_c32_m12"]))
    volume = 2 * torch.cat([smooth_volume(32, 5), smooth_volume(32, 9)]) - 1
    noise = torch.randn(2, 1, 32, 32, 32, generator=torch.Generator().manual_seed(3))
    x0, noise = encode(volume), dwt(noise).squeeze(2)
    bands = loss(network, x0, noise, torch.tensor([17, 800]), make_schedule("linear", 1000))
    bands.mean().backward()
    np.testing.assert_allclose(bands.detach().numpy(), expected["mse_wav"], rtol=1e-5)
    assert bands.mean().item() == pytest.approx(expected["loss"], rel=1e-5)
    norms = {name: p.grad.norm().item() for name, p in network.named_parameters()}
    for name, value in expected["grad_norm"].items():
        assert norms[name] == pytest.approx(value, rel=1e-4)
    total = sum(value**2 for value in norms.values()) ** 0.5
    assert total == pytest.approx(expected["grad_norm_total"], rel=1e-5)


@pytest.mark.parametrize("n", [1, 2, 7, 25, 100, 999, 1000])
def test_respacing_keeps_both_ends_and_alpha_bar(n: int) -> None:
    full = make_schedule("linear", 1000)
    chain = full.respace(n)
    assert len(chain) == n
    assert chain.timesteps[-1] == 999
    if n > 1:
        assert chain.timesteps.tolist() == [round(i * 999 / (n - 1)) for i in range(n)]
    assert torch.equal(chain.alpha_bar, full.alpha_bar[chain.timesteps])
    torch.testing.assert_close(torch.cumprod(1 - chain.betas, 0), chain.alpha_bar)


@pytest.mark.parametrize("n", [0, 1001])
def test_impossible_respacing_is_refused(n: int) -> None:
    with pytest.raises(ValueError, match="between 1 and 1000"):
        make_schedule("linear", 1000).respace(n)


def test_cosine_schedule_follows_its_curve() -> None:
    schedule = make_schedule("cosine", 1000)
    middle = np.cos((0.5 + 0.008) / 1.008 * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    assert schedule.alpha_bar[499].item() == pytest.approx(middle, rel=1e-9)
    assert schedule.betas.max() <= 0.999 + 1e-12
    assert (schedule.alpha_bar.diff() < 0).all()


def test_noise_keeps_unit_variance() -> None:
    schedule = make_schedule("linear", 1000)
    x0, noise = torch.randn(2, 8, 16, 16, 16), torch.randn(2, 8, 16, 16, 16)
    x_t = add_noise(x0, noise, torch.tensor([0, 999]), schedule)
    assert x_t.std().item() == pytest.approx(1, abs=0.01)
    assert (x_t[0] - x0[0]).abs().max() < 0.1
    assert (x_t[1] - noise[1]).abs().max() < 0.1


def test_clamping_acts_on_voxels() -> None:
    volume = 3 * torch.randn(1, 1, 8, 8, 8)
    torch.testing.assert_close(decode(Wavelet().clamp(encode(volume))), volume.clamp(-1, 1), atol=1e-5, rtol=0)
