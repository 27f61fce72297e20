"""Intensities and the image-size rule: golden values of the official loader, numpy, properties."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from golden.recipe import brats_like_volume, digest
from hypothesis import given, settings
from hypothesis import strategies as st

from wdm_cli.engine.data.transforms import (
    background,
    factors,
    fit,
    needed,
    pool,
    quantiles,
    to_window,
    unit_ct,
    unit_mr,
    unit_window,
)

GOLDEN = json.loads((Path(__file__).parent / "golden" / "golden.json").read_text())
sides = st.tuples(*[st.integers(2, 40)] * 3)


def by_itself(array, shape, margin=0.1, fill=0.0, spacing=(1, 1, 1)):
    """A volume fitted as if there were no other."""
    return fit(array, shape, factors(needed(array.shape, shape, margin), spacing), fill)


def test_golden_brats_loader():
    fitted = by_itself(unit_mr(brats_like_volume().astype(np.float32)), (128, 128, 128))
    assert (fitted.factor, fitted.padded) == ((2, 2, 2), ((8, 8), (8, 8), (50, 51)))
    assert not any(map(any, fitted.cropped))
    golden, ours = GOLDEN["brats_loader/size128"], digest(torch.from_numpy(fitted.array * 2 - 1))
    np.testing.assert_allclose(ours["value"], golden["value"], atol=1e-6)
    for key in ("numel", "mean", "std", "abs_max"):
        assert ours[key] == pytest.approx(golden[key], abs=1e-6)


@pytest.mark.parametrize(
    ("raw", "shape", "factor"),
    [
        ((240, 240, 155), (128,) * 3, 2),
        ((128,) * 3, (64,) * 3, 2),
        ((256,) * 3, (256,) * 3, 1),
        ((240, 240, 155), (224, 224, 160), 1),
        ((240, 240, 155), (64,) * 3, 4),
        ((20, 30, 40), (128,) * 3, 1),
        ((142, 100, 100), (128,) * 3, 1),
        ((143, 100, 100), (128,) * 3, 2),
        ((512, 512, 133), (128, 128, 64), 4),
    ],
)
def test_factor_of_the_size_rule(raw, shape, factor):
    assert by_itself(np.zeros(raw, np.float32), shape).factor == (factor,) * 3


@given(raw=sides, shape=sides, margin=st.sampled_from([0.0, 0.1, 0.3]))
@settings(max_examples=150, deadline=None)
def test_any_shape_fits_and_the_affine_follows(raw, shape, margin):
    """Coordinates as voxel values: averaging them must agree with where the affine says a voxel lies."""
    axes = np.stack(np.meshgrid(*map(np.arange, raw), indexing="ij")).astype(np.float32)
    affine = np.array([[0, -2, 0, 7], [1.5, 0, 0, -4], [0, 0.1, 3, 11], [0, 0, 0, 1]], float)
    inside = by_itself(np.ones(raw, np.float32), shape, margin)
    assert inside.array.shape == shape
    (factor,) = set(inside.factor)
    for side, target, (lo, hi), (cut_lo, cut_hi) in zip(raw, shape, inside.padded, inside.cropped, strict=True):
        assert side + lo + hi - cut_lo - cut_hi == target * factor
        assert lo * cut_lo == 0
        assert hi - lo in (0, 1)
        assert cut_hi - cut_lo in (0, 1)
        assert cut_lo + cut_hi <= margin * side + 1e-6
    if factor > 1:
        smaller = factor - 1
        assert any(smaller * target < (1 - margin) * side for side, target in zip(raw, shape, strict=True))
    whole = inside.array == 1  # voxels without any padding in them
    world = np.einsum("ij,jklm->iklm", affine[:3, :3], axes) + affine[:3, 3, None, None, None]
    got = np.stack([by_itself(part.astype(np.float32), shape, margin).array for part in world])
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"))
    new = inside.affine(affine)
    said = np.einsum("ij,jklm->iklm", new[:3, :3], index) + new[:3, 3, None, None, None]
    np.testing.assert_allclose(got[:, whole], said[:, whole], atol=1e-3)


@given(raw=sides, shape=sides, seed=st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_sum_is_kept_where_nothing_is_cropped(raw, shape, seed):
    array = np.random.default_rng(seed).uniform(size=raw).astype(np.float32)
    fitted = by_itself(array, shape, 0.0)
    assert not any(map(any, fitted.cropped))
    assert fitted.array.sum(dtype=np.float64) * fitted.factor[0] ** 3 == pytest.approx(
        array.sum(dtype=np.float64), rel=1e-5
    )
    assert fitted.array.dtype == np.float32


def test_padding_and_fill():
    fitted = by_itself(np.zeros((2, 2, 2), np.float32), (4, 4, 5), fill=-1.0)
    assert fitted.padded == ((1, 1), (1, 1), (1, 2))
    assert (fitted.array == -1).sum() == 4 * 4 * 5 - 8


@pytest.mark.parametrize("factor", [1, 2, 3, 5])
def test_pooling_equals_torch(factor):
    array = np.random.default_rng(0).uniform(size=(factor * 3, factor * 4, factor * 5)).astype(np.float32)
    oracle = torch.nn.functional.avg_pool3d(torch.from_numpy(array)[None], factor)[0].numpy()
    before = array.copy()
    np.testing.assert_allclose(pool(array, (factor,) * 3), oracle, atol=1e-6)
    np.testing.assert_array_equal(array, before)


def test_cropped_anatomy_is_measured_and_cropped_background_is_not():
    array = np.zeros((100, 20, 20), np.float32)
    array[4:97, 5:15, 5:15] = 0.8
    fitted = by_itself(array, (90, 20, 20))
    assert fitted.cropped[0] == (5, 5)
    assert fitted.lost == ((1, 2), (0, 0), (0, 0))
    array[:5], array[95:] = 0.05, 0.0
    assert by_itself(array, (90, 20, 20)).lost == ((0, 0), (0, 0), (0, 0))
    assert by_itself(array * 0, (90, 20, 20)).lost == ((0, 0), (0, 0), (0, 0))


@pytest.mark.parametrize("size", [2, 10, 999, 1000, 1001, 54321])
def test_quantiles_equal_numpy_in_float64(size):
    array = np.random.default_rng(size).normal(size=size).astype(np.float32)
    shares = (0.0, 0.001, 0.37, 0.999, 1.0)
    np.testing.assert_allclose(quantiles(array, shares), np.quantile(array.astype(np.float64), shares), rtol=1e-12)


def test_quantiles_hold_ranks_that_float32_cannot():
    """With 2^24 + 4 equally spaced values float32 ranks are off by whole voxels."""
    array = np.arange(2**24 + 4, dtype=np.float64)
    ours = quantiles(array, (0.999,))[0]
    assert ours == pytest.approx(0.999 * (2**24 + 3), abs=1e-6)


def test_mr_rule_is_the_papers():
    array = np.random.default_rng(1).gamma(2, 100, (30, 30, 30)).astype(np.float32)
    low, high = np.quantile(array.astype(np.float64), (0.001, 0.999))
    clipped = np.clip(array.astype(np.float64), low, high)
    oracle = (clipped - clipped.min()) / (clipped.max() - clipped.min())
    unit = unit_mr(array)
    np.testing.assert_allclose(unit, oracle, atol=1e-6)
    assert (unit.min(), unit.max()) == (0.0, 1.0)


def test_ct_rule_clips_air_and_metal():
    array = np.random.default_rng(2).uniform(-900, 1200, (30, 30, 30)).astype(np.float32)
    array[0], array[1, 0, :5] = -2048, 30000
    high = np.quantile(array.astype(np.float64), 0.999)
    clipped = np.clip(array.astype(np.float64), -1000, high)
    np.testing.assert_allclose(unit_ct(array), (clipped + 1000) / (high + 1000), atol=1e-6)


def test_ct_in_unit_range_is_taken_as_it_is():
    array = np.random.default_rng(3).uniform(0, 1, (9, 9, 9)).astype(np.float32)
    np.testing.assert_array_equal(unit_ct(array), array)


@given(low=st.integers(-2000, 0), width=st.integers(1, 5000))
@settings(max_examples=60, deadline=None)
def test_window_is_exact_for_whole_numbers(low, width):
    hu = np.arange(low, low + width + 1, dtype=np.float32).reshape(1, 1, -1)
    unit = unit_window(hu, (low, low + width))
    assert unit.min() >= 0
    assert unit.max() <= 1
    np.testing.assert_array_equal(to_window(unit * 2 - 1, (low, low + width)), hu.astype(np.int16))


def test_window_clips_and_refuses_what_lies_outside():
    hu = np.array([[[-3000, -1000, 0, 1000, 3000]]], np.float32)
    np.testing.assert_array_equal(unit_window(hu, (-1000, 1000)) * 2 - 1, [[[-1, -1, 0, 1, 1]]])
    with pytest.raises(ValueError, match="outside the window"):
        unit_window(hu + 9000, (-1000, 1000))


def test_hardly_any_signal_is_refused():
    array = np.zeros((30, 30, 30), np.float32)
    array[0, 0, :3] = 5
    with pytest.raises(ValueError, match="nearly every voxel is 0"):
        unit_mr(array)


def test_the_background_is_what_most_of_the_faces_share() -> None:
    rng = np.random.default_rng(5)
    head = rng.normal(0, 1, (12, 12, 12)).astype(np.float32)
    assert background(head) is None  # noise: no value is common
    head[:, :, :2] = head[:, :2] = head[:2] = head[:, :, -2:] = head[:, -2:] = head[-2:] = 0.25
    assert background(head) == 0.25
    cut = by_itself(head, (8, 12, 12), margin=0.4, fill=0.25)
    assert cut.lost == ((0, 0), (0, 0), (0, 0))  # only background is cut, although it is not the lowest value
    padded = by_itself(head, (16, 16, 16), fill=0.25).array
    assert (padded[:2] == 0.25).all()
    deeper = head.copy()
    deeper[1] = -3.0  # darker than the background: anatomy all the same
    assert by_itself(deeper, (8, 12, 12), margin=0.4, fill=0.25).lost[0] == (1, 0)
