"""`wdm eval`, run for real on small folders."""

import json

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from wdm_cli.cli import console
from wdm_cli.cli.evaluate import app as evaluate_app
from wdm_cli.cli.main import app
from wdm_cli.engine.metrics import extractor, resnet


def invoke(*args, env=None):
    """Exit code, stdout and stderr of a command, with errors shown as the `wdm` script shows them."""

    def command():
        app(args=[str(arg) for arg in args], standalone_mode=False)

    import contextlib
    import io

    out, err = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            console.run(command)
        except SystemExit as stop:
            code = stop.code
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An own cache, and for `--weights random` a smaller network than ResNet-50."""
    monkeypatch.setenv("WDM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(extractor, "random_resnet", lambda seed: resnet.random_resnet(seed, depth=10))


def make_folder(path, n=2, size=16, seed=0):
    path.mkdir()
    rng = np.random.default_rng(seed)
    for i in range(n):
        array = rng.uniform(size=(size,) * 3).astype(np.float32)
        nib.save(nib.Nifti1Image(array, np.eye(4)), path / f"sample_{i:06d}.nii.gz")
    return path


@pytest.fixture
def folders(tmp_path):
    return make_folder(tmp_path / "real", seed=1), make_folder(tmp_path / "fake", seed=2)


@pytest.mark.parametrize("spelling", [("eval", "fid"), ("fid",)])
def test_fid_table_says_n_protocol_direction_and_that_random_weights_compare_with_nothing(folders, spelling):
    real, fake = folders
    code, out, err = invoke(*spelling, "--real", real, "--fake", fake, "--weights", "random", "--device", "cpu")
    assert code == 0, err
    rows = dict(line.split("\t")[:2] for line in out.splitlines())
    assert float(rows["fid"]) > 0
    assert rows["real"].startswith("n = 2, files sha256 ")
    assert "random ResNet-50" in rows["extractor"]
    assert "lower = closer" in out
    assert "[not comparable]" in out
    assert "warning: not comparable" in err


def test_json_is_the_whole_answer_and_the_same_as_the_file(folders, tmp_path):
    real, fake = folders
    args = ("eval", "fid", "--real", real, "--fake", fake, "--weights", "random", "--device", "cpu", "--json")
    code, out, _ = invoke(*args, "--out", tmp_path / "eval.json")
    assert code == 0
    report = json.loads(out)
    assert report == json.loads((tmp_path / "eval.json").read_text())
    assert report["comparable"] is False
    assert [score["name"] for score in report["scores"]] == ["fid", "fid_x1000"]


@pytest.mark.parametrize("spelling", [("eval", "msssim"), ("msssim",)])
def test_msssim(folders, spelling):
    real, fake = folders
    code, out, err = invoke(*spelling, "--fake", fake, "--real", real, "--scales", 2)
    assert code == 0, err
    rows = dict(line.split("\t")[:2] for line in out.splitlines())
    assert rows["msssim_pairs"] == "1"
    assert "msssim_real" in rows
    assert "noise lowers it too" in out
    assert "not comparable" in err


def test_small_volumes_are_refused_with_the_rule_and_the_way_out(folders):
    code, out, err = invoke("eval", "msssim", "--fake", folders[1])
    assert (code, out) == (3, "")
    assert "at least 112 voxels a side" in err
    assert "--scales 2" in err


def test_unusable_folders_exit_3_naming_the_file(folders, tmp_path):
    real, fake = folders
    tail = ("--weights", "random", "--device", "cpu")
    code, _, err = invoke("eval", "fid", "--real", real, "--fake", make_folder(tmp_path / "one", 1), *tail)
    assert (code, "sample_000000.nii.gz" in err) == (3, True)
    code, _, err = invoke("eval", "fid", "--real", real, "--fake", real, *tail)
    assert (code, str(real) in err) == (3, True)
    make_folder(tmp_path / "other", size=8)
    (tmp_path / "other" / "sample_000001.nii.gz").rename(fake / "sample_000002.nii.gz")
    code, _, err = invoke("eval", "fid", "--real", real, "--fake", fake, *tail)
    assert (code, "sample_000002.nii.gz: 8×8×8" in err) == (3, True)


def test_missing_weights_exit_5_saying_where_to_get_them(folders):
    real, fake = folders
    code, _, err = invoke("eval", "fid", "--real", real, "--fake", fake, "--weights", "none.pth")
    assert code == 5
    assert "MedicalNet-Resnet50" in err


def test_options_without_effect_are_refused(folders):
    code, _, err = invoke("eval", "msssim", "--fake", folders[1], "--preset", "tiny")
    assert (code, "--real" in err) == (2, True)
    code, _, err = invoke("eval", "msssim", "--fake", folders[1], "--set", "data.image_size=16")
    assert (code, "--preset" in err) == (2, True)


def test_a_raw_data_set_is_prepared_as_the_preset_says(folders, tmp_path):
    rng = np.random.default_rng(0)
    for case in ("BraTS-GLI-00001-000", "BraTS-GLI-00002-000"):
        path = tmp_path / "raw" / case / f"{case}-t1n.nii.gz"
        path.parent.mkdir(parents=True)
        nib.save(nib.Nifti1Image(rng.integers(0, 900, (30, 30, 20)).astype(np.int16), np.eye(4)), path)
    args = ("eval", "fid", "--real", tmp_path / "raw", "--fake", folders[1], "--weights", "random", "--device", "cpu")
    code, _, err = invoke(*args)
    assert (code, "30×30×20" in err, "--preset" in err) == (3, True, True)
    preset = tmp_path / "small.toml"
    preset.write_text("[data]\nimage_size = 16\n[model]\nbase_channels = 32\nchannel_multipliers = [1, 2]\n")
    code, out, err = invoke(*args, "--preset", preset)
    assert code == 0, err
    assert "n = 2" in out


def test_all_scores_of_three_small_volumes_say_what_is_left_out_and_why(folders, tmp_path):
    real, fake = make_folder(tmp_path / "three_real", 3, seed=3), make_folder(tmp_path / "three", 3, seed=4)
    code, out, err = invoke("eval", "all", "--real", real, "--fake", fake, "--weights", "random", "--device", "cpu")
    assert code == 0, err
    names = {line.split("\t")[0] for line in out.splitlines()}
    assert {"fid", "kid", "mmd", "msssim", "msssim_real", "histogram", "spectrum", "n_copies"} <= names
    assert "precision" not in names
    assert "prdc left out: prdc with k = 5 needs at least 6 volumes" in err
    assert "MS-SSIM over 2 scales (weights renormalised) is not comparable" in err


def test_all_scores_name_every_bad_file_before_they_begin(folders):
    real, fake = folders
    array = np.full((16, 16, 16), 0.5, np.float32)
    array[0] = np.nan
    nib.save(nib.Nifti1Image(array, np.eye(4)), fake / "sample_000007.nii.gz")
    hu = np.linspace(-1000, 300, 16**3, dtype=np.float32).reshape(16, 16, 16)
    nib.save(nib.Nifti1Image(hu, np.eye(4)), fake / "sample_000008.nii.gz")
    args = ("--real", real, "--fake", fake, "--weights", "random", "--device", "cpu")
    code, out, err = invoke("eval", "all", *args)
    assert (code, out) == (3, "")
    assert "2 of 4 files cannot be used" in err
    assert "sample_000007.nii.gz" in err
    assert "sample_000008.nii.gz" in err
    assert "CT in HU is read with --intensity fixed-window" in err


def test_single_scores_and_comparison_of_results(folders, tmp_path):
    real, fake = folders
    other = make_folder(tmp_path / "other", seed=5)
    for name, folder in (("a", fake), ("b", other)):
        args = ("--real", real, "--fake", folder, "--out", tmp_path / f"{name}.json")
        assert invoke("eval", "histogram", *args)[0] == 0
    code, out, _ = invoke("eval", "compare", tmp_path / "a.json", tmp_path / "b.json")
    assert code == 0
    assert out.splitlines()[1].startswith("histogram\t")
    make_folder(tmp_path / "more", 3, seed=6)
    args = ("--real", real, "--fake", tmp_path / "more", "--out", tmp_path / "c.json")
    assert invoke("eval", "histogram", *args)[0] == 0
    code, _, err = invoke("eval", "compare", tmp_path / "a.json", tmp_path / "c.json")
    assert code == 3
    assert "unequal n of generated volumes: 2 and 3" in err
    assert "--unequal-n" in err
    code, out, err = invoke("eval", "compare", tmp_path / "a.json", tmp_path / "c.json", "--unequal-n", "--json")
    assert (code, json.loads(out)[0]["name"]) == (0, "histogram")


def test_sanity_exits_3_when_a_file_is_unusable(folders):
    assert invoke("eval", "sanity", "--fake", folders[1])[0] == 0
    (folders[1] / "sample_000009.nii.gz").write_bytes(b"")
    code, out, _ = invoke("eval", "sanity", "--fake", folders[1])
    assert code == 3
    assert "sample_000009.nii.gz\tunusable\tis empty" in out


def test_memorization_with_a_list_of_held_out_files_and_a_picture(tmp_path):
    real, fake = make_folder(tmp_path / "real", 6, seed=1), make_folder(tmp_path / "fake", 2, seed=2)
    listed = tmp_path / "held_out.txt"
    listed.write_text("sample_000004.nii.gz\nsample_000005.nii.gz\n")
    args = ("eval", "memorization", "--real", real, "--fake", fake, "--held-out", listed)
    code, out, err = invoke(*args, "--picture", tmp_path / "closest.png")
    assert code == 0, err
    assert "thresholds from 2 held-out volumes" in out
    assert (tmp_path / "closest.png").read_bytes().startswith(b"\x89PNG")
    listed.write_text("nobody.nii.gz\n")
    code, _, err = invoke(*args)
    assert (code, "nobody.nii.gz" in err) == (3, True)


def test_all_with_the_split_file_says_what_was_held_out(tmp_path):
    real, fake = make_folder(tmp_path / "real", 6, seed=1), make_folder(tmp_path / "fake", 2, seed=2)
    code, _, err = invoke("split", real, "--dataset", "nifti", "--val", "0.4", "--out", tmp_path / "split.json")
    assert code == 0, err
    out = tmp_path / "eval.json"
    code, _, err = invoke("eval", "all", "--real", real, "--fake", fake, "--weights", "random", "--device", "cpu",
                          "--held-out", tmp_path / "split.json", "--out", out)  # fmt: skip
    assert code == 0, err
    assert json.loads(out.read_text())["protocol"]["held_out"]["n"] == 2


@pytest.mark.parametrize("listed", ["sample_000004.nii.gz\n", "nobody.nii.gz\n"])
def test_all_refuses_held_out_volumes_before_it_computes(tmp_path, listed):
    real, fake = make_folder(tmp_path / "real", 6, seed=1), make_folder(tmp_path / "fake", 2, seed=2)
    (tmp_path / "held_out.txt").write_text(listed)
    code, _, err = invoke("eval", "all", "--real", real, "--fake", fake, "--weights", "random", "--device", "cpu",
                          "--held-out", tmp_path / "held_out.txt")  # fmt: skip
    assert code == 3
    assert "features of" not in err
    assert "MS-SSIM" not in err


def test_own_network_needs_trust(folders, tmp_path, monkeypatch):
    real, fake = folders
    (tmp_path / "tiny_net.py").write_text("def build():\n    return lambda v: v.flatten(1)[:, :3]\n")
    monkeypatch.chdir(tmp_path)
    args = ("eval", "kid", "--real", real, "--fake", fake, "--extractor", "tiny_net:build", "--device", "cpu")
    code, _, err = invoke(*args)
    assert (code, "--trust-code" in err) == (2, True)
    code, out, err = invoke(*args, "--trust-code")
    assert code == 0, err
    assert "own network tiny_net:build" in out
    assert invoke("eval", "kid", "--real", real, "--fake", fake)[0] == 2


def commands():
    return [command.name or command.callback.__name__ for command in evaluate_app.registered_commands]


@pytest.mark.parametrize("command", commands())
def test_every_command_is_explained(command):
    result = CliRunner().invoke(app, ["eval", command, "--help"])
    assert result.exit_code == 0
    assert len(result.output.split("Options")[0].split()) > 6
