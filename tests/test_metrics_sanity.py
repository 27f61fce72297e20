"""`sanity` finds every planted fault, names the file, and says nothing about good folders."""

import nibabel as nib
import numpy as np
import pytest

from wdm_cli.engine.evaluate import finish
from wdm_cli.engine.metrics.sanity import inspect
from wdm_cli.engine.metrics.volumes import Intensity


def save(path, array, affine=None):
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(4):
        save(tmp_path / f"good{i}.nii.gz", rng.uniform(0, 0.9, size=(8, 8, 8)).astype(np.float32))
    return tmp_path


def texts(result):
    return {(f.file.name, f.level): f.text for f in result.findings}


def test_nothing_to_say_about_a_good_folder(folder):
    result = finish(inspect(folder))
    assert result.findings == ()
    assert result.n == 4
    assert result.shapes == {"8×8×8": 4}
    assert result.orientations == {"RAS": 4}


def test_every_fault_is_named(folder):
    rng = np.random.default_rng(1)
    good = rng.uniform(0, 0.9, size=(8, 8, 8)).astype(np.float32)
    nan = good.copy()
    nan[0, 0, 0] = np.nan
    save(folder / "nan.nii.gz", nan)
    save(folder / "constant.nii.gz", np.zeros((8, 8, 8), np.float32))
    save(folder / "range.nii.gz", good * 300)
    save(folder / "shape.nii.gz", good[:6])
    (folder / "cut.nii.gz").write_bytes((folder / "good0.nii.gz").read_bytes()[:300])
    save(folder / "clipped.nii.gz", (good * 1.5).clip(0, 1))
    save(folder / "flat.nii.gz", (good * 1e-3).astype(np.float32))
    save(folder / "zcopy.nii.gz", np.asarray(nib.load(folder / "good1.nii.gz").dataobj), np.diag([1, 1, 1, 1.0]))
    save(folder / "turned.nii.gz", rng.uniform(0, 0.9, size=(8, 8, 8)).astype(np.float32), np.diag([-1, 1, 2, 1.0]))
    result = finish(inspect(folder))
    found = texts(result)
    assert "NaN" in found["nan.nii.gz", "unusable"]
    assert "every voxel is 0" in found["constant.nii.gz", "unusable"]
    assert "do not lie in [0, 1]" in found["range.nii.gz", "unusable"]
    assert "6×8×8" in found["shape.nii.gz", "unusable"]
    assert ("cut.nii.gz", "unusable") in found
    assert "clipped?" in found["clipped.nii.gz", "suspicious"]
    assert "nearly empty" in found["flat.nii.gz", "suspicious"]
    assert found["zcopy.nii.gz", "suspicious"] == "the same voxels as good1.nii.gz"
    turned = [f.text for f in result.findings if f.file.name == "turned.nii.gz"]
    assert any("orientation LAS" in text for text in turned)
    assert any("spacing 1 × 1 × 2" in text for text in turned)
    assert len(result.unusable) == 5
    assert not any(name.startswith("good") for name, _ in found)
    levels = [f.level for f in result.findings]
    assert levels == sorted(levels, key=lambda level: level != "unusable")


def test_the_scheme_decides_what_is_out_of_range(folder):
    result = finish(inspect(folder, Intensity("fixed-window")))
    assert len(result.unusable) == 4
    assert all("no HU" in finding.text for finding in result.unusable)
