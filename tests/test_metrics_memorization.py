"""Planted copies are found, new volumes are not; pairs are named and drawn."""

import nibabel as nib
import numpy as np
import pytest
import torch

from wdm_cli.engine import evaluate
from wdm_cli.engine.data.phantom import phantom
from wdm_cli.engine.errors import DataError
from wdm_cli.engine.metrics.extractor import Extractor
from wdm_cli.engine.metrics.memorization import LOW, centred, chance, distances, flipped, memorization
from wdm_cli.engine.metrics.volumes import open_folder

SIZE = 32


def head(seed):
    return (phantom(seed, SIZE).array / 1100).clip(0, 1).astype(np.float32)


def planted(index, volume):
    """Ten kinds of copies: noise, flips, shifts, and all of them together."""
    rng = np.random.default_rng(index)
    if index % 3 in (0, 2):
        volume = (volume + 0.03 * rng.normal(size=volume.shape)).clip(0, 1)
    if index % 3 in (1, 2):
        volume = np.flip(volume, axis=index % 2)
    if index >= 5:
        volume = np.roll(volume, (index - 5, 2 - index % 4), axis=(0, 2))
    return volume.astype(np.float32)


def write(folder, volumes):
    folder.mkdir()
    for i, volume in enumerate(volumes):
        nib.save(nib.Nifti1Image(volume, np.eye(4)), folder / f"v{i:03d}.nii.gz")
    return open_folder(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("memorization")
    train = [head(seed) for seed in range(40)]
    held_out = [head(seed) for seed in range(100, 130)]
    fakes = [planted(i, train[2 * i]) for i in range(10)] + [head(seed) for seed in range(200, 230)]
    return write(root / "train", train), write(root / "held", held_out), write(root / "fake", fakes)


def test_every_planted_copy_is_found_and_few_new_volumes_are_flagged(folders):
    train, held_out, fake = folders
    found = evaluate.finish(memorization(train, fake, held_out))
    flagged = {match.fake for match in found.matches if match.flagged}
    assert set(range(10)) <= flagged
    assert len(flagged - set(range(10))) <= 3  # of 30 new ones
    pairs = {match.fake: match.train for match in found.matches}
    assert [pairs[i] for i in range(10)] == [2 * i for i in range(10)]
    assert found.n_copies == len(flagged)
    assert 10 <= found.n_mem <= found.n_copies
    assert found.expected == pytest.approx(40 * (1 + 29 * 0.05) / 31)
    assert "30 held-out volumes" in found.thresholds_from


def test_without_held_out_volumes_the_training_volumes_set_the_threshold(folders):
    train, _, fake = folders
    found = evaluate.finish(memorization(train, fake))
    assert {match.fake for match in found.matches if match.flagged} >= set(range(10))
    assert "40 training volumes among themselves" in found.thresholds_from


def test_features_of_a_network_are_a_second_embedding(folders):
    train, held_out, fake = folders
    pooled = Extractor(
        "pooled", "0" * 64, lambda v: torch.nn.functional.avg_pool3d(v, 8).flatten(1), torch.device("cpu")
    )
    found = evaluate.finish(memorization(train, fake, held_out, pooled))
    assert set(found.thresholds) == {LOW, "network"}
    assert found.expected == pytest.approx(40 * (1 - (1 - (1 + 29 * 0.05) / 31) ** 2))
    assert len(found.matches) == 80


def test_report_names_pairs_and_what_cannot_be_found(folders):
    train, held_out, fake = folders
    report, _ = evaluate.finish(evaluate.memorization(train, fake, held_out))
    assert report["n_copies"] >= 10
    assert "generated v001, training v002: low-resolution distance 0, threshold" in " ".join(report.remarks)
    assert "no proof of privacy" in report.remarks[-1]
    assert report.protocol["held_out"]["n"] == 30


def test_held_out_volumes_of_another_size_are_refused(folders, tmp_path):
    train, _, fake = folders
    small = write(tmp_path / "small", [head(1)[:16, :16, :16], head(2)[:16, :16, :16]])
    with pytest.raises(DataError, match="16×16×16 voxels"):
        evaluate.finish(evaluate.memorization(train, fake, small))


def test_distance_is_one_minus_the_best_correlation_over_flips():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(3, 27)), rng.normal(size=(2, 27))
    expected = [[1 - max(np.corrcoef(x[i], b[j])[0, 1] for x in flipped(a)) for j in range(2)] for i in range(3)]
    np.testing.assert_allclose(distances(a, b, flips=True), expected, atol=1e-12)
    assert len(flipped(a)) == 8


def test_centring_undoes_a_shift():
    volume = head(1)
    np.testing.assert_array_equal(centred(np.roll(volume, (3, -2, 1), axis=(0, 1, 2))), centred(volume))


def test_chance_is_how_often_new_values_fall_below_the_threshold():
    rng = np.random.default_rng(0)
    for n in (3, 20, 200):
        thresholds = np.quantile(rng.random((20_000, n)), 0.05, axis=1)
        assert (rng.random(20_000) < thresholds).mean() == pytest.approx(chance(0.05, n), abs=0.01)


def test_too_few_unseen_volumes_are_warned_of(folders):
    train, held_out, fake = folders
    report, _ = evaluate.finish(evaluate.memorization(train, fake, held_out.subset(range(5))))
    assert "thresholds from 5 volumes, at least 20 are needed" in report.warnings[0]
    assert evaluate.finish(evaluate.memorization(train, fake, held_out))[0].warnings == ()
