"""MS-SSIM against MONAI, the golden pairs, and by its properties."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from golden.recipe import normal, smooth_volume

from wdm_cli.engine.evaluate import finish
from wdm_cli.engine.metrics.msssim import MSSSIM, WEIGHTS, choose_pairs, nth_pair, standard_error
from wdm_cli.engine.metrics.ssim import ms_ssim, prepare

GOLDEN = json.loads((Path(__file__).parent / "golden" / "golden.json").read_text())["msssim/128/pairs"]


class Folder(list):
    """Arrays in place of a folder of volumes."""

    reads = 0

    def __getitem__(self, index):
        self.reads += 1
        return super().__getitem__(index)

    @property
    def shape(self):
        return super().__getitem__(0).shape

    def identity(self, index):
        return str(hash(super().__getitem__(index).tobytes()))


def every_pair(volumes):
    return list(itertools.combinations(range(len(volumes)), 2))


def monai(a, b, weights=WEIGHTS):
    from monai.metrics.regression import compute_ms_ssim

    a, b = torch.as_tensor(a)[None, None], torch.as_tensor(b)[None, None]
    return float(compute_ms_ssim(a, b, spatial_dims=3, kernel_size=7, kernel_sigma=1.5, weights=weights))


def ours(a, b, weights=WEIGHTS):
    return ms_ssim(prepare(a, len(weights)), prepare(b, len(weights)), weights)


def related_volumes(size, count, seed=0):
    """Volumes from nearly equal to anti-correlated ones."""
    base = smooth_volume(size, seed)[0, 0].numpy()
    others = [smooth_volume(size, seed + 10 * i)[0, 0].numpy() for i in range(1, count // 2 + 1)]
    noisy = [(base + 0.05 * i * normal(base.shape, i).numpy()).clip(0, 1) for i in range(1, count // 2 + 1)]
    return [base, 1 - base, *(v for pair in zip(others, noisy, strict=True) for v in pair)][:count]


def test_golden_pairs():
    volumes = [smooth_volume(128, 100 + 10 * i)[0, 0] for i in range(4)]
    volumes.append((volumes[0] + 0.05 * normal((1, 1, 128, 128, 128), 77)[0, 0]).clamp(0, 1))
    prepared = [prepare(volume, 5) for volume in volumes]
    for pair, expected in GOLDEN.items():
        i, j = map(int, pair.split(","))
        assert abs(ms_ssim(prepared[i], prepared[j], WEIGHTS) - expected) < 1e-5, pair


def test_equals_monai_on_many_pairs_of_three_scales():
    metric = MSSSIM(scales=3)
    volumes = related_volumes(36, 8)
    prepared = [prepare(volume, 3) for volume in volumes]
    pairs = list(itertools.combinations(range(8), 2))
    for i, j in pairs:
        expected = monai(volumes[i], volumes[j], metric.weights)
        assert abs(ms_ssim(prepared[i], prepared[j], metric.weights) - expected) < 1e-5
    assert len(pairs) >= 20


def test_equals_monai_on_a_cuboid_of_five_scales():
    a, b = (smooth_volume(128, seed)[0, 0, :112, :, :120].numpy() for seed in (1, 1))
    b = (b + 0.1 * normal(b.shape, 5).numpy()).clip(0, 1).astype(np.float32)
    assert abs(ours(a, b) - monai(a, b)) < 1e-5


@pytest.mark.slow
def test_equals_monai_at_112():
    volumes = related_volumes(112, 7)
    prepared = [prepare(volume, 5) for volume in volumes]
    for i, j in itertools.combinations(range(7), 2):
        assert abs(ms_ssim(prepared[i], prepared[j], WEIGHTS) - monai(volumes[i], volumes[j])) < 1e-5


def test_identical_is_one_opposite_is_zero_and_order_does_not_matter():
    metric = MSSSIM(scales=2)
    a, b = smooth_volume(32, 1)[0, 0].numpy(), smooth_volume(32, 2)[0, 0].numpy()
    assert ours(a, a, metric.weights) == pytest.approx(1, abs=1e-6)
    assert ours(a, 1 - a, metric.weights) == 0.0
    assert ours(a, b, metric.weights) == pytest.approx(ours(b, a, metric.weights), abs=1e-7)


def test_every_unordered_pair_once_whatever_the_tiles(monkeypatch):
    volumes = Folder(related_volumes(16, 7))
    metric = MSSSIM(scales=1)
    values = finish(metric.pairwise(volumes, every_pair(volumes)))
    assert len(values) == 21
    monkeypatch.setattr("wdm_cli.engine.metrics.msssim.TILE_BYTES", 14 * 16**3 * 2)  # two volumes a tile
    assert finish(metric.pairwise(volumes, every_pair(volumes))) == values


def test_prepared_volumes_held_are_bounded(monkeypatch):
    held = []
    import wdm_cli.engine.metrics.ssim as ssim

    class Counted(list):
        alive = 0

        def __init__(self, values):
            super().__init__(values)
            Counted.alive += 1
            held.append(Counted.alive)

        def __del__(self):
            Counted.alive -= 1

    original = ssim.prepare
    monkeypatch.setattr(ssim, "prepare", lambda volume, scales: Counted(original(volume, scales)))
    monkeypatch.setattr("wdm_cli.engine.metrics.msssim.TILE_BYTES", 14 * 8**3 * 3)  # three volumes a tile
    rng = np.random.default_rng(0)
    volumes = Folder(rng.uniform(size=(15, 8, 8, 8)).astype(np.float32))
    finish(MSSSIM(scales=1).pairwise(volumes, every_pair(volumes)))
    assert max(held) <= 6


def test_pairs_are_drawn_by_seed_without_repetition():
    assert [nth_pair(i) for i in range(4)] == [(0, 1), (0, 2), (1, 2), (0, 3)]
    drawn = choose_pairs(100, 500, seed=1)
    assert len(set(drawn)) == 500
    assert all(0 <= i < j < 100 for i, j in drawn)
    assert drawn == choose_pairs(100, 500, seed=1) != choose_pairs(100, 500, seed=2)
    assert len(choose_pairs(5, 99, seed=0)) == 10


def test_too_small_volumes_are_refused_with_the_rule():
    assert MSSSIM().unfit((112, 112, 112), 2) is None
    rule, hint = MSSSIM().unfit((128, 111, 128), 2)
    assert "at least 112 voxels a side" in rule
    assert "--scales 4" in hint
    assert MSSSIM(scales=4).unfit((64, 64, 64), 2) is None


def test_an_interrupted_run_continues_with_the_same_values(tmp_path, monkeypatch):
    monkeypatch.setattr("wdm_cli.engine.metrics.msssim.TILE_BYTES", 14 * 16**3 * 2)  # two volumes a tile
    metric, volumes = MSSSIM(scales=1), Folder(related_volumes(16, 6))
    expected = finish(metric.pairwise(volumes, every_pair(volumes)))
    steps = metric.pairwise(volumes, every_pair(volumes), cache_dir=tmp_path)
    for _ in range(12):
        next(steps)
    steps.close()
    kept = len(list((tmp_path / "msssim").iterdir()))
    assert 0 < kept < 6
    assert finish(metric.pairwise(volumes, every_pair(volumes), cache_dir=tmp_path)) == expected
    volumes.reads = 0
    assert finish(metric.pairwise(volumes, every_pair(volumes), cache_dir=tmp_path)) == expected
    assert volumes.reads == 0


def test_standard_error_covers_the_dependence_of_pairs():
    """The value of a pair is a_i + a_j: its mean is 2·mean(a), whose standard error is known."""
    a = np.random.default_rng(0).normal(size=40)
    pairs = every_pair(a)
    values = [float(a[i] + a[j]) for i, j in pairs]
    expected = 2 * a.std(ddof=1) / np.sqrt(len(a))
    assert standard_error(len(a), pairs, values) == pytest.approx(expected, rel=1e-6)
    assert standard_error(2, [(0, 1)], [0.5]) is None


def test_fewer_scales_say_that_they_compare_with_nothing():
    assert MSSSIM().note == ""
    assert "not comparable" in MSSSIM(scales=4).note
    assert sum(MSSSIM(scales=3).weights) == pytest.approx(sum(WEIGHTS))
