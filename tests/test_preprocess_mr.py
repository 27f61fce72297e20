"""MR as DICOM: geometry at any angle, images under one UID told apart, hostile series, nothing identifying gets out."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from command import start, wdm
from dicom_factory import SIDE, SLICES, dataset, mr_slice, only, phantom, series_uid, without, write, write_series
from pydicom.uid import UID, RLELossless
from test_preprocess_run import tree
from test_preprocess_safety import PLANTED

from wdm_cli.engine.data import Adni, guess_kind
from wdm_cli.engine.data.patients import recognise
from wdm_cli.engine.data.transforms import unit_mr
from wdm_cli.engine.data.volume import read_nifti
from wdm_cli.engine.dicom import Policy, scan
from wdm_cli.engine.errors import ConfigError, DataError
from wdm_cli.engine.preprocess import Entry, Plan, Target, plan_mr, tally

NATIVE = Target(modality="mr", size=None, spacing=None)
Change = Callable[[int, Any], Any]
Build = Callable[[Path], object]


def mr(*changes: Change, **options: Any) -> Build:
    """A series of MR slices; `changes` one after another."""

    def change(number: int, ds: Any) -> Any:
        for one in (mr_slice, *changes):
            ds = one(number, ds) if ds is not None else None
        return ds

    return lambda folder: write_series(folder, change, **options)


def planned(folder: Path, policy: Policy | None = None, target: Target = NATIVE, protocol: str = "") -> Plan:
    return plan_mr(scan(folder), folder, policy or Policy(), target, protocol)


def outcome(folder: Path, policy: Policy | None = None) -> list[Entry]:
    """Verdicts after headers and pixels."""
    plan = planned(folder, policy)
    entries = list(plan.settled)
    for job in plan.jobs:
        common: dict[str, Any] = {"case": job.case, "source": job.source, "files": len(job.files)}
        try:
            repairs = (*job.repairs, *job.prepare().repairs)
            entries.append(Entry(**common, verdict="repaired" if repairs else "accepted", repairs=repairs))
        except DataError as error:
            entries.append(Entry(**common, verdict="skipped", reasons=(error.what,)))
    assert sum(files for _, files in tally(entries).values()) == sum(path.is_file() for path in folder.rglob("*"))
    return entries


def turned(number: int, ds: Any) -> Any:
    """Sagittal, then turned by 30° about two axes."""
    c, s = np.cos(np.pi / 6), np.sin(np.pi / 6)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    row, column = turn @ [0, 1, 0], turn @ [0, 0, -1]
    ds.ImageOrientationPatient = [round(float(x), 9) for x in (*row, *column)]
    ds.ImagePositionPatient = [
        round(float(x), 6) for x in np.array([10.0, -20, 30]) + 4 * number * np.cross(row, column)
    ]
    return ds


def scaled(number: int, ds: Any) -> Any:
    ds.RescaleSlope, ds.RescaleIntercept = 2.5, -7
    return ds


@pytest.mark.parametrize("change", [turned, scaled, only(*range(SLICES), PixelSpacing=[7, 9])])
def test_voxels_keep_their_place_and_value(tmp_path: Path, change: Change) -> None:
    """Every voxel of the result lies, to 1e-4 mm, where the header of its slice says, with that slice's value."""
    mr(change)(tmp_path)
    (job,) = planned(tmp_path).jobs
    made = job.prepare()
    assert nib.aff2axcodes(made.affine) == ("R", "A", "S")
    stored, places = [], []
    for path in sorted(tmp_path.iterdir()):
        ds = pydicom.dcmread(path)
        row, column = np.split(np.array(ds.ImageOrientationPatient, float), 2)
        r, c = np.mgrid[:SIDE, :SIDE]
        between_rows, between_columns = ds.PixelSpacing
        lps = np.array(ds.ImagePositionPatient, float) + (c * between_columns)[..., None] * row
        places.append((lps + (r * between_rows)[..., None] * column) * [-1, -1, 1])
        stored.append(ds.pixel_array * float(ds.get("RescaleSlope", 1)) + float(ds.get("RescaleIntercept", 0)))
    wanted = unit_mr(np.array(stored, np.float32)).ravel()
    index = nib.affines.apply_affine(np.linalg.inv(made.affine), np.reshape(places, (-1, 3)))
    voxel = np.linalg.norm(made.affine[:3, :3], axis=0)
    nearest = np.rint(index).astype(int)
    assert np.abs((index - nearest) * voxel).max() < 1e-4
    np.testing.assert_allclose(made.array[tuple(nearest.T)], wanted, atol=1e-6)
    assert len(np.unique(nearest, axis=0)) == made.array.size


