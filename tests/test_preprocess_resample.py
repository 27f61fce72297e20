"""The spline is SciPy's, on even knots and on uneven ones; grids keep their place in the world."""

from __future__ import annotations

import numpy as np
import scipy.interpolate
import scipy.ndimage

from wdm_cli.engine.preprocess.resample import Spline, axis_for, even, grid_affine, resample


def test_a_spline_is_scipys() -> None:
    rng = np.random.default_rng(0)
    knots = np.cumsum(rng.uniform(0.5, 2, 40))
    samples = rng.normal(size=(40, 3))
    at = np.linspace(knots[0], knots[-1], 101)
    oracle = scipy.interpolate.CubicSpline(knots, samples, bc_type="clamped")(at)
    assert np.abs(Spline(knots).weights(at) @ samples - oracle).max() < 1e-5
    shifted = scipy.ndimage.map_coordinates(samples[:, 0], [np.arange(0, 39, 0.3)], order=3, mode="mirror")
    assert np.abs(Spline(even(40, 1.0)).weights(np.arange(0, 39, 0.3)) @ samples[:, 0] - shifted).max() < 1e-5


def test_outside_the_samples_there_is_nothing() -> None:
    weights = Spline(even(10, 2.0)).weights(np.array([-1.1, -1.0, 0.0, 18.0, 19.0, 19.1]))
    assert np.allclose(weights.sum(axis=1), [0, 1, 1, 1, 1, 0], atol=1e-6)


def test_resampling_a_volume_keeps_the_world() -> None:
    """A volume that is linear in world coordinates stays so."""
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    affine[:3, 3] = (-7, 5, 11)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in (40, 30, 25)), indexing="ij"), -1)
    array = (index @ affine[:3, :3].T + affine[:3, 3]) @ (1.0, 10.0, 100.0)
    axes = [axis_for(even(n, mm), 16, 2.5) for n, mm in zip(array.shape, (2.0, 3.0, 4.0), strict=True)]
    new = grid_affine(affine, axes)
    assert np.allclose(np.linalg.norm(new[:3, :3], axis=0), 2.5)
    index = np.stack(np.meshgrid(*(np.arange(16),) * 3, indexing="ij"), -1)
    wanted = (index @ new[:3, :3].T + new[:3, 3]) @ (1.0, 10.0, 100.0)
    assert np.abs(resample(array.astype(np.float32), axes, 0.0) - wanted).max() < 0.5  # of 15,000
