"""The way has an end: DICOM, preprocess, verify, split, train, sample, eval and report, all by the real commands."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import CHROMIUM, Browser
from command import sets, wdm
from dicom_factory import SIDE, SLICES, mr_slice, write_series
from small import TABLES

from wdm_cli.engine.metrics import extractor, resnet

PATIENTS, SAMPLES = 6, 4
SETTINGS = [f"model.{key}={value}" for key, value in TABLES["model"].items() if key != "kind"] + ["data.image_size=16"]
Way = Callable[[str], Path]


def scan(seed: int) -> np.ndarray:
    """[slices, rows, columns] int16 HU: a body in air with a lung, a bone and noise, no two alike."""
    rng = np.random.default_rng(seed)
    s, r, c = np.ogrid[:SLICES, :SIDE, :SIDE]
    a, b = 8 * rng.uniform(0.7, 0.9, 2)
    hu = np.where(((r - 7.5) / a) ** 2 + ((c - 7.5) / b) ** 2 + 0 * s < 1, 40.0, -1000.0)
    hu = np.where((((r - 7.5) / 3) ** 2 + ((c - 4) / 2.5) ** 2 < 1) & (s > 8), -800.0, hu)
    hu = np.where((abs(r - 11) < 1.5) & (abs(c - 7.5) < 1.5), 700.0, hu)
    return (hu + rng.normal(0, 8, hu.shape)).clip(-1024, 3071).round().astype(np.int16)


def done(*arguments: Any) -> str:
    """What a command says on stderr, once it has succeeded."""
    result = wdm(*arguments)
    assert result.code == 0, (arguments, result.err)
    return result.err


KINDS: dict[str, tuple[list[str], str, list[str]]] = {
    "ct-hu": (["lidc", "--intensity", "fixed-window"], "lidc-idri", ["data.intensity=fixed-window"]),
    "ct-unit": (["lidc"], "lidc-idri", []),
    "mr": (["mr"], "adni", []),
}
"""The command that prepares, the layout, and settings of its training."""


@pytest.fixture(scope="module")
def way(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Way]:
    """Folders dicom, prepared, run and samples of a kind of data, made once."""
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind in made:
            return made[kind]
        root = made[kind] = tmp_path_factory.mktemp(kind)
        command, layout, settings = KINDS[kind]
        for number in range(PATIENTS):
            patient = f"{number + 1:03}_S_{number + 1:04}" if kind == "mr" else f"LIDC-IDRI-{number + 1:04}"
            change = mr_slice if kind == "mr" else None
            write_series(root / "dicom" / patient, change, name=patient, patient=patient, volume=scan(number))
        prepared, data = root / "prepared", ["--dataset", layout]
        one, model = ["--workers", 1], ["--preset", "tiny", *data, *sets(*SETTINGS, *settings)]
        grid = ["--size", 16, "--spacing", 8, *one]
        done("preprocess", *command, "--dicom-dir", root / "dicom", "--out", prepared, *grid)
        done("verify", prepared, *model, *one)
        done("split", prepared, *data, "--val", 0.4)
        short = ["--steps", 6, *sets("data.part=train", "train.save_every=6", "sample.steps=4")]
        done("train", *model, "--data-dir", prepared, "--out", root / "run", *one, *short)
        done("sample", "-n", SAMPLES, "--run", root / "run", "--out", root / "samples")
        return root

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WDM_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(extractor, "random_resnet", lambda seed: resnet.random_resnet(seed, depth=10))
        yield make


RANDOM = ("--weights", "random", "--device", "cpu", "--quick")


@pytest.mark.parametrize("kind", ["ct-hu", "mr", pytest.param("ct-unit", marks=pytest.mark.slow)])
def test_from_dicom_to_the_report(way: Way, kind: str) -> None:
    root = way(kind)
    out, page = root / "samples" / "eval.json", root / "report.html"
    said = done(
        "eval", "all", "--real", root / "prepared", "--fake", root / "samples", *RANDOM, "--quick", "--out", out
    )
    assert "4 of " in said  # the part that was trained on
    assert f"layout {KINDS[kind][1]}, part train, intensity" in said
    stamp = json.loads(out.read_text())["protocol"]
    assert stamp["real"]["n"] == 4
    assert stamp["axes"] == "RAS"
    assert stamp["real"]["orientations"] == {"RAS": 4}
    assert stamp["real"]["voxel_sizes_mm"] == stamp["fake"]["voxel_sizes_mm"] == {"8 × 8 × 8": 4}
    assert stamp["intensity"]["scheme"] == ("fixed-window" if kind == "ct-hu" else "paper")
    said = done("report", root / "run", root / "samples", "--out", page)
    assert "no real volumes" not in said
    text = page.read_text()
    for heading in ("How the volumes look", "Means and histograms", "Scores", "Nearest real volumes"):
        assert heading in text
    names = set(re.findall(r'data-name="real ([^"]+)"', text))
    assert len(names) == 4
    assert all(name.startswith(("LIDC-IDRI-000", "ADNI_00")) for name in names), names
    assert "nearest: preprocessed" not in text
    assert "training volumes" in (root / "run" / "MODEL_CARD.md").read_text()


def scores(root: Path, *arguments: Any) -> dict[str, float]:
    """Values of the scores of `wdm eval`, by their names."""
    result = wdm("eval", *arguments, "--fake", root / "samples", "--json")
    assert result.code == 0, (arguments, result.err)
    return {score["name"]: score["value"] for score in json.loads(result.out)["scores"]}


def ways_to_read(root: Path, kind: str) -> dict[str, list[Any]]:
    """The options that lead to the same real volumes: none, the training's own preset, and where they are finished."""
    preset = ["--preset", root / "run" / "preset.toml"]
    return {"told by the samples": [], "preset": preset} | (
        {"finished": ["--intensity", "fixed-window"]} if kind == "ct-hu" else {}
    )


