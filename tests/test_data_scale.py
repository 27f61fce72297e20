"""How far volumes are averaged: an axis at a time, and to one voxel size for a whole data set."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import sets, wdm
from hypothesis import given, settings
from hypothesis import strategies as st
from small import SETS

from wdm_cli.cli.evaluate_folders import open_both
from wdm_cli.config import read_toml, to_toml
from wdm_cli.engine.data import Brats, MrNet, Nifti
from wdm_cli.engine.data.cache import VolumeCache
from wdm_cli.engine.data.facts import oddities
from wdm_cli.engine.data.phantom import write_phantoms
from wdm_cli.engine.data.scale import common_scale, scale_of
from wdm_cli.engine.data.survey import known, survey
from wdm_cli.engine.data.transforms import factors, needed
from wdm_cli.engine.data.volume import write_nifti
from wdm_cli.engine.errors import ConfigError
from wdm_cli.engine.metrics.volumes import open_dataset
from wdm_cli.engine.preset import from_dict, from_stored

Sides = tuple[int, int, int]


def head(sides: Sides, seed: int = 0) -> np.ndarray:
    """A noisy ellipsoid in black that fills the array."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, side) for side in sides), indexing="ij"))
    noise = np.random.default_rng(seed).uniform(300, 500, sides)
    return np.where((grid**2).sum(0) < 0.9, noise, 0).astype(np.float32)


def folder(root: Path, *grids: tuple[Sides, float | tuple[float, float, float]]) -> Path:
    """Files a, b, c, … of these sides and voxel sizes."""
    for number, (sides, spacing) in enumerate(grids):
        mm = (spacing,) * 3 if isinstance(spacing, float) else spacing
        write_nifti(root / f"{'abcdef'[number]}.nii", head(sides, number), np.diag([*mm, 1.0]))
    return root


@pytest.mark.parametrize(
    ("raw", "spacing", "shape", "factor"),
    [
        ((512, 512, 40), (0.84, 0.84, 5.0), (128, 128, 48), (4, 4, 1)),
        ((40, 512, 512), (5.0, 0.84, 0.84), (48, 128, 128), (1, 4, 4)),
        ((512, 512, 200), (0.7, 0.7, 1.0), (128, 128, 128), (4, 4, 2)),
        ((512, 512, 200), (0.5, 0.5, 1.0), (128, 128, 128), (4, 4, 2)),  # to cubes
        ((512, 512, 300), (0.84, 0.84, 5.0), (128, 128, 128), (4, 4, 3)),  # so many slices that they must be averaged
        ((512, 400, 133), (0.7, 0.75, 2.5), (128, 128, 128), (4, 4, 1)),  # alike up to a tenth: one factor for both
        ((240, 240, 155), (1.0, 1.0, 1.0), (128, 128, 128), (2, 2, 2)),
        ((30, 30, 30), (1.0, 1.0, 4.0), (64, 64, 64), (1, 1, 1)),
    ],
)
def test_the_factor_of_each_axis(raw: Sides, spacing: tuple[float, ...], shape: Sides, factor: Sides) -> None:
    assert factors(needed(raw, shape), spacing) == factor


sides = st.tuples(*[st.integers(2, 600)] * 3)
spacings = st.tuples(*[st.sampled_from([0.3, 0.5, 0.7, 1.0, 1.05, 2.5, 5.0])] * 3)


@given(
    raw=sides, spacing=spacings, shape=st.tuples(*[st.sampled_from([16, 48, 128])] * 3), order=st.permutations(range(3))
)
@settings(max_examples=200, deadline=None)
def test_no_axis_is_averaged_further_than_it_must(raw: Sides, spacing: Any, shape: Sides, order: list[int]) -> None:
    least, factor = needed(raw, shape), factors(needed(raw, shape), spacing)
    longest = max(f * mm for f, mm in zip(factor, spacing, strict=True) if mm <= 1.1 * min(spacing))
    for f, n, mm in zip(factor, least, spacing, strict=True):
        assert f >= n
        assert f == n or f * mm <= longest + 1e-6
    turned = factors(*(tuple(values[axis] for axis in order) for values in (least, spacing)))  # type: ignore[arg-type]
    assert turned == tuple(factor[axis] for axis in order)
    assert factors(least, (2.0, 2.0, 2.0)) == (max(least),) * 3  # cubes stay cubes, averaged as ever