def test_compressed_pixels_get_slope_and_intercept_once(tmp_path: Path) -> None:
    def compress(number: int, ds: Any) -> Any:
        scaled(number, ds).compress(RLELossless, encoding_plugin="pydicom")
        return ds

    mr(scaled)(tmp_path / "plain")
    mr(compress)(tmp_path / "rle")
    plain, rle = (planned(tmp_path / name).jobs[0].prepare() for name in ("plain", "rle"))
    np.testing.assert_array_equal(plain.array, rle.array)
    assert plain.facts["range"] == rle.facts["range"]


def test_resampling_and_padding(tmp_path: Path) -> None:
    mr(turned)(tmp_path)
    (job,) = planned(tmp_path, target=Target(modality="mr", size=24, spacing=8)).jobs
    made = job.prepare()
    assert made.array.shape == (24, 24, 24)
    assert (made.array.min(), made.array.max()) == (0, 1)
    np.testing.assert_allclose(np.linalg.norm(made.affine[:3, :3], axis=0), 8, atol=1e-5)
    assert made.facts["padded_mm"] == [64, 64, 64]
    native = planned(tmp_path).jobs[0].prepare()
    middle = [affine @ [*((np.array(a.shape) - 1) / 2), 1] for a, affine in
              ((made.array, made.affine), (native.array, native.affine))]  # fmt: skip
    np.testing.assert_allclose(*middle, atol=1e-3)


def images(folder: Path, *kinds: dict[str, Any], slices: int = SLICES) -> None:
    """Several images of every place under one UID, each with its own tags and pixels."""
    for number, tags in enumerate(kinds):

        def change(place: int, ds: Any, number: int = number, tags: dict[str, Any] = tags) -> Any:
            ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID(f"1.2.{number}.{place}")
            ds.PixelData = (ds.pixel_array // (number + 1)).astype("u2").tobytes()
            for tag, value in tags.items():
                setattr(ds, tag, value)
            return ds

        mr(change, slices=slices)(folder / str(number))


PARTS: dict[str, list[dict[str, Any]]] = {
    "echoes": [{"EchoTime": 2.5}, {"EchoTime": 7.25}],
    "times": [{"TemporalPositionIdentifier": n} for n in range(3)],
    "inversions": [{"InversionTime": 700}, {"InversionTime": 2500}],
    "acquisitions": [{"AcquisitionNumber": 1}, {"AcquisitionNumber": 2}],
    "b-values": [{"DiffusionBValue": 0.0}, {"DiffusionBValue": 1000.0}],
    "filtered": [
        {"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"]},
        {"ImageType": ["ORIGINAL", "PRIMARY", "M", "NORM"]},
    ],
}


@pytest.mark.parametrize("name", PARTS)
def test_images_under_one_uid_are_never_mixed(tmp_path: Path, name: str) -> None:
    images(tmp_path, *PARTS[name])
    plan = planned(tmp_path)
    assert len({job.case for job in plan.jobs}) == len(PARTS[name])
    for job in plan.jobs:
        assert len({path.parent for path in job.files}) == 1
        assert any(f"one of {len(PARTS[name])} images under one series UID" in text for text in job.repairs)
        job.prepare()


def test_phase_is_ignored_and_a_time_series_skipped(tmp_path: Path) -> None:
    images(tmp_path / "a", *({"ImageType": ["ORIGINAL", "PRIMARY", kind, "ND"]} for kind in "MPRI"))
    entries = outcome(tmp_path / "a")
    assert sorted(entry.verdict for entry in entries) == ["ignored"] * 3 + ["repaired"]
    images(tmp_path / "b", *({"TemporalPositionIdentifier": n} for n in range(12)), slices=12)
    mr(name="good")(tmp_path / "b" / "good")
    bad, good = sorted(outcome(tmp_path / "b"), key=lambda entry: entry.files, reverse=True)
    assert (bad.verdict, good.verdict) == ("skipped", "accepted")
    assert "12 different images under one series UID (TemporalPositionIdentifier)" in bad.reasons[0]


@pytest.mark.parametrize("tag", ["EchoTime", "AcquisitionNumber"])
def test_parts_of_a_volume_are_one_case(tmp_path: Path, tag: str) -> None:
    """Also when a file was copied, so that a place is taken twice."""
    values = {"EchoTime": (3, 3.001), "AcquisitionNumber": (1, 2)}[tag]
    mr(every(**{tag: values[0]}), only(*EVEN, **{tag: values[1]}))(tmp_path)
    shutil.copy(tmp_path / "1-001.dcm", tmp_path / "copy.dcm")
    (job,) = planned(tmp_path).jobs
    assert job.prepare().facts["slices"] == SLICES
    assert any("1 further files at positions already taken" in text for text in job.repairs)


