"""What passes for HU, whatever the scheme: a chest, and the ways in which one ceases to be HU."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from command import wdm

from wdm_cli.engine.data.hounsfield import Census
from wdm_cli.engine.data.volume import write_nifti


def chest() -> np.ndarray:
    """Air, a body of soft tissue with lungs and a spine: [32, 32, 32] float32 HU."""
    g = np.mgrid[:32, :32, :32] / 31 * 2 - 1
    hu = np.full((32, 32, 32), -1000.0)
    hu[(g[0] / 0.8) ** 2 + (g[1] / 0.7) ** 2 < 1] = 40
    hu[((np.abs(g[0]) - 0.35) / 0.25) ** 2 + (g[1] / 0.45) ** 2 < 1] = -800
    hu[(abs(g[0]) < 0.12) & (abs(g[1] - 0.4) < 0.12)] = 700
    return (hu + np.random.default_rng(0).normal(0, 8, hu.shape)).astype(np.float32)


@pytest.mark.parametrize(
    "hu",
    [
        chest(),
        chest().clip(-1024),
        np.where(np.arange(32) % 8 == 0, -3024, chest()),  # padding outside the circle
        np.where(chest() > 600, 20000, chest()),  # metal
        chest()[8:-8, 8:-8],  # hardly any air around the body
        chest().clip(-160, 240),  # a soft-tissue window, still HU
        chest().clip(-100, 1000),
        np.where(chest() > 0, chest(), -1024).clip(-1024, 80),  # all but the organ masked away
    ],
)
def test_ct_is_hu(hu: np.ndarray) -> None:
    assert not Census.of(hu).problem


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ((chest() + 1000) / 2000, "no air"),
        (((chest() + 1000) / 2000).clip(0, 1), r"\[0, 1\]"),
        (chest() + 1024, "HU \\+ 1024"),  # stored without the intercept
        (((chest() + 1000) / 2000).clip(0, 1) * 255, "no air"),  # 8 bits
        (np.where(np.arange(32) < 4, -2000, chest() + 1024), "with padding"),  # padding, kept or added, hides the shift
        (np.where(np.arange(32) < 4, -1024, chest() + 1000), "with padding"),
        (np.where(np.arange(32) < 4, -3024, chest() + 1024), "with padding"),
        (chest() // 2, "scaled"),  # air at −500
        (chest() * 2, "scaled"),  # lungs at −1600
        (chest() - 1024, "soft tissue"),  # the intercept applied twice
        (-chest(), "denser than bone"),  # the sign lost
        (np.where(chest() < -900, 0, 20 + chest() * 0), "no air"),  # an iodine map
    ],
)
def test_other_numbers_are_not(values: np.ndarray, why: str) -> None:
    assert re.search(why, Census.of(values).problem)


def test_counting_slice_by_slice_is_counting_all_at_once() -> None:
    census = Census()
    for part in np.array_split(chest(), 5):
        census.add(part)
    assert census == Census.of(chest())
    census.add(np.empty(0))
    assert census == Census.of(chest())


def test_what_looks_like_hu_although_nobody_says_so() -> None:
    rng = np.random.default_rng(1)
    mr = rng.gamma(2.0, 150.0, (16, 16, 16))
    assert Census.of(chest()).looks_like_hu
    assert Census.of(np.where(np.arange(32) < 4, -3024, chest())).looks_like_hu
    for other in (mr, (mr - mr.mean()) / mr.std(), mr / mr.max(), chest() + 1024):
        assert not Census.of(other).looks_like_hu


def test_ct_that_is_not_told_as_ct_or_was_cut_out_with_zeros_is_said(tmp_path: Path) -> None:
    """Air around a body is −1000 HU; 0 is water. `preprocess nifti` takes MR unless it is told otherwise."""
    for number in range(3):
        hu = np.where(chest() < -900, 0, chest() + number)
        write_nifti(tmp_path / "cut" / f"c{number}.nii.gz", hu.astype(np.float32), np.eye(4))
        write_nifti(tmp_path / "ct" / f"c{number}.nii.gz", chest() + number, np.eye(4))
    ct = ("--preset", "tiny", "--dataset", "nifti", "--set", "data.modality=ct")
    assert "background as dense as tissue" in wdm("verify", tmp_path / "cut", *ct).err
    assert "background" not in wdm("verify", tmp_path / "ct", *ct).err
    made = wdm("preprocess", "nifti", "--data-dir", tmp_path / "ct", "--out", tmp_path / "out", "--workers", 1)
    assert "3 cases (e.g. c0) hold values that look like HU of CT" in made.err