@pytest.mark.parametrize("kind", ["ct-hu", "mr", pytest.param("ct-unit", marks=pytest.mark.slow)])
def test_options_are_needed_for_foreign_volumes_only(way: Way, kind: str) -> None:
    """HU in their window are finished volumes, so all ways to read them give one result."""
    root = way(kind)
    found = {
        name: scores(root, "histogram", "--real", root / "prepared", "--quick", *options)["histogram"]
        for name, options in ways_to_read(root, kind).items()
    }
    assert found["preset"] == found["told by the samples"]
    if kind == "ct-hu":  # all six cases, not the four of the part that was trained on
        whole = scores(root, "histogram", "--real", root / "prepared", "--quick", *ways_to_read(root, kind)["preset"],
                       "--set", "data.part=all")  # fmt: skip
        assert found["finished"] == pytest.approx(whole["histogram"])


@pytest.mark.parametrize("kind", ["ct-hu", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("mr", "ct-unit"))])
def test_every_command_reads_prepared_folders(way: Way, kind: str, tmp_path: Path) -> None:
    root = way(kind)
    real = ("--real", root / "prepared")
    done("eval", "sanity", "--fake", root / "prepared")
    done("eval", "sanity", "--fake", root / "samples")
    for command in (("kid", *RANDOM), ("msssim", "--scales", 2), ("memorization",)):
        assert scores(root, *command, *real)
    picture = tmp_path / "closest.png"
    said = wdm("eval", "memorization", *real, "--fake", root / "samples", "--picture", picture)
    assert "training LIDC-IDRI-000" in said.out or "training ADNI_00" in said.out
    assert picture.read_bytes().startswith(b"\x89PNG")
    for number, options in enumerate(ways_to_read(root, kind).values()):
        done(
            "report",
            root / "samples",
            *real,
            "--no-neighbours",
            "--no-viewer",
            "--out",
            tmp_path / f"{number}.html",
            *options,
        )


def test_scales_that_are_unlike_are_refused_with_a_way_out(way: Way) -> None:
    """HU as prepared beside samples in [0, 1]: made alike by the preset, refused as finished volumes."""
    hu, unit = way("ct-hu"), way("mr")
    result = wdm("eval", "histogram", "--real", hu / "prepared", "--fake", unit / "samples", "--intensity", "paper")
    assert (result.code, "do not lie in [0, 1]" in result.err) == (3, True), result.err
    result = wdm("eval", "histogram", "--real", hu / "run", "--fake", hu / "samples")
    assert (result.code, "is a run folder" in result.err) == (3, True), result.err


@pytest.mark.parametrize("kind", ["ct-hu", "mr"])
def test_held_out_by_the_split_that_training_used(way: Way, kind: str) -> None:
    root = way(kind)
    held_out = ("--real", root / "prepared", "--held-out", root / "prepared" / "split.json")
    result = wdm("eval", "memorization", "--fake", root / "samples", *held_out, "--json")
    assert result.code == 0, result.err
    stamp = json.loads(result.out)["protocol"]
    assert (stamp["real"]["n"], stamp["held_out"]["n"]) == (4, 2)
    done("report", root / "run", root / "samples", *held_out[2:], "--out", root / "held_out.html")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("kind", ["ct-hu", "mr"])
def test_the_page_shows_real_beside_synthetic(way: Way, kind: str, tmp_path: Path) -> None:
    root = way(kind)
    done("report", root / "run", root / "samples", "--out", tmp_path / "page.html")
    with Browser(tmp_path / "profile", scripts=False) as browser:
        browser.open(tmp_path / "page.html")
        assert browser.value_of("[...document.images].every(image => image.complete && image.naturalWidth > 50)")
        assert browser.screenshot(tmp_path / "page.png", whole=True).stat().st_size > 20_000