def test_two_echoes_keep_apart_under_rounded_tags(tmp_path: Path) -> None:
    images(tmp_path, {"EchoTime": 3}, {"EchoTime": 6})
    for path in sorted(tmp_path.glob("*/*"))[::2]:
        ds = pydicom.dcmread(path)
        ds.EchoTime += 0.002
        ds.save_as(path)
    jobs = planned(tmp_path).jobs
    assert [len({path.parent for path in job.files}) for job in jobs] == [1, 1]
    assert [job.prepare().facts["slices"] for job in jobs] == [SLICES, SLICES]


def test_a_damaged_file_spoils_every_image_of_its_uid(tmp_path: Path) -> None:
    images(tmp_path / "x", *PARTS["echoes"])
    for path in sorted((tmp_path / "x" / "1").iterdir()):
        path.rename(tmp_path / "x" / "0" / f"e2{path.name}")
    (tmp_path / "x" / "0" / "1-032.dcm").write_bytes(b"")
    entries = outcome(tmp_path / "x")
    assert {entry.verdict for entry in entries} == {"skipped"}
    assert all("1-032.dcm: empty file" in entry.reasons[0] for entry in entries)


def leaning(number: int, ds: Any) -> Any:
    ds.ImagePositionPatient[1] += 0.5 * number
    return ds


def uneven(number: int, ds: Any) -> Any:
    ds.ImagePositionPatient[2] -= 2.0 * max(0, number - 25)
    return ds


def padded(number: int, ds: Any) -> Any:
    pixels = ds.pixel_array.copy()
    pixels[0] = 4000
    ds.PixelData = pixels.tobytes()
    ds.add_new("PixelPaddingValue", "US", 4000)
    return ds


def twins(folder: Path) -> None:
    images(folder, {}, {})


def every(**tags: Any) -> Change:
    return only(*range(SLICES), **tags)


