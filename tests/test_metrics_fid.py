"""The Fréchet distance against the golden value, SciPy's matrix square root and sets of exact moments."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg

from wdm_cli.engine.metrics.fid import FID, frechet_distance

GOLDEN = json.loads((Path(__file__).parent / "golden" / "golden.json").read_text())


def by_sqrtm(a, b):
    root = scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T))
    difference = a.mean(0) - b.mean(0)
    return difference @ difference + np.trace(np.cov(a.T)) + np.trace(np.cov(b.T)) - 2 * np.trace(root).real


def exact_moments(n, mean, scales, rng):
    """n points whose sample mean and covariance are exactly `mean` and diag(scales²)."""
    x = rng.standard_normal((n, len(mean)))
    x -= x.mean(0)
    q = np.linalg.qr(x)[0]
    return q * np.sqrt(n - 1) * scales + mean


def test_golden_value():
    rng = np.random.RandomState(21)
    a = rng.standard_normal((500, 64))
    n1, n2 = rng.standard_normal((400, 64)), rng.standard_normal((64, 64))
    b = 1.2 * n1 @ (np.eye(64) + 0.1 * n2) + 0.3
    assert frechet_distance(a, b) == pytest.approx(GOLDEN["fid/frechet"], rel=1e-6)


@pytest.mark.parametrize(("n", "m", "d"), [(200, 150, 8), (30, 40, 20), (14, 200, 12)])
def test_equals_the_matrix_square_root(n, m, d):
    rng = np.random.default_rng(n)
    a, b = rng.normal(size=(n, d)), 2 * rng.normal(size=(m, d)) + 1
    assert frechet_distance(a, b) == pytest.approx(by_sqrtm(a, b), rel=1e-9)


@pytest.mark.parametrize("n", [20, 400])  # below and above the number of dimensions: both forms
def test_analytic_value_of_exact_moments(n):
    rng = np.random.default_rng(3)
    d = 16
    mean, s, t = rng.normal(size=d), rng.uniform(0.5, 2, d), rng.uniform(0.5, 2, d)
    a, b = exact_moments(n, np.zeros(d), s, rng), exact_moments(n, mean, t, rng)
    assert abs(frechet_distance(a, b) - (mean @ mean + ((s - t) ** 2).sum())) < 1e-8


def test_self_distance_is_zero_and_order_does_not_matter():
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=(50, 200)), rng.normal(size=(60, 200))
    assert abs(frechet_distance(a, a)) < 1e-10
    assert abs(frechet_distance(a, b) - frechet_distance(b, a)) < 1e-10


def test_float32_features_are_measured_in_float64():
    rng = np.random.default_rng(5)
    a, b = (rng.normal(loc=1000, size=(40, 30)).astype(np.float32) for _ in range(2))
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(a.astype(float), b.astype(float)), abs=1e-9)


def test_score_names_both_scales():
    rng = np.random.default_rng(6)
    scores = FID().score(rng.normal(size=(9, 4)), rng.normal(size=(9, 4)), 0)
    assert scores["fid_x1000"] == 1000 * scores["fid"]
    assert set(scores) == set(FID.directions)


@pytest.mark.slow
def test_a_thousand_by_2048_takes_half_a_second():
    rng = np.random.default_rng(7)
    a, b = rng.normal(size=(1000, 2048)), rng.normal(size=(1000, 2048))
    frechet_distance(a, b)
    start = time.process_time()  # the tests run on one thread
    frechet_distance(a, b)
    assert time.process_time() - start < 0.5
