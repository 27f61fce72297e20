"""KID, MMD, precision and its kin, histograms, spectra: each against another implementation or brute force."""

import numpy as np
import pytest
import pywt
import scipy.spatial
import scipy.stats

from wdm_cli.engine.metrics import KID, METRICS, MMD, PRDC, Histogram, Spectrum
from wdm_cli.engine.metrics.metric import DescribingMetric, FeatureMetric
from wdm_cli.engine.metrics.pairwise import cubic_kernel, mmd2
from wdm_cli.engine.metrics.spectrum import wasserstein


@pytest.fixture
def features():
    rng = np.random.default_rng(0)
    return rng.normal(size=(40, 6)), rng.normal(loc=0.4, size=(30, 6))


def torchmetrics_poly_mmd(real, fake):
    """The formula of torchmetrics.image.kid, written out: degree 3, gamma 1/d, coefficient 1."""
    m, gamma = len(real), 1 / real.shape[1]
    k_11, k_22, k_12 = ((gamma * x @ y.T + 1) ** 3 for x, y in ((real, real), (fake, fake), (real, fake)))
    within = (k_11.sum() - np.trace(k_11) + k_22.sum() - np.trace(k_22)) / (m * (m - 1))
    return within - 2 * k_12.sum() / m**2


def test_kid_of_whole_folders_is_torchmetrics_formula(features):
    real, fake = features[0][:30], features[1]
    scores = KID(subsets=1, subset_size=30).score(real, fake, seed=0)
    assert scores["kid"] == pytest.approx(torchmetrics_poly_mmd(real, fake), rel=1e-10)


def test_kid_is_the_mean_over_seeded_subsets(features):
    real, fake = features
    rng = np.random.default_rng(7)
    values = []
    for _ in range(20):
        i, j = rng.choice(40, 10, replace=False), rng.choice(30, 10, replace=False)
        values.append(torchmetrics_poly_mmd(real[i], fake[j]))
    scores = KID(subsets=20, subset_size=10).score(real, fake, seed=7)
    assert scores["kid"] == pytest.approx(np.mean(values))
    assert scores["kid_std"] == pytest.approx(np.std(values))


def test_kid_is_unbiased_where_fid_is_not():
    rng = np.random.default_rng(1)
    draws = [KID(subsets=1, subset_size=10).score(*rng.normal(size=(2, 10, 8)), seed=0)["kid"] for _ in range(300)]
    assert abs(np.mean(draws)) < 3 * np.std(draws) / np.sqrt(300)


def test_mmd_of_unequal_numbers_is_its_definition(features):
    real, fake = features
    k = cubic_kernel
    expected = (
        np.mean([k(real[[i]], real[[j]]) for i in range(40) for j in range(40) if i != j])
        + np.mean([k(fake[[i]], fake[[j]]) for i in range(30) for j in range(30) if i != j])
        - 2 * np.mean([k(real[[i]], fake[[j]]) for i in range(40) for j in range(30)])
    )
    assert mmd2(k(real, real), k(fake, fake), k(real, fake)) == pytest.approx(expected)


def test_gaussian_mmd_against_brute_force(features):
    real, fake = features
    cdist = scipy.spatial.distance.cdist
    width = np.median(scipy.spatial.distance.pdist(real))
    k_rr, k_ff, k_rf = (
        np.exp(-cdist(a, b, "sqeuclidean") / 2 / width**2) for a, b in ((real, real), (fake, fake), features)
    )
    expected = (k_rr.sum() - 40) / (40 * 39) + (k_ff.sum() - 30) / (30 * 29) - 2 * k_rf.mean()
    assert MMD().score(real, fake, 0)["mmd"] == pytest.approx(expected)


def brute_force_prdc(real, fake, k):
    def radius(points, i):
        return sorted(np.linalg.norm(points - points[i], axis=1))[k]  # the 0th is the point itself

    real_radius = [radius(real, i) for i in range(len(real))]
    fake_radius = [radius(fake, j) for j in range(len(fake))]

    def d(i, j):
        return np.linalg.norm(real[i] - fake[j])

    n, m = len(real), len(fake)
    inside = [[d(i, j) < real_radius[i] for j in range(m)] for i in range(n)]
    return {
        "precision": np.mean([any(inside[i][j] for i in range(n)) for j in range(m)]),
        "recall": np.mean([any(d(i, j) < fake_radius[j] for j in range(m)) for i in range(n)]),
        "density": np.sum(inside) / (k * m),
        "coverage": np.mean([any(inside[i]) for i in range(n)]),
    }