EVEN = range(0, SLICES, 2)
ENHANCED = "1.2.840.10008.5.1.4.1.1.4.1"
CASES: dict[str, tuple[Build, Policy, str, str]] = {
    "good": (mr(), Policy(), "accepted", ""),
    "oblique": (mr(turned), Policy(), "accepted", ""),
    "padding": (mr(padded), Policy(), "repaired", "512 voxels of padding"),
    "one missing": (mr(without(10)), Policy(), "skipped", "spacing 8.000 mm after 1-010.dcm"),
    "bridged": (mr(without(10)), Policy(max_gap=1), "repaired", "1 missing slices interpolated"),
    "uneven": (mr(uneven), Policy(), "skipped", "6 irregular steps"),
    "uneven, resampled": (mr(uneven), Policy(on_irregular="resample"), "repaired", "6 irregular steps resampled"),
    "leaning": (mr(leaning), Policy(), "skipped", "1-001.dcm: slices lean by 7.1°"),
    "untold twins": (twins, Policy(), "skipped", "1-001.dcm lie at the same position with different pixels"),
    "odd echo": (mr(every(EchoTime=3), only(5, EchoTime=99)), Policy(), "skipped", "lie between others .1-006.dcm"),
    "echoes in turn": (mr(every(EchoTime=3), only(*EVEN, EchoTime=6)), Policy(), "skipped", "UID .EchoTime.: some lie"),
    "rounded tag": (mr(every(EchoTime=3), only(*EVEN, EchoTime=3.001)), Policy(), "repaired", "^EchoTime not given"),
    "absent tag": (mr(only(*EVEN, FlipAngle=None)), Policy(), "repaired", "^FlipAngle not given"),
    "two slabs": (mr(every(EchoTime=3), only(*range(16), EchoTime=6)), Policy(), "repaired", "one of 2 images"),
    "acquisitions": (mr(every(AcquisitionNumber=1), only(*EVEN, AcquisitionNumber=2)), Policy(), "accepted", ""),
    "slope 0": (mr(every(RescaleSlope=0, RescaleIntercept=0)), Policy(), "skipped", "1-001.dcm: RescaleSlope"),
    "enhanced": (mr(every(SOPClassUID=ENHANCED)), Policy(), "skipped", "1-001.dcm: multi-frame MR"),
    "frames": (mr(every(NumberOfFrames=4)), Policy(), "skipped", "1-001.dcm: multi-frame MR"),
    "mosaic": (mr(every(ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"])), Policy(), "skipped", "mosaic of slices"),
    "capture": (mr(every(SOPClassUID="1.2.840.10008.5.1.4.1.1.7")), Policy(), "skipped", "secondary capture"),
    "MIP": (mr(every(ImageType=["DERIVED", "SECONDARY", "MIP"])), Policy(), "skipped", "derived picture .MIP"),
    "8 bits": (mr(every(BitsAllocated=8)), Policy(), "skipped", "8 bits a pixel"),
    "slab": (mr(slices=8), Policy(), "skipped", "covers 32 mm"),
    "no place": (mr(every(ImagePositionPatient=None)), Policy(), "skipped", "no ImagePositionPatient"),
    "constant": (mr(volume=np.full((SLICES, SIDE, SIDE), 5, np.int16)), Policy(), "skipped", "every voxel is"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_verdict(name: str, tmp_path: Path) -> None:
    build, policy, verdict, words = CASES[name]
    build(tmp_path)
    cases = [entry for entry in outcome(tmp_path, policy) if entry.case]
    texts = ["; ".join(entry.reasons + entry.repairs) for entry in cases]
    assert any(re.search(words, text) for text in texts), texts
    assert {entry.verdict for entry in cases} == {verdict}


def test_a_protocol_is_chosen_by_name(tmp_path: Path) -> None:
    mr(name="a", SeriesDescription="Sag MPRAGE")(tmp_path / "a")
    mr(name="b", SeriesDescription="Ax T2 FLAIR")(tmp_path / "b")
    plan = planned(tmp_path, protocol="mprage|spgr")
    assert [job.files[0].parent.name for job in plan.jobs] == ["a"]
    assert [(entry.reasons, entry.files) for entry in plan.settled] == [(("MR of another protocol",), SLICES)]
    with pytest.raises(DataError, match=r"no MR series found .* found 64 MR of another protocol"):
        planned(tmp_path, protocol="dwi")
    with pytest.raises(ConfigError, match="--protocol"):
        planned(tmp_path, protocol="(")


def test_the_real_command_from_adni_to_a_training_volume(tmp_path: Path) -> None:
    """R3, R25 for MR: ADNI participants keep their code, all others become hashes; the source stays as it was."""
    source, out = tmp_path / "source", tmp_path / "out"
    mr(turned, name="adni", patient="002_S_0295")(source / "002_S_0295" / "MPRAGE")
    mr(name="adni2", patient="003_S_0001")(source / "003_S_0001")
    mr(without(9), name="other", SeriesDescription="for Hans Castorp seven years", **PLANTED)(source / "z")
    images(source / "echoes", *PARTS["echoes"])
    write(dataset(phantom()[0], 0, series_uid("ct")), source / "ct.dcm")
    before = tree(source)
    running = start("-v", "preprocess", "mr", "--dicom-dir", source, "--out", out, "--workers", 2)
    texts = [text.encode() for text in running.communicate()]
    assert running.returncode == 4, texts
    assert tree(source) == before
    names = sorted(path.name for path in out.glob("*.nii.gz"))
    assert [re.sub("[0-9a-f]{8}.nii", "#.nii", name) for name in names[:2]] == [
        "ADNI_002_S_0295_MR_#.nii.gz", "ADNI_003_S_0001_MR_#.nii.gz",
    ]  # fmt: skip
    assert len(names) == 4
    assert guess_kind(out) in ("adni", "nifti")
    found = Adni(image_size=32).find(out)
    assert [recognise(case.name) for case in found.cases] == ["ADNI_002_S_0295", "ADNI_003_S_0001"]
    volume = Adni(image_size=32).load(found.cases[0].path)
    assert (volume.array.min(), volume.array.max()) == (-1, 1)
    assert read_nifti(found.cases[0].path).shape == (SLICES, SIDE, SIDE)
    for path in out.rglob("*"):
        texts.append(path.name.encode())
        if path.is_file():
            texts.append(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())
    for secret in (part for value in PLANTED.values() for part in value.replace("^", " ").split()):
        assert not any(secret.lower().encode() in text.lower() for text in texts), secret
    again = wdm("preprocess", "mr", "--dicom-dir", source, "--out", out, "--json")
    assert again.code == 4
    answer = json.loads(again.out)
    assert answer["files_seen"] == sum(path.is_file() for path in source.rglob("*"))
    assert wdm("preprocess", "mr", "--dicom-dir", source, "--out", out, "--protocol", "x(").code == 2
    assert wdm("split", out, "--val", "0.3").code == 0