def test_volumes_of_other_sides_get_one_voxel_size(tmp_path: Path) -> None:
    """Alone one head would be averaged by 3, the other by 4."""
    root = folder(tmp_path / "d", ((48, 40, 48), 1.0), ((60, 60, 60), 1.0))
    data = Nifti(image_size=16)
    inventory = data.find(root)
    scale = common_scale(data, inventory)
    assert scale is not None
    assert scale.voxel == (4.0, 4.0, 4.0)
    assert scale.text == (
        "voxels of training: 4×4×4 mm for all; b decides, 1 of 2 volumes alone would need less "
        "(data.voxel sets another size)"
    )
    cache = VolumeCache(data, root, tmp_path / "cache")
    assert [step.facts.factor for step in cache.build()] == [(4, 4, 4)] * 2
    assert cache.dataset.voxel == (4.0, 4.0, 4.0)
    width = [(cache[i][:, 8, 8] > -0.8).sum() for i in range(2)]  # of a head that fills 48 and 60 mm
    assert width == [12, 14]
    reports = list(survey(replace(data, voxel="own"), inventory))
    assert sorted(facts.factor for facts in known(reports).values()) == [(3, 3, 3), (4, 4, 4)]
    (warning,) = oddities(known(reports))
    assert "more than one voxel size in training: " in warning
    assert "--spacing 1`" in warning


def test_where_all_agree_nothing_changes(tmp_path: Path) -> None:
    write_phantoms(tmp_path / "d", 3, size=40)
    data = Brats(image_size=16)
    assert data.settled(data.find(tmp_path / "d")).voxel == (18.0, 18.0, 18.0)
    caches = [
        VolumeCache(replace(data, voxel=voxel), tmp_path / "d", tmp_path / "cache")  # type: ignore[arg-type]
        for voxel in ("common", "own", "one-factor")
    ]
    for cache in caches:
        assert len(list(cache.build())) == 3
    for index in range(3):
        assert len({cache[index].tobytes() for cache in caches}) == 1
    scale = common_scale(data, data.find(tmp_path / "d"))
    assert scale is not None
    assert scale.text == "voxels of training: 18×18×18 mm"


def test_other_voxel_sizes_come_as_near_as_whole_factors_can() -> None:
    data = Nifti(image_size=128)
    grids: dict[str, Any] = {
        "fine": ((512, 512, 512), (0.5, 0.5, 0.5)),
        "usual": ((200, 200, 200), (1.0, 1.0, 1.0)),
        "thick": ((512, 512, 40), (0.84, 0.84, 5.0)),
    }
    scale = scale_of(data, grids)
    assert scale.voxel == (3.36, 3.36, 5.0)
    assert scale.deciding == ("thick",)
    assert scale.coarsened == 2
    settled = data.at(scale.voxel)
    assert {name: settled.factor(*grid) for name, grid in grids.items()} == {
        "fine": (7, 7, 10),
        "usual": (3, 3, 5),
        "thick": (4, 4, 1),
    }
    told = scale_of(data, grids | {"slabs": ((100, 100, 40), (1.0, 1.0, 8.0))}).text
    assert told.startswith("voxels of training: 3.36×3.36×8 mm for all; thick and slabs decide, 4 of 4")


