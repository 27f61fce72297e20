"""The cache: right voxels, one entry for each file and setting, safe under concurrent builders, damage found."""

import os
import subprocess
import sys

import numpy as np
import pytest

from wdm_cli.engine.data import Brats
from wdm_cli.engine.data.cache import VolumeCache
from wdm_cli.engine.data.phantom import write_phantoms
from wdm_cli.engine.errors import DataError, ResourceError


@pytest.fixture
def heads(tmp_path):
    write_phantoms(tmp_path / "data", 4, size=20)
    return tmp_path / "data"


def entries(folder, pattern="*.npy"):
    return sorted(folder.glob(pattern))


@pytest.mark.parametrize("precision", ["float32", "int16"])
def test_entries_hold_what_load_gives(heads, tmp_path, precision):
    dataset = Brats(image_size=16, cache=precision)
    cache = VolumeCache(dataset, heads, tmp_path / "cache")
    assert cache.bytes_to_write() >= 4 * 16**3 * (4 if precision == "float32" else 2)
    steps = list(cache.build())
    assert [step.done for step in steps] == [1, 2, 3, 4]
    assert all(step.total == 4 and step.seconds > 0 and not step.facts.warning for step in steps)
    assert cache.bytes_to_write() == 0
    assert len(cache) == 4
    assert cache.names == tuple(case.name for case in dataset.find(heads).cases)
    for index, case in enumerate(cache.inventory.cases):
        loaded = dataset.load(case.path)
        tolerance = 0 if precision == "float32" else 0.5 / 32767 + 1e-7
        np.testing.assert_allclose(cache[index], loaded.array, atol=tolerance)
        assert cache[index].dtype == np.float32
        assert cache[index].flags.writeable
        assert cache[index].flags.owndata
    np.testing.assert_allclose(cache.affine, dataset.load(cache.inventory.cases[0].path).affine)


def test_affine_of_a_halved_volume(tmp_path):
    write_phantoms(tmp_path / "data", 1, size=32)
    cache = VolumeCache(Brats(image_size=16), tmp_path / "data", tmp_path / "cache")
    list(cache.build())
    np.testing.assert_allclose(np.diag(cache.affine)[:3], 240 / 16)


def test_a_training_step_never_reads_the_source(heads, tmp_path):
    cache = VolumeCache(Brats(image_size=16), heads, tmp_path / "cache")
    list(cache.build())
    before = cache[2]
    for path in heads.rglob("*.nii.gz"):
        path.unlink()
    np.testing.assert_array_equal(cache[2], before)


def test_only_what_is_missing_damaged_or_changed_is_built(heads, tmp_path):
    folder, dataset = tmp_path / "cache", Brats(image_size=16)

    def built():
        return [step.name for step in VolumeCache(dataset, heads, folder).build() if step.seconds > 0]

    assert len(built()) == 4
    assert built() == []
    first, second, third, _ = entries(folder)
    first.write_bytes(first.read_bytes()[:-1])
    second.write_bytes(b"")
    np.save(third, np.zeros((4, 4, 4), np.float32))
    sidecar = entries(folder, "*.json")[3]
    sidecar.write_text("{")
    assert len(built()) == 4
    assert built() == []
    first.write_bytes(first.read_bytes() + b"x")
    assert built() == ["phantom_0000"]
    source = next(heads.rglob("phantom_0001-t1n.nii.gz"))
    os.utime(source, ns=(1, 1))
    assert built() == ["phantom_0001"]
    times = source.stat().st_mtime_ns
    source.write_bytes(source.read_bytes()[:-9] + bytes(9))  # of the same size, and as old as the one before
    os.utime(source, ns=(1, times))
    with pytest.raises(DataError, match="phantom_0001"):
        built()
    other = source.with_name("other.nii.gz")
    other.write_bytes(next(heads.rglob("phantom_0002-t1n.nii.gz")).read_bytes())
    os.utime(other, ns=(1, times))
    other.rename(source)
    assert built() == ["phantom_0001"]
    dataset = Brats(image_size=8)
    assert len(built()) == 4
    assert len(entries(folder)) == 10


