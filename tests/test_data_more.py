"""ADNI, MRNet and fastMRI: found by their names, read with their own formats, damaged files named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from wdm_cli.engine.data import Adni, FastMri, MrNet, guess_kind
from wdm_cli.engine.data.patients import recognise
from wdm_cli.engine.data.volume import write_nifti
from wdm_cli.engine.errors import DataError

STACK = np.random.default_rng(0).integers(0, 255, (17, 32, 24)).astype(np.uint8)
EXPORT = "ADNI_002_S_0295_MR_MPR__GradWarp_Br_S13408_I118671"
HEADER = """<?xml version="1.0"?><ismrmrdHeader><encoding>
<encodedSpace><matrixSize><x>640</x><y>372</y><z>1</z></matrixSize></encodedSpace>
<reconSpace><matrixSize><x>32</x><y>24</y><z>1</z></matrixSize>
<fieldOfView_mm><x>16</x><y>18</y><z>4.5</z></fieldOfView_mm></reconSpace></encoding></ismrmrdHeader>"""


def test_adni(tmp_path: Path) -> None:
    volume = STACK.astype(np.float32)
    for name in (EXPORT, "sub-ADNI002S0295_ses-M00_T1w", "sub-ADNI002S0295_ses-M00_FLAIR", f"{EXPORT}_mask", "x"):
        write_nifti(tmp_path / "deep" / f"{name}.nii.gz", volume, np.eye(4))
    assert guess_kind(tmp_path) == "adni"
    found = Adni(image_size=32).find(tmp_path)
    assert [case.name for case in found.cases] == [EXPORT, "sub-ADNI002S0295_ses-M00_T1w"]
    assert found.reasons() == {
        "not named as in ADNI": 1, "other contrast (FLAIR)": 1, "label map or mask by its name": 1,
    }  # fmt: skip
    assert [recognise(case.name) for case in found.cases] == ["ADNI_002_S_0295"] * 2
    assert Adni(image_size=32).load(found.cases[0].path).shape == (32, 32, 32)


def test_mrnet(tmp_path: Path) -> None:
    for plane in ("axial", "sagittal"):
        for part, number in (("train", "0000"), ("valid", "1130")):
            (tmp_path / part / plane).mkdir(parents=True, exist_ok=True)
            np.save(tmp_path / part / plane / f"{number}.npy", STACK)
    (tmp_path / "train-acl.csv").write_text("0000,0")
    assert guess_kind(tmp_path) == "mrnet"
    data = MrNet(image_size=32)
    found = data.find(tmp_path)
    assert [case.name for case in found.cases] == ["0000", "1130"]
    assert found.reasons() == {"other plane (axial)": 2, "text, tables, pictures": 1}
    raw = data.read(found.cases[0].path)
    assert raw.shape == (24, 32, 17)
    assert raw.array[5, 7, 3] == STACK[3, 7, 5]
    assert nib.aff2axcodes(raw.affine) == ("P", "I", "L")  # columns, rows and slices of a sagittal stack
    axial = MrNet(plane="axial").find(tmp_path).cases[0].path
    assert nib.aff2axcodes(data.read(axial).affine) == ("L", "P", "I")
    volume = data.load(found.cases[0].path)
    assert volume.shape == (32, 32, 32)
    assert (volume.array.min(), volume.array.max()) == (-1, 1)


@pytest.mark.parametrize("kind", ["pickle", "flat", "complex", "cut", "empty", "constant", "header"])
def test_hostile_stacks(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "sagittal" / "0000.npy"
    path.parent.mkdir()
    wrong: dict[str, Any] = {
        "pickle": np.array([[["x", None]]], dtype=object),
        "flat": STACK[0],
        "complex": STACK + 1j,
        "constant": STACK * 0,
    }
    np.save(path, wrong.get(kind, STACK), allow_pickle=True)
    if kind in ("cut", "empty"):
        path.write_bytes(path.read_bytes()[: 200 if kind == "cut" else 0])
    if kind == "header":
        path.write_bytes(path.read_bytes().replace(b"}", b"{"))
    with pytest.raises(DataError, match=r"0000\.npy"):
        MrNet().read(path)


def write_h5(path: Path, key: str = "reconstruction_rss", acquisition: str = "AXT2", header: str = HEADER) -> Path:
    h5py = pytest.importorskip("h5py")
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset(key, data=STACK.astype(np.float32) * 1e-6)
        file.create_dataset("ismrmrd_header", data=header)
        file.attrs["acquisition"], file.attrs["patient_id"] = acquisition, "0f1e2d"
    return path


def test_fastmri(tmp_path: Path) -> None:
    brain = write_h5(tmp_path / "brain" / "file_brain_AXT2_200_2000019.h5")
    knee = write_h5(tmp_path / "knee" / "file1000001.h5", "reconstruction_esc", "CORPD_FBK")
    write_h5(tmp_path / "other.h5")
    assert guess_kind(tmp_path) == "fastmri"
    assert [case.path for case in FastMri().find(tmp_path).cases] == [knee, brain]
    only = FastMri(acquisition="CORPD_FBK", image_size=32).find(tmp_path)
    assert [case.path for case in only.cases] == [knee]
    assert only.reasons() == {"other acquisition (AXT2)": 1, "not named as in fastMRI": 1}
    raw = FastMri().read(brain)
    assert raw.spacing == pytest.approx((0.5, 0.75, 4.5))
    assert raw.array[5, 7, 3] == pytest.approx(STACK[3, 7, 5] * 1e-6)
    assert FastMri(image_size=32).load(knee).shape == (32, 32, 32)


def test_hostile_h5(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    good = write_h5(tmp_path / "file1.h5")
    bad = {
        "kspace": write_h5(tmp_path / "file2.h5", "kspace"),
        "header": write_h5(tmp_path / "file3.h5", header="<x/>"),
    }
    for name in ("cut", "link", "bomb"):
        bad[name] = tmp_path / f"file_{name}.h5"
    bad["cut"].write_bytes(good.read_bytes()[:3000])
    with h5py.File(bad["link"], "w") as file:
        file["reconstruction_rss"] = h5py.ExternalLink(str(good), "reconstruction_rss")
    with h5py.File(bad["bomb"], "w") as file:
        file.create_dataset("reconstruction_rss", (4000, 4000, 4000), "f4", chunks=(1, 100, 100))
    words = {"kspace": "no reconstruction", "header": "no field of view", "cut": "damaged", "link": "no reconstruction"}
    for name, path in bad.items():
        with pytest.raises(DataError, match=words.get(name, "claims 4000×4000×4000")) as caught:
            FastMri().read(path)
        assert path.name in caught.value.what
