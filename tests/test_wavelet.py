"""The wavelet transform against PyWavelets, and its properties."""

import numpy as np
import pytest
import pywt
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wdm_cli.engine.wavelet import LLL_SCALE, decode, dwt, encode, idwt

BANDS = ("aaa", "aad", "ada", "add", "daa", "dad", "dda", "ddd")  # PyWavelets' names of LLL … HHH
even = st.integers(1, 7).map(lambda n: 2 * n)


def noise(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize("wavelet", ["haar", "db2", "sym4"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_every_band_agrees_with_pywavelets(wavelet: str, dtype: torch.dtype, tolerance: float) -> None:
    x = noise(2, 3, 16, 12, 8, dtype=dtype)
    bands = dwt(x, wavelet)
    oracle = pywt.dwtn(x.double().numpy(), wavelet, mode="periodization", axes=(2, 3, 4))
    for s, name in enumerate(BANDS):
        np.testing.assert_allclose(bands[:, s].numpy(), oracle[name], atol=3 * tolerance)


@given(even, even, even, st.sampled_from(["haar", "db2"]))
@settings(max_examples=25, deadline=None)
def test_round_trip_and_energy_on_any_even_shape(d: int, h: int, w: int, wavelet: str) -> None:
    for dtype, tolerance in ((torch.float32, 2e-6), (torch.float64, 1e-12)):
        x = noise(1, 2, d, h, w, dtype=dtype)
        bands = dwt(x, wavelet)
        assert bands.shape == (1, 8, 2, d // 2, h // 2, w // 2)
        assert (idwt(bands, wavelet) - x).abs().max() <= tolerance
        assert bands.square().sum().item() == pytest.approx(x.square().sum().item(), rel=1e-6)


def test_a_constant_volume_is_all_in_the_scaled_low_band() -> None:
    coeffs = encode(torch.ones(1, 1, 4, 4, 4))
    assert torch.allclose(coeffs[:, 0], torch.tensor(8**0.5 / LLL_SCALE))
    assert coeffs[:, 1:].abs().max() < 1e-6


def test_encode_and_decode_are_inverse() -> None:
    volume = noise(2, 1, 8, 10, 6)
    assert (decode(encode(volume)) - volume).abs().max() < 1e-6


def test_gradients() -> None:
    x = noise(1, 1, 4, 4, 4, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(dwt, (x,))
    assert torch.autograd.gradcheck(lambda b: idwt(b, "db2"), (dwt(x, "db2").detach().requires_grad_(),))


@pytest.mark.parametrize("wavelet", ["haar", "db2"])
def test_autocast_does_not_lower_the_precision(wavelet: str) -> None:
    x = noise(1, 1, 8, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        inside = dwt(x, wavelet)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, dwt(x, wavelet))


def test_half_precision_is_computed_in_float32() -> None:
    x = noise(1, 1, 8, 8, 8).bfloat16()
    assert torch.equal(dwt(x), dwt(x.float()).bfloat16())


@pytest.mark.parametrize("shape", [(1, 1, 3, 4, 4), (1, 1, 4, 4, 5), (1, 1, 0, 4, 4), (1, 4, 4, 4)])
def test_odd_empty_or_flat_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="even"):
        dwt(torch.zeros(shape))


def test_bands_of_another_count_are_refused() -> None:
    with pytest.raises(ValueError, match="8"):
        idwt(torch.zeros(1, 7, 1, 2, 2, 2))
