"""Reading with suspicion: every hostile file of the catalogue is refused by name, every sound one read right."""

import gzip
import os
import pathlib
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from wdm_cli.engine.data.volume import Volume, read_nifti, write_nifti
from wdm_cli.engine.errors import DataError

AFFINE = np.array([[-2, 0, 0, 90], [0, -2, 0, 100.0], [0, 0, 2.5, -70], [0, 0, 0, 1]])


def ramp(shape=(9, 8, 7), dtype=np.float32):
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def save(path, array, affine=AFFINE, **header):
    """Write with nibabel, then set raw header fields."""
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    if header:
        patch(path, **header)
    return path


def patch(path, **fields):
    """Overwrite fields of a NIfTI-1 header in place, whatever the library thinks of them."""
    raw = bytearray(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())
    block = np.frombuffer(bytes(raw[:348]), nib.Nifti1Header.template_dtype).copy()
    for name, value in fields.items():
        block[name][...] = value
    raw[:348] = block.tobytes()
    path.write_bytes(gzip.compress(bytes(raw)) if path.suffix == ".gz" else bytes(raw))
    return path


def refused(path, *words):
    with pytest.raises(DataError) as caught:
        read_nifti(path)
    for word in (str(path), *words):
        assert word in caught.value.what
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32, np.float64, ">i2"])
def test_sound_files_are_read_exactly(tmp_path, suffix, dtype):
    array = ramp((5, 6, 7), np.int16).astype(dtype)
    volume = read_nifti(save(tmp_path / f"a{suffix}", array))
    assert volume.array.dtype == np.float32
    assert volume.array.flags.c_contiguous
    np.testing.assert_array_equal(volume.array, array.astype(np.float32))
    np.testing.assert_allclose(volume.affine, AFFINE)
    assert volume.spacing == (2.0, 2.0, 2.5)


def test_nifti2_and_units(tmp_path):
    nib.save(nib.Nifti2Image(ramp(), AFFINE), tmp_path / "two.nii.gz")
    np.testing.assert_array_equal(read_nifti(tmp_path / "two.nii.gz").array, ramp())
    metres = save(tmp_path / "m.nii", ramp(), AFFINE / 1000, xyzt_units=1)
    np.testing.assert_allclose(read_nifti(metres).spacing, (2, 2, 2.5), rtol=1e-6)


def test_slope_and_intercept_are_applied_once(tmp_path):
    path = save(tmp_path / "s.nii.gz", ramp(dtype=np.int16), scl_slope=0.5, scl_inter=-1024)
    np.testing.assert_allclose(read_nifti(path).array, ramp() * 0.5 - 1024)
    np.testing.assert_allclose(read_nifti(path).array, nib.load(path).get_fdata())


@pytest.mark.parametrize("slope", [0.0, np.nan, np.inf])
def test_no_slope_means_no_scaling(tmp_path, slope):
    path = save(tmp_path / "s.nii.gz", ramp(dtype=np.int16), scl_slope=slope, scl_inter=7)
    np.testing.assert_array_equal(read_nifti(path).array, ramp())


def test_fourth_axis_of_one_is_dropped(tmp_path):
    np.testing.assert_array_equal(read_nifti(save(tmp_path / "a.nii.gz", ramp()[..., None])).array, ramp())


def test_rows_35_to_37_files_that_are_not_what_they_seem(tmp_path):
    whole = save(tmp_path / "whole.nii.gz", np.random.default_rng(0).normal(size=(9, 8, 7))).read_bytes()
    plain = gzip.decompress(whole)
    bad = {
        "empty.nii.gz": (b"", "empty"),
        "header.nii.gz": (whole[:60], "truncated"),
        "half.nii.gz": (whole[: len(whole) // 2], "truncated"),
        "trailer.nii.gz": (whole[:-8], "truncated"),
        "trailer4.nii.gz": (whole[:-4], "truncated"),
        "crc.nii.gz": (whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:], "damaged"),
        "length.nii.gz": (whole[:-1] + b"\x01", "damaged"),
        "page.nii.gz": (b"<!DOCTYPE html><html>404</html>" * 30, "a web page"),
        "plain.nii.gz": (plain, "a plain .nii file"),
        "packed.nii": (whole, "a gzip file"),
        "pointer.nii.gz": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git-lfs pointer"),
        "short.nii": (plain[:-100], "too short"),
        "short.nii.gz": (gzip.compress(plain[:-100]), "truncated: 3,932 of 4,032 bytes"),
        "tiny.nii.gz": (gzip.compress(plain[:100]), "not a NIfTI file"),
        "dicom.nii": (b"\0" * 128 + b"DICM" + b"\0" * 400, "a DICOM file"),
        "pair.nii": (plain[:344] + b"ni1\0" + plain[348:], ".hdr/.img"),
        "long.nii.gz": (gzip.compress(plain + b"\0" * 2**21), "goes on after its last voxel"),
    }
    for name, (content, word) in bad.items():
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, word)
    refused(tmp_path / "none.nii.gz", "no such file")
    refused(tmp_path, "")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_row_38_not_finite(tmp_path, value):
    array = ramp()
    array[2, 3, 4] = array[8, 7, 6] = value
    refused(save(tmp_path / "n.nii.gz", array), "2 voxels are NaN or infinite, the first at (2, 3, 4)")


def test_row_38_overflow_to_infinity(tmp_path):
    refused(save(tmp_path / "n.nii.gz", ramp(dtype=np.float64) * 1e38), "infinite")


