"""wdm sample, the real command on a run of a few steps."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from command import sets, start, wdm
from small import HEADS, small

from wdm_cli.cli.sample import say_sampler
from wdm_cli.config import resolve
from wdm_cli.engine.run import train as run_train
from wdm_cli.engine.samplers import DDPM
from wdm_cli.engine.train import Trainer

CT = {"data__kind": "lidc-idri", "data__intensity": "fixed-window", "data__window": [-1000, 500]}


def make_run(folder: Path, **changes: Any) -> Path:
    import torch

    preset = small(train__steps=6, model__dropout=0.0, data__image_size=16, **changes)
    from small import Heads

    list(run_train(Trainer(preset, Heads(16), torch.device("cpu")), folder))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "small")


def volumes(folder: Path) -> dict[str, np.ndarray]:
    return {p.name: np.asarray(nib.load(p).dataobj) for p in sorted(folder.glob("sample_*.nii.gz"))}


def hashes(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.glob("sample_*.nii.gz"))}


def test_a_folder_of_samples(run: Path, tmp_path: Path) -> None:
    result = wdm("sample", "-n", 3, "--out", tmp_path / "s", "--run", run)
    assert result.code == 0, result.err
    found = volumes(tmp_path / "s")
    assert list(found) == [f"sample_{i:06d}.nii.gz" for i in range(3)]
    for array in found.values():
        assert array.dtype == np.float32
        assert array.shape == (16, 16, 16)
        assert 0 <= array.min() < array.max() <= 1
    image = nib.load(tmp_path / "s" / "sample_000000.nii.gz")
    assert np.allclose(image.affine, HEADS.affine)
    about = json.loads((tmp_path / "s" / "run.json").read_text())
    assert about["protocol"]["seed"] == 0
    assert about["protocol"]["sampler"] == "ddpm"
    assert about["protocol"]["weights"] == "ema"
    assert about["step"] == 6
    with (tmp_path / "s" / "samples.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["seed"] for row in rows] == ["0", "1", "2"]
    assert float(rows[1]["mean"]) == pytest.approx(found["sample_000001.nii.gz"].mean(), abs=1e-5)
    assert (tmp_path / "s" / "preview.png").exists()


def test_the_sampler_is_named_and_the_models_own_is_the_default(run: Path, tmp_path: Path) -> None:
    own = wdm("sample", "-n", 1, "--out", tmp_path / "own", "--run", run)
    assert "sampler: ddpm, 4 steps\n" in own.err
    spelled = wdm("sample", "-n", 1, "--out", tmp_path / "spelled", "--run", run, "--sampler", "ddpm", "--steps", 4)
    assert spelled.code == 0
    assert hashes(tmp_path / "own") == hashes(tmp_path / "spelled")
    other = wdm("sample", "-n", 1, "--out", tmp_path / "other", "--run", run, "--sampler", "dpm++", "--steps", 3)
    assert "sampler: dpm++, 3 steps, grid log-snr (the model's own: ddpm, 4 steps)" in other.err
    protocol = json.loads((tmp_path / "other" / "run.json").read_text())["protocol"]
    assert (protocol["sampler"], protocol["steps"]) == ("dpm++", 3)


def test_of_a_slow_sampler_the_fast_one_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    default = resolve("ours_unet_128").preset
    say_sampler(default, SimpleNamespace(preset=None), "ours_unet_128")
    said = capsys.readouterr().err
    assert "sampler: dpm++, 15 steps, grid log-snr; the paper's way is `--sampler ddpm --steps 1000`" in said
    paper = dataclasses.replace(default, sample=DDPM(steps=1000))  # as in models that were trained so
    say_sampler(paper, SimpleNamespace(preset=paper), None)
    said = capsys.readouterr().err
    assert "ddpm, 1000 steps, the model's own. `--sampler dpm++` takes 15, in 1/67 of the time" in said


def test_more_are_added_and_none_is_made_twice(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "s"
    wdm("sample", "-n", 2, "--out", out, "--run", run)
    before = {p.name: p.stat().st_mtime_ns for p in out.glob("sample_*")}
    result = wdm("sample", "-n", 4, "--out", out, "--run", run)
    assert "2 of 4 samples are there already and are kept" in result.err
    assert len(volumes(out)) == 4
    assert {p.name: p.stat().st_mtime_ns for p in out.glob("sample_*")}.items() >= before.items()
    wdm("sample", "-n", 4, "--out", tmp_path / "t", "--run", run)
    assert hashes(out) == hashes(tmp_path / "t")


def test_batches_and_seeds(run: Path, tmp_path: Path) -> None:
    wdm("sample", "-n", 5, "--out", tmp_path / "one", "--run", run)
    wdm("sample", "-n", 5, "--out", tmp_path / "three", "--run", run, "--batch-size", 3)
    one, three = volumes(tmp_path / "one"), volumes(tmp_path / "three")
    assert max(np.abs(one[name] - three[name]).max() for name in one) <= 1e-5
    wdm("sample", "-n", 2, "--out", tmp_path / "later", "--run", run, "--seed", 3)
    assert np.array_equal(volumes(tmp_path / "later")["sample_000001.nii.gz"], one["sample_000004.nii.gz"])


def test_fixed_window_gives_int16_hu(tmp_path: Path) -> None:
    run = make_run(tmp_path / "ct", **CT)
    assert wdm("sample", "-n", 1, "--out", tmp_path / "s", "--run", run).code == 0
    (array,) = volumes(tmp_path / "s").values()
    assert array.dtype == np.int16
    assert -1000 <= array.min() < array.max() <= 500
    other = wdm("sample", "-n", 1, "--out", tmp_path / "s", "--run", run, "--set", "data.window=[-1000,400]")
    assert other.code == 2
    assert "fixed by its training" in other.err


@pytest.mark.parametrize(
    "change", [["--steps", 2], ["--seed", 1], ["--raw"], ["--precision", "bf16"], sets("sample.steps=3")], ids=str
)
def test_another_protocol_in_the_same_folder_is_refused(change: list[Any], run: Path, tmp_path: Path) -> None:
    wdm("sample", "-n", 1, "--out", tmp_path / "s", "--run", run)
    before = hashes(tmp_path / "s")
    result = wdm("sample", "-n", 2, "--out", tmp_path / "s", "--run", run, *change)
    assert result.code == 2
    assert "another protocol" in result.err
    assert hashes(tmp_path / "s") == before
    assert wdm("sample", "-n", 1, "--out", tmp_path / "s", "--run", run, *change, "--overwrite").code == 0
    assert hashes(tmp_path / "s") != before


@pytest.mark.parametrize(
    ("change", "reason"),
    [(sets("train.lr=1"), "no effect on sampling"), (sets("model.dropout=0.1"), "fixed by its training"),
     (sets("diffusion.schedule=cosine"), "fixed by its training"), (sets("data.dir=x"), "no effect on sampling"),
     (sets("data.kind=lidc-idri", "data.intensity=fixed-window"), "fixed by its training"),
     (["--preset", "ours_unet_128"], "another network")],
    ids=str,
)  # fmt: skip
def test_settings_without_effect_are_refused(change: list[str], reason: str, run: Path, tmp_path: Path) -> None:
    result = wdm("sample", "-n", 1, "--out", tmp_path / "s", "--run", run, *change)
    assert result.code == 2
    assert reason in result.err
    assert not (tmp_path / "s").exists()


def test_weights_that_do_not_fit_leave_the_folder_alone(run: Path, tmp_path: Path) -> None:
    import torch

    wdm("sample", "-n", 1, "--out", tmp_path / "s", "--run", run)
    before = hashes(tmp_path / "s")
    torch.save({"a": torch.zeros(2)}, tmp_path / "other.pt")
    result = wdm(
        "sample",
        "-n",
        1,
        "--out",
        tmp_path / "s",
        "--checkpoint",
        tmp_path / "other.pt",
        "--preset",
        "tiny",
        "--overwrite",
    )
    assert result.code == 3
    assert "missing" in result.err
    assert hashes(tmp_path / "s") == before


def test_the_newest_run_is_taken_and_named(run: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    nothing = wdm("sample", "-n", 1, "--out", "s")
    assert nothing.code == 3
    assert "no trained run under" in nothing.err
    (tmp_path / "runs").symlink_to(run.parent)
    result = wdm("sample", "-n", 1, "--out", "s")
    assert result.code == 0
    assert "(the newest run), step 6" in result.err


@pytest.mark.slow
def test_several_processes_share_a_folder_and_kills_cost_one_volume(run: Path, tmp_path: Path) -> None:
    """Two processes at once, both killed, then two more that finish: the files of one serial run."""
    out, arguments = tmp_path / "s", ("-n", 40, "--run", run, "--steps", 20)
    wdm("sample", "--out", tmp_path / "serial", *arguments)
    pair = [start("sample", "--out", out, *arguments) for _ in range(2)]
    while len(list(out.glob("sample_*.nii.gz"))) < 3:
        time.sleep(0.01)
    for process in pair:
        process.kill()
        process.communicate()
    there = {p.name: p.stat().st_mtime_ns for p in out.glob("sample_*.nii.gz")}
    assert 3 <= len(there) < 40
    assert all(hashes(tmp_path / "serial")[name] == value for name, value in hashes(out).items())
    pair = [start("sample", "--out", out, *arguments) for _ in range(2)]
    for process in pair:
        _, err = process.communicate(timeout=100)
        assert process.returncode == 0, err
    assert hashes(out) == hashes(tmp_path / "serial")
    assert {p.name: p.stat().st_mtime_ns for p in out.glob("sample_*.nii.gz")}.items() >= there.items()
    with (out / "samples.csv").open() as file:
        assert [int(row["index"]) for row in csv.DictReader(file)] == list(range(40))
    assert not (out / ".partial").exists()


def test_a_signal_ends_with_75_and_keeps_what_is_finished(run: Path, tmp_path: Path) -> None:
    out, arguments = tmp_path / "s", ("-n", 400, "--run", run, "--steps", 20)
    process = start("sample", "--out", out, *arguments)
    while not list(out.glob("sample_*.nii.gz")):
        time.sleep(0.01)
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "stopped by SIGTERM" in err
    finished = len(volumes(out))
    assert f"{finished} of 400 samples are finished" in err
    assert not (out / ".partial").exists()


@pytest.mark.parametrize(("size", "sides"), [(24, (24, 24, 24)), ("[16, 16, 8]", (16, 16, 8))])
def test_another_image_size_is_another_field_of_view_around_the_same_middle(
    run: Path, tmp_path: Path, size: object, sides: tuple[int, int, int]
) -> None:
    result = wdm("sample", "-n", 1, "--out", tmp_path / "s", "--run", run, *sets(f"data.image_size={size}"))
    assert result.code == 0, result.err
    field = " × ".join(str(3 * side) for side in sides)
    assert f"so the field of view is {field} mm, not 48 × 48 × 48 mm" in result.err
    image = nib.load(tmp_path / "s" / "sample_000000.nii.gz")
    assert image.shape == sides
    np.testing.assert_allclose(image.header.get_zooms(), (3, 3, 3))  # voxels keep their size
    middle = image.affine @ [*((side - 1) / 2 for side in sides), 1]
    np.testing.assert_allclose(middle, HEADS.affine @ [7.5, 7.5, 7.5, 1], atol=1e-5)
    protocol = json.loads((tmp_path / "s" / "run.json").read_text())["protocol"]
    assert protocol["trained_image_size"] == [16, 16, 16]
    assert protocol["field_of_view_mm"] == [3 * side for side in sides]
    assert protocol["trained_field_of_view_mm"] == [48, 48, 48]
    same = wdm("sample", "-n", 1, "--out", tmp_path / "same", "--run", run)
    assert "field of view" not in same.err
    assert "field_of_view_mm" not in json.loads((tmp_path / "same" / "run.json").read_text())["protocol"]


def test_bare_weights_keep_the_voxels_of_the_size_they_were_trained_at() -> None:
    from wdm_cli.cli.sample import field_of_view

    bare = SimpleNamespace(preset=None, affine=None)
    larger = resolve("ours_unet_128", sets=["data.image_size=[128, 128, 256]"]).preset
    field = field_of_view(bare, larger, "ours_unet_128")  # type: ignore[arg-type]
    np.testing.assert_allclose(np.diag(field.affine), [2, 2, 2, 1])
    np.testing.assert_allclose(field.affine @ [63.5, 63.5, 127.5, 1], [0, 0, 0, 1])
