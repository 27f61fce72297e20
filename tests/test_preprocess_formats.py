"""FreeSurfer volumes, pairs and detached headers: what nibabel and SimpleITK see, with the suspicion for NIfTI."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from wdm_cli.engine.data.phantom import phantom
from wdm_cli.engine.data.volume import write_nifti
from wdm_cli.engine.errors import DataError
from wdm_cli.engine.preprocess import Target, plan_nifti, run
from wdm_cli.engine.preprocess.foreign import HEADER_BYTES, read_volume

AFFINE = np.array([[0, -2.0, 0, 20], [-1.5, 0, 0, 10], [0, 0, 2.5, -30], [0, 0, 0, 1.0]])
HEAD = phantom(0, 16).array[:, :14, :12]


def written(folder: Path) -> Path:
    """One head in every format, by the libraries that define them."""
    folder.mkdir()
    for name in ("a.mgz", "b.mgh"):
        nib.save(nib.MGHImage(HEAD, AFFINE), folder / name)
    nib.save(nib.MGHImage(HEAD.astype(np.uint8), AFFINE), folder / "byte.mgz")
    nib.save(nib.Nifti1Pair(HEAD, AFFINE), folder / "pair.img")
    nib.save(nib.AnalyzeImage(HEAD.astype(np.int16), np.diag([-2.0, 2, 2.5, 1])), folder / "ana.img")
    nib.save(nib.Spm99AnalyzeImage(HEAD / 3, np.diag([-2.0, 2, 2.5, 1])), folder / "spm.img")
    write_nifti(folder / "x.nii", HEAD, AFFINE)
    image = SimpleITK.ReadImage(str(folder / "x.nii"))
    (folder / "x.nii").unlink()
    for name in ("m.mhd", "n.nhdr"):
        SimpleITK.WriteImage(image, str(folder / name))
        SimpleITK.WriteImage(image, str(folder / f"packed_{name}"), True)
    return folder


@pytest.mark.parametrize("name", ["a.mgz", "b.mgh", "byte.mgz", "pair.hdr", "ana.hdr", "spm.hdr"])
def test_formats_of_nibabel(tmp_path: Path, name: str) -> None:
    folder = written(tmp_path / "d")
    name_there = "a.mgz" if name == "b.mgh" else name  # the same voxels; nibabel leaves plain files open
    ours, theirs = read_volume(folder / name), nib.load(folder / name_there)
    np.testing.assert_array_equal(ours.array, theirs.get_fdata(dtype=np.float32))
    assert ours.array.dtype == np.float32
    (folder / "spm.mat").unlink(missing_ok=True)
    np.testing.assert_allclose(ours.affine, nib.load(folder / name_there).affine, atol=1e-5)


@pytest.mark.parametrize("name", ["m.mhd", "packed_m.mhd", "n.nhdr", "packed_n.nhdr"])
def test_headers_with_voxels_beside_them(tmp_path: Path, name: str) -> None:
    volume = read_volume(written(tmp_path / "d") / name)
    np.testing.assert_array_equal(volume.array, HEAD)
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-5)


def test_one_case_a_volume_and_analyze_says_what_it_does_not_know(tmp_path: Path) -> None:
    folder = written(tmp_path / "d")
    (folder / "lonely.img").write_bytes(b"x")
    plan = plan_nifti(folder, Target(modality="mr", size=None, spacing=None))
    entries = {entry.case: entry for entry in run(plan, tmp_path / "out") if entry.case}
    assert sorted(entries) == ["a", "ana", "b", "byte", "m", "n", "packed_m", "packed_n", "pair", "spm"]
    assert {case for case, entry in entries.items() if entry.verdict == "repaired"} == {"ana", "spm"}
    assert "states no orientation" in entries["ana"].repairs[0]
    assert all(entry.output for entry in entries.values())
    settled = {entry.reasons[0]: entry for entry in plan.settled}
    assert settled["voxels of the header beside them"].files == 8  # spm.mat among them
    assert any("without their .hdr" in reason and entry.verdict == "skipped" for reason, entry in settled.items())


def cut(name: str, count: int) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-count])


def named(header: str, old: str, new: str) -> Callable[[Path], object]:
    return lambda folder: (folder / header).write_text((folder / header).read_text().replace(old, new))


def put(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(data)


HOSTILE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "mgz cut": ("a.mgz", cut("a.mgz", 20)),
    "mgh cut": ("b.mgh", cut("b.mgh", 40)),
    "no mgh": ("b.mgh", put("b.mgh", b"x" * 400)),
    "mgh of nothing": ("b.mgh", put("b.mgh", b"\0\0\0\1" + bytes(300))),
    "mgh of too much": (
        "b.mgh",
        put("b.mgh", b"\0\0\0\1" + b"\x7f\xff\xff\xff" * 3 + b"\0\0\0\1\0\0\0\3" + bytes(300)),
    ),
    "mgh with a name of gzip": ("a.mgz", put("a.mgz", b"\0\0\0\1" + bytes(300))),
    "img cut": ("pair.hdr", cut("pair.img", 4)),
    "Analyze cut": ("ana.hdr", cut("ana.img", 4)),
    "no header": ("ana.hdr", put("ana.hdr", b"x" * 400)),
    "half a header": ("pair.hdr", cut("pair.hdr", 200)),
    "no img": ("pair.hdr", lambda folder: (folder / "pair.img").unlink()),
    "raw cut": ("m.mhd", cut("m.raw", 4)),
    "zraw cut": ("packed_m.mhd", cut("packed_m.zraw", 50)),
    "nhdr cut": ("n.nhdr", cut("n.raw", 4)),
    "nhdr gzip cut": ("packed_n.nhdr", cut("packed_n.raw.gz", 50)),
    "no raw": ("m.mhd", lambda folder: (folder / "m.raw").unlink()),
    "raw goes on": ("m.mhd", put("m.raw", bytes(2**22))),
    "claims too much": ("m.mhd", named("m.mhd", "16 14 12", "16 14 99999")),
    "absolute": ("m.mhd", named("m.mhd", "m.raw", "/etc/passwd")),
    "above": ("m.mhd", named("m.mhd", "m.raw", "../d/m.raw")),
    "below": ("m.mhd", named("m.mhd", "m.raw", "sub/m.raw")),
    "list": ("m.mhd", named("m.mhd", "m.raw", "LIST")),
    "pattern": ("m.mhd", named("m.mhd", "m.raw", "m%d.raw 1 2 1")),
    "colon": ("m.mhd", named("m.mhd", "ElementDataFile = m.raw", "ElementDataFile : /etc/passwd")),
    "after a blank line": ("m.mhd", named("m.mhd", "ElementDataFile = m.raw", "\n\nElementDataFile = /etc/passwd")),
    "two": ("m.mhd", named("m.mhd", "ElementDataFile", "ElementDataFile = LOCAL\nElementDataFile")),
    "far behind": (
        "m.mhd",
        named("m.mhd", "ElementDataFile = m", f"Comment = {'x' * HEADER_BYTES}\nElementDataFile = /m"),
    ),
    "nhdr absolute": ("n.nhdr", named("n.nhdr", "n.raw", "/etc/passwd")),
    "nhdr list": ("n.nhdr", named("n.nhdr", "n.raw", "LIST")),
    "nhdr pattern": ("n.nhdr", named("n.nhdr", "n.raw", "n%d.raw 1 2 1")),
}


@pytest.mark.parametrize("fault", HOSTILE)
def test_hostile_files(tmp_path: Path, fault: str, capfd: pytest.CaptureFixture[str]) -> None:
    folder = written(tmp_path / "d")
    name, break_it = HOSTILE[fault]
    read_volume(folder / name)
    break_it(folder)
    with pytest.raises(DataError, match=name.rpartition(".")[0]):
        read_volume(folder / name)


def test_luna16_folders_are_read(tmp_path: Path) -> None:
    """As published: one .mhd with a .raw beside it a scan, HU in int16."""
    hu = np.where(HEAD > 0, 40, -1000).astype(np.int16)
    hu[4:8, 4:8, 4:8] = -800
    folder = tmp_path / "subset0"
    folder.mkdir()
    for number in range(2):
        (folder / f"1.3.6.1.{number}.mhd").write_text(
            "ObjectType = Image\nNDims = 3\nDimSize = 16 14 12\nElementType = MET_SHORT\nElementSpacing = 1 1 2.5\n"
            f"Offset = -1 2 3\nElementDataFile = 1.3.6.1.{number}.raw\n"
        )
        hu.T.tofile(folder / f"1.3.6.1.{number}.raw")
    volume = read_volume(folder / "1.3.6.1.0.mhd")
    np.testing.assert_array_equal(volume.array, hu)
    np.testing.assert_allclose(volume.affine, [[-1, 0, 0, 1], [0, -1, 0, -2], [0, 0, 2.5, 3], [0, 0, 0, 1]])
    target = Target(size=None, spacing=None, intensity="fixed-window")
    made = sorted(entry.verdict for entry in run(plan_nifti(folder, target, "take"), tmp_path / "out"))
    assert made == ["accepted", "accepted", "ignored"]