def test_a_missing_entry_is_an_error_that_says_what_to_do(heads, tmp_path):
    cache = VolumeCache(Brats(image_size=16), heads, tmp_path / "cache")
    with pytest.raises(DataError, match="missing or damaged"):
        cache[0]
    with pytest.raises(DataError, match="missing or damaged"):
        _ = cache.affine


def test_broken_files_are_named_after_the_others_are_cached(heads, tmp_path):
    for number in range(7):
        (heads / f"bad{number}-t1n.nii.gz").write_bytes(b"<html>")
    cache = VolumeCache(Brats(image_size=16), heads, tmp_path / "cache")
    steps = []
    with pytest.raises(DataError) as caught:
        steps.extend(iter(cache.build()))
    assert "7 of 11 files cannot be used" in caught.value.what
    assert caught.value.what.count("bad") == 5
    assert "and 2 more" in caught.value.what
    assert len(entries(tmp_path / "cache")) == 4
    for number in range(1, 7):
        (heads / f"bad{number}-t1n.nii.gz").unlink()
    with pytest.raises(DataError, match=r"bad0-t1n.nii.gz: its name says gzip, but it is a web page"):
        list(VolumeCache(Brats(image_size=16), heads, tmp_path / "cache").build())


def test_a_vanished_file_is_an_error(heads):
    inventory = Brats().find(heads)
    inventory.cases[1].path.unlink()
    with pytest.raises(DataError, match=r"phantom_0001-t1n\.nii\.gz: cannot be read"):
        VolumeCache(Brats(), inventory, heads)


def test_warnings_are_told_again_from_the_cache(tmp_path):
    from wdm_cli.engine.data import Nifti
    from wdm_cli.engine.data.volume import write_nifti

    write_nifti(tmp_path / "a.nii.gz", np.random.default_rng(0).normal(size=(17, 16, 16)).astype(np.float32), np.eye(4))
    for _ in range(2):
        (step,) = VolumeCache(Nifti(image_size=16), tmp_path, tmp_path / "cache").build()
        assert "anatomy cropped by 0/1, 0/0, 0/0 mm" in step.facts.warning


def test_too_little_space_is_said_before_the_start(heads, tmp_path, monkeypatch):
    import shutil
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, 1000))
    with pytest.raises(ResourceError, match=r"cannot write .*cache: it needs \d+ MB") as error:
        next(VolumeCache(Brats(image_size=128), heads, tmp_path / "cache").build())
    assert "--set data.cache=int16 (half the size)" in error.value.hint
    with pytest.raises(ResourceError) as error:
        next(VolumeCache(Brats(image_size=128, cache="int16"), heads, tmp_path / "cache").build())
    assert "int16" not in error.value.hint
    assert not (tmp_path / "cache").exists()


def test_a_full_disk_leaves_nothing_half_written(heads, tmp_path, monkeypatch):
    import errno

    def full(file, header):
        file.write(b"part")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", full)
    with pytest.raises(ResourceError, match="no space left"):
        list(VolumeCache(Brats(image_size=16), heads, tmp_path / "cache").build())
    assert entries(tmp_path / "cache") == []
    assert entries(tmp_path / "cache", "**/*part*") == []


SCRIPT = """
import sys
from pathlib import Path
from wdm_cli.engine.data import Brats
from wdm_cli.engine.data.cache import VolumeCache

if __name__ == "__main__":
    data, folder = map(Path, sys.argv[1:])
    cache = VolumeCache(Brats(image_size=16), data, folder)
    assert len(list(cache.build(workers=2))) == len(cache) == 12
    assert "torch" not in sys.modules
    print(sum(float(cache[i].sum()) for i in range(12)))
"""


def test_two_processes_with_two_workers_each_build_one_cache(tmp_path):
    write_phantoms(tmp_path / "data", 12, size=20)
    script = tmp_path / "build.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(tmp_path / "data"), str(tmp_path / "cache")]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [run.communicate(timeout=60) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], answers
    cache = VolumeCache(Brats(image_size=16), tmp_path / "data", tmp_path / "cache")
    assert all(step.seconds == 0 for step in cache.build())
    expected = sum(float(Brats(image_size=16).load(case.path).array.sum()) for case in cache.inventory.cases)
    assert [float(out) for out, _ in answers] == pytest.approx([expected] * 2)
    assert len(entries(tmp_path / "cache", "*")) == 24