def test_rows_39_to_41_shapes_without_a_volume(tmp_path):
    refused(save(tmp_path / "constant.nii.gz", np.full((5, 5, 5), 3.0)), "every voxel is 3")
    refused(save(tmp_path / "series.nii.gz", np.stack([ramp(), ramp()], -1)), "4 dimensions (9×8×7×2)")
    refused(save(tmp_path / "flat.nii.gz", ramp()[0]), "slice (8×7)")
    refused(save(tmp_path / "thin.nii.gz", ramp()[:1]), "slice (1×8×7)")
    refused(save(tmp_path / "dims.nii.gz", ramp(), dim=(3, 9, -8, 7, 1, 1, 1, 1)), "impossible dimensions")


@pytest.mark.parametrize("size", [0.0, np.nan, np.inf])
def test_row_42_voxel_size(tmp_path, size):
    refused(save(tmp_path / "p.nii.gz", ramp(), pixdim=(1, 2, size, 2, 0, 0, 0, 0)), "voxel size")


def test_affines_that_say_nothing(tmp_path):
    refused(save(tmp_path / "s.nii.gz", ramp(), srow_x=0), "affine is singular")
    refused(save(tmp_path / "n.nii.gz", ramp(), srow_x=np.nan), "affine is singular or not finite")
    refused(save(tmp_path / "q.nii.gz", ramp(), sform_code=0, qform_code=1, quatern_b=2), "orientation is damaged")


def test_row_45_colours_and_complex_numbers(tmp_path):
    rgb = np.zeros((5, 5, 5), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    refused(save(tmp_path / "rgb.nii.gz", rgb), "RGB")
    refused(save(tmp_path / "complex.nii.gz", ramp() * 1j), "complex")
    refused(save(tmp_path / "type.nii.gz", ramp(), datatype=999), "unknown voxel type 999")


def test_rows_46_47_lying_headers_and_bombs_are_refused_before_memory_is_taken(tmp_path):
    lying = save(tmp_path / "lying.nii.gz", ramp(dtype=np.uint8), dim=(3, 32767, 32767, 32767, 1, 1, 1, 1))
    bomb = tmp_path / "bomb.nii.gz"
    header = nib.Nifti1Image(ramp(dtype=np.uint8), AFFINE).header
    header["dim"][1:4] = 640
    with gzip.open(bomb, "wb", compresslevel=1) as file:
        file.write(bytearray(header.binaryblock) + bytes(4))
        for _ in range(256):
            file.write(bytes(2**20))
    long = patch(save(tmp_path / "far.nii.gz", ramp(dtype=np.uint8)), vox_offset=3e9)
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "import nibabel, peak\n"
        "from wdm_cli.engine.data.volume import read_nifti\n"
        "from wdm_cli.engine.errors import DataError\n"
        "before = peak.reset()\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n"
        "        read_nifti(Path(name), max_bytes=2**28)\n"
        "    except DataError as error:\n"
        "        print(error.what)\n"
        "print((peak.peak() - before) // 2**20)\n"
    )
    command, here = [sys.executable, "-c", code, lying, bomb, long], pathlib.Path(__file__).parent
    run = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": str(here)}
    )
    first, second, third, grown = run.stdout.splitlines()
    assert "32767×32767×32767" in first
    assert "640×640×640" in second
    assert "byte 3e+09" in third
    assert int(grown) < 50, f"{grown} MiB were taken"


def test_claims_beyond_what_a_gzip_can_hold(tmp_path):
    path = save(tmp_path / "claim.nii.gz", ramp(dtype=np.uint8), dim=(3, 500, 500, 500, 1, 1, 1, 1))
    refused(path, "500×500×500", "too short")


def test_single_bit_flips_are_found(tmp_path):
    """200 flips anywhere: refused, or in the few bits that carry nothing (gzip's time stamp) harmless."""
    draw = np.random.default_rng(5)
    path = tmp_path / "whole.nii.gz"
    write_nifti(path, draw.integers(0, 900, (12, 11, 10)).astype(np.int16), AFFINE)
    whole, array = path.read_bytes(), read_nifti(path).array
    found = harmless = 0
    for bit in draw.choice(len(whole) * 8, 200, replace=False):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(bytes(flipped))
        try:
            same = np.array_equal(read_nifti(path).array, array)
        except DataError:
            found += 1
            continue
        harmless += 1
        assert same
        assert bit // 8 < 30, f"bit {bit} was not found"
    assert found + harmless == 200
    assert found >= 195


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_written_files_say_everything_and_are_reproducible(tmp_path, dtype):
    array = (ramp() - 200).astype(dtype)
    first, second = tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"
    write_nifti(first, array, AFFINE)
    write_nifti(second, array, AFFINE)
    assert first.read_bytes() == second.read_bytes()
    image = nib.load(first)
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 1)
    assert image.header.get_xyzt_units()[0] == "mm"
    assert image.get_data_dtype() == dtype
    np.testing.assert_allclose(image.get_qform(), AFFINE, atol=1e-5)
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), array)
    volume = read_nifti(first)
    np.testing.assert_array_equal(volume.array, array.astype(np.float32))
    np.testing.assert_allclose(volume.affine, AFFINE)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.nii.gz", "b.nii.gz"]


def test_inputs_are_not_written_to(tmp_path):
    path = save(tmp_path / "a.nii.gz", ramp())
    before = path.read_bytes(), path.stat().st_mtime_ns
    read_nifti(path)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_volume_knows_its_spacing_when_axes_are_turned():
    turned = np.array([[0, 0, 3.0, 0], [1, 0, 0, 0], [0, -2, 0, 0], [0, 0, 0, 1]])
    assert Volume(ramp(), turned).spacing == (1.0, 2.0, 3.0)