def test_version_0_1_took_one_factor_for_all_axes() -> None:
    thick: Any = ((512, 512, 40), (0.84, 0.84, 5.0))
    assert Nifti(image_size=(128, 128, 48), voxel="one-factor").factor(*thick) == (4, 4, 4)
    stored = {"name": "old", "data": {"kind": "nifti"}}
    assert from_stored(stored, "run.json").data.voxel == "one-factor"
    assert from_stored({"name": "new", "data": {"kind": "nifti", "voxel": [1, 1, 2]}}, "x").data.voxel == (1, 1, 2)
    assert from_dict(stored).data.voxel == "common"
    assert stored["data"] == {"kind": "nifti"}


def test_a_file_that_cannot_be_used_has_no_say(tmp_path: Path) -> None:
    root = folder(tmp_path / "d", ((20, 20, 20), 1.0))
    (root / "z.nii").write_bytes(b"x" * 400)
    data = Nifti(image_size=16)
    assert data.settled(data.find(root)).voxel == (2.0, 2.0, 2.0)
    (root / "a.nii").unlink()
    assert data.settled(data.find(root)).voxel == "common"  # nothing to choose from; reading tells what is wrong


def test_files_without_a_voxel_size_count_their_voxels(tmp_path: Path) -> None:
    for number, slices in enumerate((24, 40)):
        path = tmp_path / "train" / "sagittal" / f"{number:04}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.random.default_rng(number).integers(0, 255, (slices, 32, 30), dtype=np.uint8))
    data = MrNet(image_size=16)
    inventory = data.find(tmp_path)
    for case in inventory.cases:
        raw = data.read(case.path)
        assert data.grid(case.path) == (raw.shape, raw.spacing)
    assert data.settled(inventory).voxel == (3.0, 3.0, 3.0)


def test_a_given_size_is_kept_and_what_it_cuts_off_is_said(tmp_path: Path) -> None:
    root = folder(tmp_path / "d", ((40, 40, 40), 1.0))
    told = Nifti(image_size=16, voxel=2).prepare(root / "a.nii").facts.warning
    assert told.startswith("anatomy cropped by 2/2, 2/2, 2/2 mm")
    assert Nifti(image_size=16, voxel=3).prepare(root / "a.nii").facts.warning == ""
    for wrong in (0, -1, [1, 2], "all"):
        with pytest.raises(ConfigError, match=r"data\.voxel"):
            from_dict({"name": "x", "data": {"kind": "nifti", "voxel": wrong}})


def test_real_volumes_beside_samples_have_the_size_of_training(tmp_path: Path) -> None:
    """Whichever folder they come from: the run's settings, or what the samples state, decide."""
    held_out = folder(tmp_path / "held", ((20, 20, 20), 1.0), ((20, 18, 20), 1.0))
    data = Nifti(image_size=16)
    assert open_dataset(held_out, data).volume(0).spacing == (2.0, 2.0, 2.0)
    assert open_dataset(held_out, data.at((4.0, 4.0, 4.0))).volume(0).spacing == (4.0, 4.0, 4.0)
    samples = folder(tmp_path / "samples", ((16, 16, 16), 4.0), ((16, 16, 16), 4.0))
    about = {
        "preset": {
            "name": "x",
            "data": {"kind": "nifti", "image_size": 16, "intensity": "paper", "voxel": [4.0] * 3},
            "model": {"channel_multipliers": [1, 2]},
        }
    }
    (samples / "run.json").write_text(json.dumps(about))
    settings = ["data.image_size=16", "data.kind=nifti"]
    for sets_of, mm in ((settings, 4.0), ([*settings, "data.voxel=own"], 2.0)):
        _, real = open_both(samples, held_out, None, "tiny", sets_of)
        assert real is not None
        assert real.dataset is not None
        assert real.dataset.load(real.files[0]).spacing == (mm,) * 3


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("WDM_CACHE_DIR", str(tmp_path / "cache"))

    def command(*more: object) -> Any:
        where = ("--data-dir", tmp_path / "d", "--out", tmp_path / "run", "--dataset", "nifti")
        small = [pair for pair in SETS if not pair.startswith("data.")]
        return wdm("train", "--preset", "tiny", *sets(*small, "data.image_size=8"), *where, *more)

    return command


