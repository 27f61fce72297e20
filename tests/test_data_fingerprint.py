"""The whole of a data set: planted copies, empty and flipped volumes are found, sound ones are not suspected."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from wdm_cli.cli.main import app
from wdm_cli.config import resolve
from wdm_cli.engine.data.facts import usual_spacing
from wdm_cli.engine.data.fingerprint import doubts, duplicates, fingerprint, near_empty, suggestions, turned
from wdm_cli.engine.data.nifti import Nifti
from wdm_cli.engine.data.survey import CaseReport, known, survey, thumbnail
from wdm_cli.engine.data.volume import write_nifti

SETTINGS = Nifti(image_size=32)


def body(seed: int) -> np.ndarray:
    """Uneven along every axis: a large bright organ on one side, a small one on the other; a person each seed."""
    draw = np.random.default_rng(seed)
    i, j, k = np.meshgrid(*(np.linspace(-1, 1, 32),) * 3, indexing="ij")
    shift = draw.normal(0, 0.04, 3)
    volume = 100.0 * ((i**2 + j**2 + k**2) < 0.8)
    volume += 200 * (((i - 0.4 - shift[0]) ** 2 + (j - 0.2) ** 2 + (k - 0.3 - shift[2]) ** 2) < 0.12)
    volume += 80 * (((i + 0.4) ** 2 + (j + 0.3 + shift[1]) ** 2 + (k + 0.4) ** 2) < 0.05)
    return (volume + draw.normal(0, 2, volume.shape)).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed in range(6):
        write_nifti(tmp_path / f"sub-{seed}.nii.gz", body(seed), np.eye(4))
    return tmp_path


def reports(folder: Path) -> list[CaseReport]:
    return sorted(survey(SETTINGS, SETTINGS.find(folder)), key=lambda report: report.name)


def test_a_sound_folder_raises_no_doubt(folder: Path) -> None:
    found = reports(folder)
    assert doubts(found) == []
    whole = fingerprint("nifti", found)
    assert whole["usable"] == 6
    assert whole["spacing_mm"] == {"i": [1, 1, 1], "j": [1, 1, 1], "k": [1, 1, 1]}
    assert whole["highest"][0] == pytest.approx(min(float(body(seed).max()) for seed in range(6)), abs=1e-3)
    assert "6 cases is few" in " ".join(suggestions(list(known(found).values())))


def test_planted_faults_are_found(folder: Path) -> None:
    write_nifti(folder / "copy.nii.gz", body(3) * 2 + 5, np.eye(4))  # the same training voxels, stored otherwise
    write_nifti(folder / "exact.nii.gz", body(3), np.eye(4))
    write_nifti(folder / "flipped.nii.gz", body(9)[::-1, ::-1].copy(), np.eye(4))
    empty = np.zeros((32, 32, 32), np.float32)
    empty[:4, :4, :4] = 100 + np.arange(64).reshape(4, 4, 4)
    write_nifti(folder / "empty.nii.gz", empty, np.eye(4))
    found = reports(folder)
    assert ["exact", "sub-3"] in [[name for name in names if name != "copy"] for names in duplicates(found)]
    assert near_empty(found) == ["empty"]
    assert turned(found)["flipped"] == "i, j"
    assert not {name for name in turned(found) if name.startswith("sub-")}
    text = " ".join(doubts(found))
    assert "copies of others" in text
    assert "nearly empty: empty" in text
    assert "flipped (axes i, j)" in text


@pytest.mark.parametrize(
    ("side", "wanted"),
    [
        (20, "ours_unet_128 --set data.image_size=32 to begin"),
        (90, "data.image_size=96 to begin"),
        (100, "ours_unet_128 to begin"),
        (240, "ours_unet_128 to begin, ours_unet_256 to keep"),
    ],
)
def test_the_suggested_size_fits_the_volumes_and_the_network(folder: Path, side: int, wanted: str) -> None:
    case = dataclasses.replace(known(reports(folder))["sub-0"], sides=(side, side - 8, 8))
    advice = suggestions([case])[0]
    assert wanted in advice
    sets = [f"data.image_size={advice.partition('image_size=')[2].split()[0]}"] if "--set" in advice else []
    resolve("ours_unet_128", environment={}, sets=sets)  # raises if the size does not fit


@pytest.mark.parametrize(
    ("sides", "spacing", "wanted"),
    [
        (
            (512, 512, 40),
            (0.84, 0.84, 5.0),
            "thick slices (0.84×0.84×5 mm): ours_unet_128 --set 'data.image_size=[128, 128, 64]'",
        ),
        ((24, 256, 256), (3.0, 0.6, 0.6), "ours_unet_256 --set 'data.image_size=[64, 256, 256]' to keep"),
        ((60, 60, 20), (1.0, 1.0, 4.0), "ours_unet_128 --set 'data.image_size=[64, 64, 32]' to begin"),
        ((512, 512, 512), (0.5, 0.5, 0.5), "ours_unet_128 to begin"),
        ((284, 284, 200), (1.0, 1.0, 1.0), "ours_unet_128 to begin, ours_unet_256 to keep"),
        ((285, 284, 200), (1.0, 1.0, 1.0), "ours_unet_128 to begin"),
    ],
)
def test_what_is_suggested_keeps_slices_and_keeps_what_it_says(
    folder: Path, sides: Any, spacing: Any, wanted: str
) -> None:
    case = dataclasses.replace(known(reports(folder))["sub-0"], sides=sides, spacing=spacing)
    advice = suggestions([case])[0]
    assert wanted in advice
    assert ("to keep" in advice) == ("to keep" in wanted)
    for preset, part in zip(("ours_unet_128", "ours_unet_256"), advice.split(", ours_unet_256"), strict=False):
        sets = [part.split("'")[1]] if "--set" in part else []
        data = resolve(preset, environment={}, sets=["data.kind=nifti", *sets]).preset.data
        thick = [mm > 1.1 * min(spacing) for mm in spacing]
        factor = data.factor(sides, spacing)
        assert all(f == 1 for f, is_thick in zip(factor, thick, strict=True) if is_thick or preset == "ours_unet_256")


def test_one_spacing_for_mixed_volumes_is_the_usual_one_along_the_body(folder: Path) -> None:
    facts = known(reports(folder))["sub-0"]
    cases = [dataclasses.replace(facts, spacing=(mm, 1.0, 1.0)) for mm in (0.9, 1.0, 1.0, 3.0)]
    assert usual_spacing(cases) == "1"
    sagittal = dataclasses.replace(facts, spacing=(5.0, 0.8, 0.7), orientation="PIR")
    assert usual_spacing([sagittal]) == "0.7,5,0.8"
    assert usual_spacing([]) == ""


def test_thumbnails_are_block_means() -> None:
    array = np.random.default_rng(0).normal(size=(24, 36, 12)).astype(np.float32)
    wanted = array.reshape(12, 2, 12, 3, 12, 1).mean(axis=(1, 3, 5))
    assert np.allclose(thumbnail(array), wanted, atol=1e-6)
    assert thumbnail(np.zeros((25, 8, 13), np.float32)).shape == (12, 8, 12)


def test_the_command_writes_the_fingerprint(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "out" / "fingerprint.json"
    command = ["verify", str(folder), "--preset", "tiny", "--workers", "1", "--fingerprint", str(path), "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.exception
    written, answer = json.loads(path.read_text()), json.loads(result.stdout)
    assert written["usable"] == answer["usable"] == 6
    assert written["preset"] == "tiny"
    assert written["training_bytes"] > 1e6
    assert answer["suggestions"] == written["suggestions"]
    assert "thumbnail" not in answer["cases"][0]
