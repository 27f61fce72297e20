"""Evaluation of folders: what is read, what is refused, what is kept, what is stamped."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch

from wdm_cli.engine import evaluate
from wdm_cli.engine.errors import ConfigError, DataError
from wdm_cli.engine.metrics import FID, METRICS, MSSSIM
from wdm_cli.engine.metrics.extractor import Extractor
from wdm_cli.engine.metrics.fid import frechet_distance
from wdm_cli.engine.metrics.volumes import Intensity, open_folder


def pooled(volumes):
    """Features that can be computed by hand: the means of the eight octants."""
    return torch.nn.functional.adaptive_avg_pool3d(volumes, 2).flatten(1)


EXTRACTOR = Extractor("octants", "0" * 64, pooled, torch.device("cpu"))


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)


def make_folder(path, n=4, size=16, seed=0):
    rng = np.random.default_rng(seed)
    for i in range(n):
        save(path / f"sample_{i:06d}.nii.gz", rng.uniform(size=(size,) * 3).astype(np.float32))
    return path


@pytest.fixture
def folders(tmp_path):
    return make_folder(tmp_path / "real", seed=1), make_folder(tmp_path / "fake", seed=2)


def read(folder):
    return [np.asarray(nib.load(path).dataobj) for path in sorted(folder.glob("*.nii.gz"))]


def test_fid_is_the_distance_of_the_features_of_every_file(folders):
    real, fake = folders
    report = evaluate.fid(real, fake, EXTRACTOR)
    a, b = (pooled(torch.tensor(np.stack(read(folder)))[:, None]).numpy() for folder in folders)
    assert report["fid"] == pytest.approx(frechet_distance(a, b), rel=1e-9)
    assert report.protocol["real"]["n"] == report.protocol["fake"]["n"] == 4


def test_only_nifti_files_count(folders):
    real, fake = folders
    before = evaluate.fid(real, fake, EXTRACTOR)["fid"]
    for name in ("samples.csv", "preview.png", "sample_000009.nii.gz.txt"):
        (fake / name).write_text("x")
    save(fake / ".partial" / "1-sample_000005.nii.gz", np.zeros((3, 3, 3), np.float32))
    assert evaluate.fid(real, fake, EXTRACTOR)["fid"] == before


def test_msssim_has_the_real_value_beside_it(tmp_path):
    real, fake = make_folder(tmp_path / "real", 3, 16, 1), make_folder(tmp_path / "fake", 3, 16, 2)
    metrics = [MSSSIM(scales=1)]
    report = evaluate.finish(evaluate.run(metrics, open_folder(fake), open_folder(real)))
    alone = evaluate.finish(evaluate.run(metrics, open_folder(real)))
    assert report["msssim_real"] == alone["msssim"]
    assert report["msssim_pairs"] == 3
    assert not report.comparable
    with pytest.raises(DataError, match="needs at least 112 voxels a side"):
        evaluate.msssim(fake)


def test_features_are_kept_and_an_interrupted_run_continues(folders, tmp_path):
    real, fake = folders
    calls = []

    def counted(volumes):
        calls.append(1)
        return pooled(volumes)

    extractor = Extractor("octants", "1" * 64, counted, torch.device("cpu"))
    options = evaluate.Options(cache_dir=tmp_path / "cache")
    steps = evaluate.run([FID()], open_folder(fake), open_folder(real), extractor, options)
    for _ in range(6):
        next(steps)
    steps.close()
    assert len(calls) == 6
    first = evaluate.fid(real, fake, extractor, options)
    assert len(calls) == 8
    assert evaluate.fid(real, fake, extractor, options) == first
    assert len(calls) == 8
    for kept in (tmp_path / "cache" / "features").iterdir():
        kept.write_bytes(b"damaged")
    assert evaluate.fid(real, fake, extractor, options) == first
    assert len(calls) == 16


def test_kept_features_belong_to_file_extractor_and_scheme(folders, tmp_path):
    real, fake = folders
    options = evaluate.Options(cache_dir=tmp_path / "cache")
    first = evaluate.fid(real, fake, EXTRACTOR, options)["fid"]
    other = Extractor("scaled", "2" * 64, lambda v: 3 * pooled(v), torch.device("cpu"))
    assert evaluate.fid(real, fake, other, options)["fid"] == pytest.approx(9 * first)
    save(fake / "sample_000000.nii.gz", np.linspace(0, 1, 16**3, dtype=np.float32).reshape(16, 16, 16))
    assert evaluate.fid(real, fake, EXTRACTOR, options)["fid"] != first


def test_mixed_shapes_name_the_first_odd_file(folders):
    real, fake = folders
    save(fake / "sample_000002.nii.gz", np.random.default_rng(0).uniform(size=(16, 16, 18)).astype(np.float32))
    with pytest.raises(
        DataError, match=r"sample_000002.nii.gz: 16×16×18 voxels, but sample_000000.nii.gz has 16×16×16"
    ):
        evaluate.fid(real, fake, EXTRACTOR)


def test_real_and_fake_of_other_sizes(folders, tmp_path):
    _, fake = folders
    with pytest.raises(DataError, match="8×8×8") as error:
        evaluate.fid(make_folder(tmp_path / "small", size=8), fake, EXTRACTOR)
    assert "16×16×16" in error.value.what
    assert "--preset" in error.value.hint


def test_nan_names_the_file(folders):
    real, fake = folders
    array = np.random.default_rng(0).uniform(size=(16, 16, 16)).astype(np.float32)
    array[3, 4, 5] = np.nan
    save(fake / "sample_000001.nii.gz", array)
    with pytest.raises(DataError, match=r"sample_000001.nii.gz.*NaN"):
        evaluate.fid(real, fake, EXTRACTOR)


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_volumes(folders, tmp_path, n):
    real, _ = folders
    (tmp_path / "few").mkdir()
    make_folder(tmp_path / "few", n)
    with pytest.raises(DataError, match=f"few: {n} NIfTI file"):
        evaluate.fid(real, tmp_path / "few", EXTRACTOR)


def test_same_folder_or_same_files_are_refused(folders, tmp_path):
    real, _ = folders
    with pytest.raises(DataError, match="same folder"):
        evaluate.fid(real, real / ".." / "real", EXTRACTOR)
    with pytest.raises(DataError, match="same files"):
        evaluate.fid(real, shutil.copytree(real, tmp_path / "copy"), EXTRACTOR)


def test_copied_files_unequal_n_and_small_n_are_warned_of(folders):
    real, fake = folders
    shutil.copy(real / "sample_000000.nii.gz", fake / "sample_000004.nii.gz")
    warnings = " ".join(evaluate.fid(real, fake, EXTRACTOR).warnings)
    assert "1 generated files are byte for byte real ones, e.g. sample_000004.nii.gz" in warnings
    assert "4 real and 5 generated" in warnings
    assert "n = 4 is below the 8 feature dimensions" in warnings


def test_paper_scheme_refuses_values_outside_the_unit_range(folders):
    real, fake = folders
    save(fake / "sample_000003.nii.gz", np.random.default_rng(0).integers(-1000, 1000, (16, 16, 16)).astype(np.int16))
    with pytest.raises(
        DataError, match=r"sample_000003.nii.gz: values from -\d+ to \d+ do not lie in \[0, 1\]"
    ) as error:
        evaluate.fid(real, fake, EXTRACTOR)
    assert "--intensity fixed-window" in error.value.hint


def hu_folder(path, seed, window=None):
    rng = np.random.default_rng(seed)
    for i in range(2):
        save(path / f"{i}.nii.gz", rng.integers(-1100, 1500, (8, 8, 8)).astype(np.int16))
    if window:
        data = {"intensity": "fixed-window", "window": window}
        (path / "run.json").write_text(json.dumps({"preset": {"data": data}}))
    return path


def test_fixed_window_comes_from_run_json_or_the_caller(tmp_path):
    recorded = open_folder(hu_folder(tmp_path / "a", 0, [-1000, 1000]))
    asked = open_folder(hu_folder(tmp_path / "b", 0), Intensity("fixed-window"))
    raw = read(tmp_path / "b")[0]
    np.testing.assert_allclose(asked[0], ((raw + 1000) / 2000).clip(0, 1), atol=1e-6)
    np.testing.assert_array_equal(asked[0], recorded[0])
    other = open_folder(hu_folder(tmp_path / "c", 1, [-160, 240]))
    np.testing.assert_allclose(other[0], ((read(tmp_path / "c")[0] + 160) / 400).clip(0, 1), atol=1e-6)
    with pytest.raises(DataError, match="fixed-window"):
        evaluate.finish(evaluate.run([FID()], other, recorded, EXTRACTOR))


def test_fixed_window_refuses_volumes_of_the_unit_range(folders):
    with pytest.raises(DataError, match="are no HU"):
        open_folder(folders[0], Intensity("fixed-window"))[0]


def test_unreadable_run_json_and_unknown_scheme(folders):
    (folders[1] / "run.json").write_text("{")
    with pytest.raises(DataError, match=r"run.json: does not state"):
        open_folder(folders[1])
    with pytest.raises(ConfigError, match="unknown intensity scheme"):
        Intensity("log")


def test_features_that_overflow_name_the_file(folders):
    broken = Extractor("broken", "3" * 64, lambda v: pooled(v) / 0, torch.device("cpu"))
    with pytest.raises(DataError, match=r"sample_000000.nii.gz: its features .network. are not finite"):
        evaluate.fid(*folders, broken)


def test_the_stamp_says_what_was_compared_by_what(folders):
    real, fake = folders
    report = evaluate.fid(real, fake, EXTRACTOR, evaluate.Options(seed=7))
    stamp = json.loads(json.dumps(report.to_dict()))["protocol"]
    assert stamp["shape"] == [16, 16, 16]
    assert stamp["intensity"] == {"scheme": "paper"}
    assert stamp["extractor"]["sha256"] == "0" * 64
    assert stamp["seed"] == 7
    assert {"wdm", "torch", "numpy"} <= set(stamp["versions"])
    (fake / "sample_000000.nii.gz").rename(fake / "renamed.nii.gz")
    again = evaluate.fid(real, fake, EXTRACTOR).protocol["fake"]["files_sha256"]
    assert again == stamp["fake"]["files_sha256"]  # contents count, names do not


def test_registry_needs_no_torch_and_kinds_are_unique():
    import subprocess
    import sys

    code = "import sys, wdm_cli.engine.metrics; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    kinds = [metric().kind for metric in METRICS]
    assert len(set(kinds)) == len(kinds)
    assert all(metric.directions for metric in METRICS)