def test_a_run_keeps_its_voxel_size(train: Any, tmp_path: Path) -> None:
    folder(tmp_path / "d", ((24, 20, 24), 1.0), ((30, 30, 30), 1.0))
    first = train("--steps", 1)
    assert first.code == 0, first.err
    assert "voxels of training: 4×4×4 mm for all; b decides, 1 of 2 volumes" in first.err
    stored = read_toml(tmp_path / "run" / "preset.toml")["data"]["voxel"]
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert stored == about["preset"]["data"]["voxel"] == [4.0, 4.0, 4.0]
    assert about["sources"]["data.voxel"] == "the volumes"
    folder(tmp_path / "d", ((24, 20, 24), 1.0), ((24, 20, 24), 1.0))  # would be averaged by 3 now
    other = train("--steps", 2, "--set", "data.voxel=3")
    assert other.code == 2
    assert "data.voxel: [4.0, 4.0, 4.0] in the run, [3.0, 3.0, 3.0] now" in other.err
    again = train("--steps", 2)
    assert again.code == 0, again.err
    assert read_toml(tmp_path / "run" / "preset.toml")["data"]["voxel"] == [4.0, 4.0, 4.0]
    facts = [json.loads(path.read_text())["facts"] for path in (tmp_path / "cache").rglob("*.json")]
    assert all(one["factor"] == [4, 4, 4] for one in facts)


def test_a_run_of_version_0_1_goes_on_as_it_began(train: Any, tmp_path: Path) -> None:
    folder(tmp_path / "d", ((24, 24, 12), (1.0, 1.0, 2.5)), ((30, 30, 12), (1.0, 1.0, 2.5)))
    assert train("--steps", 1, "--set", "data.voxel=one-factor").code == 0
    path = tmp_path / "run" / "preset.toml"
    tables = read_toml(path)
    del tables["data"]["voxel"]
    path.write_text(to_toml(tables))
    assert "data.voxel\tone-factor\tthe run" in train("--dry-run").out
    again = train("--steps", 2)
    assert again.code == 0, again.err
    assert "training voxels" not in again.err
    assert read_toml(path)["data"]["voxel"] == "one-factor"
    facts = [json.loads(entry.read_text())["facts"] for entry in (tmp_path / "cache").rglob("*.json")]
    assert sorted(one["factor"] for one in facts) == [[3, 3, 3], [4, 4, 4]]


@pytest.mark.slow
def test_the_dry_run_and_verify_name_the_size_of_all_cases(train: Any, tmp_path: Path) -> None:
    """Not that of the few volumes that the dry run measures with."""
    folder(tmp_path / "d", ((12, 12, 12), 1.0), ((12, 12, 12), 1.0), ((30, 30, 30), 1.0))
    dry = train("--dry-run")
    assert dry.code == 0, dry.err
    assert "voxels of training: 4×4×4 mm for all; c decides, 2 of 3" in dry.err
    facts = [json.loads(path.read_text())["facts"] for path in (tmp_path / "cache").rglob("*.json")]
    assert [one["factor"] for one in facts] == [[4, 4, 4]] * 2
    told = wdm("verify", tmp_path / "d", "--preset", "tiny", "--set", "data.image_size=32")
    assert told.out.splitlines()[1].split("\t") == ["2", "12×12×12", "1×1×1 mm", "RAS", "÷1"]
    assert "voxels of training: 1×1×1 mm\n" in told.err


def test_verify_shows_a_factor_an_axis(tmp_path: Path) -> None:
    folder(tmp_path / "d", ((100, 100, 20), (0.8, 0.8, 5.0)))
    told = wdm("verify", tmp_path / "d", "--preset", "tiny")
    assert told.out.splitlines()[1].split("\t") == ["1", "100×100×20", "0.8×0.8×5 mm", "RAS", "÷3×3×1"]
    found = json.loads(wdm("verify", tmp_path / "d", "--preset", "tiny", "--json").out)["cases"][0]
    assert found["factor"] == [3, 3, 1]
