"""Phantoms: decided by the seed, the same head at any size, and heads at that."""

import time

import numpy as np
import pytest

from wdm_cli.engine.data import Brats
from wdm_cli.engine.data.phantom import phantom, write_phantoms
from wdm_cli.engine.data.transforms import pool
from wdm_cli.engine.data.volume import read_nifti


def test_equal_seeds_give_equal_voxels_and_different_seeds_different_heads():
    heads = [phantom(seed, 32).array for seed in range(12)]
    np.testing.assert_array_equal(heads[3], phantom(3, 32).array)
    for i, one in enumerate(heads):
        for other in heads[:i]:
            assert np.abs(one - other).mean() > 15


@pytest.mark.parametrize("seed", range(6))
def test_a_head_has_what_a_head_has(seed):
    volume = phantom(seed, 64)
    array = volume.array
    assert array.shape == (64, 64, 64)
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, np.rint(array))
    assert array.min() == 0
    assert 900 < array.max() <= 1000
    border = array.copy()
    border[2:-2, 2:-2, 2:-2] = 0
    assert border.max() == 0, "the head touches the border"
    inside = array > 0
    assert 0.1 < inside.mean() < 0.4
    np.testing.assert_allclose(volume.spacing, 240 / 64)
    centre = volume.affine @ [31.5, 31.5, 31.5, 1]
    np.testing.assert_allclose(centre, [0, 0, 0, 1], atol=1e-9)
    for tissue in (90, 520, 780, 950):  # ventricles and skull, grey, white, scalp
        assert (np.abs(array - tissue) < 5).sum() > 100


def test_the_same_head_at_half_the_size():
    large, small = phantom(5, 64).array, phantom(5, 32).array
    assert np.corrcoef(pool(large, (2, 2, 2)).ravel(), small.ravel())[0, 1] > 0.98


def test_speed():
    phantom(0, 64)
    best = min(_seconds(seed) for seed in range(5))
    assert best < 0.2, f"{best:.3f} s"


def _seconds(seed):
    started = time.perf_counter()
    phantom(seed, 64)
    return time.perf_counter() - started


def test_written_in_the_brats_layout_once(tmp_path):
    paths = write_phantoms(tmp_path, 3, size=16, seed=10)
    inventory = Brats().find(tmp_path)
    assert [case.path for case in inventory.cases] == paths
    assert inventory.ignored == ()
    np.testing.assert_array_equal(read_nifti(paths[2]).array, phantom(12, 16).array)
    np.testing.assert_allclose(read_nifti(paths[2]).affine, phantom(12, 16).affine)
    times = [path.stat().st_mtime_ns for path in paths]
    assert write_phantoms(tmp_path, 4, size=16, seed=10)[:3] == paths
    assert [path.stat().st_mtime_ns for path in paths] == times