@pytest.mark.parametrize("k", [1, 3, 5])
def test_prdc_against_brute_force(features, k):
    scores = PRDC(k=k).score(*features, seed=0)
    assert scores == pytest.approx(brute_force_prdc(*features, k))
    assert 0 < scores["coverage"] < 1


def test_prdc_tells_fidelity_from_diversity():
    rng = np.random.default_rng(2)
    real = np.concatenate([rng.normal(size=(100, 2)), rng.normal(loc=20, size=(100, 2))])
    half = PRDC().score(real, rng.normal(size=(100, 2)), 0)  # good, but one of two modes only
    assert half["precision"] > 0.9
    assert half["coverage"] < 0.6
    assert half["recall"] < 0.6
    noise = PRDC().score(real, rng.uniform(-200, 200, size=(100, 2)), 0)
    assert noise["precision"] < 0.1


def test_prdc_far_from_the_origin(features):
    real, fake = features
    assert PRDC().score(real + 1e6, fake + 1e6, 0) == pytest.approx(PRDC().score(real, fake, 0))


def test_prdc_refuses_fewer_volumes_than_neighbours():
    rule, hint = PRDC(k=5).unfit((16, 16, 16), 3)
    assert "at least 6 volumes" in rule
    assert "--k 2" in hint


def test_wasserstein_against_scipy():
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=31), rng.normal(loc=2, size=17)
    assert wasserstein(a, b) == pytest.approx(scipy.stats.wasserstein_distance(a, b))


def test_histogram_of_shifted_intensities_is_the_shift():
    rng = np.random.default_rng(4)
    volumes = rng.uniform(0.1, 0.5, size=(3, 8, 8, 8)).astype(np.float32)
    metric = Histogram(bins=1000)
    real, fake = (np.stack([metric.describe(volume) for volume in v]) for v in (volumes, volumes + 0.25))
    assert metric.score(real, fake, 0)["histogram"] == pytest.approx(0.25, abs=2e-3)
    np.testing.assert_allclose(real.sum(axis=1), 1, rtol=1e-5)


def test_band_energies_against_pywavelets():
    volume = np.random.default_rng(5).uniform(size=(16, 8, 24)).astype(np.float32)
    expected = []
    low = volume.astype(float)
    for _ in range(3):
        bands = pywt.dwtn(low, "haar")
        expected += [10 * np.log10(np.mean(bands[name] ** 2)) for name in sorted(bands)[1:]]
        low = bands["aaa"]
    row = Spectrum().describe(volume)  # 8 allows three levels of the four
    np.testing.assert_allclose(row, expected, rtol=1e-4)


def test_spectrum_tells_noise_from_smoothing():
    rng = np.random.default_rng(6)
    volumes = rng.uniform(size=(4, 16, 16, 16)).astype(np.float32)
    metric = Spectrum()
    real, half = (np.stack([metric.describe(volume) for volume in v]) for v in (volumes, volumes / 2))
    scores = metric.score(real, half, 0)
    assert scores["spectrum_level1"] == pytest.approx(-6.02, abs=0.01)  # half the amplitude
    assert scores["spectrum"] == pytest.approx(6.02, abs=0.01)
    assert metric.score(half, real, 0)["spectrum_level1"] > 6
    assert metric.unfit((16, 15, 16), 9) is not None


@pytest.mark.parametrize("metric", [m() for m in METRICS if issubclass(m, FeatureMetric)], ids=lambda m: m.kind)
def test_contract_of_metrics_of_rows(metric):
    rng = np.random.default_rng(8)
    if isinstance(metric, DescribingMetric):
        rows = np.stack([metric.describe(v) for v in rng.uniform(size=(24, 16, 16, 16)).astype(np.float32)])
    else:
        rows = rng.normal(size=(24, 5)).astype(np.float32)
    scores = metric.score(rows[:12], rows[12:], seed=3)
    assert scores == metric.score(rows[:12], rows[12:], seed=3)
    assert set(scores) <= set(metric.directions)
    assert all(isinstance(value, float) and np.isfinite(value) for value in scores.values())
    assert metric.settings()["kind"] == metric.kind
