"""Whole archives: several series, strange neighbours, hostile names, links, and the size of LIDC-IDRI."""

from __future__ import annotations

import contextlib
import functools
import random
import re
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from dicom_factory import SLICES, dataset, phantom, series_uid, write, write_series
from hypothesis import given, settings
from hypothesis import strategies as st

from wdm_cli.engine.dicom import OtherFile, Policy, Slice, group, judge, scan
from wdm_cli.engine.dicom.headers import read_header
from wdm_cli.engine.dicom.patients import patient_code
from wdm_cli.engine.errors import ConfigError, DataError
from wdm_cli.engine.preprocess import Entry, Plan, Target, plan_lidc, tally

TARGET = Target(size=16, spacing=8.0)
SAFE = re.compile(r"[A-Za-z0-9._-]{1,80}")


def planned(folder: Path, policy: Policy | None = None) -> Plan:
    return plan_lidc(scan(folder), folder, policy or Policy(), TARGET)


def counts(plan: Plan) -> dict[str, int]:
    """Files by verdict, planned cases counted as accepted."""
    jobs = [Entry(job.case, "accepted", job.source, len(job.files)) for job in plan.jobs]
    return {verdict: files for verdict, (_, files) in tally([*plan.settled, *jobs]).items()}


def test_every_series_of_a_patient_is_a_case_unless_the_policy_says_otherwise(tmp_path: Path) -> None:
    write_series(tmp_path / "a", name="thick")
    thin = np.repeat(phantom(), 2, axis=0)

    def closer(number: int, ds):  # type: ignore[no-untyped-def]
        ds.ImagePositionPatient[2] = number * 2.0
        return ds

    write_series(tmp_path / "b", closer, name="thin", volume=thin)
    write_series(tmp_path / "c", name="other patient", patient="LIDC-IDRI-0002")
    plan = planned(tmp_path)
    assert len({job.case for job in plan.jobs}) == 3
    thinnest = planned(tmp_path, Policy(series="thinnest"))
    chosen = [job.series.stack.step for job in thinnest.jobs]  # type: ignore[attr-defined]
    assert [job.patient for job in thinnest.jobs] == ["LIDC-IDRI-0001", "LIDC-IDRI-0002"]
    assert chosen == pytest.approx([2, 4])
    assert counts(thinnest)["ignored"] == SLICES
    first = planned(tmp_path, Policy(series="first"))
    uids = [job.series.files[0].series_uid for job in first.jobs]  # type: ignore[attr-defined]
    assert uids == [min(series_uid("thick"), series_uid("thin")), series_uid("other patient")]


def test_neighbours_are_ignored_and_counted(tmp_path: Path) -> None:
    write_series(tmp_path)
    for modality in ("DX", "CR", "SEG", "SR", "RTSTRUCT"):
        write(dataset(phantom()[0], 1, series_uid(modality)), tmp_path / f"{modality}.dcm", Modality=modality)
    scout = dataset(phantom()[0], 1, series_uid("scout"))
    write(scout, tmp_path / "scout.dcm", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    for name in ("069.xml", "LICENSE", ".DS_Store", "Thumbs.db", "DICOMDIR", "notes.txt"):
        (tmp_path / name).write_text("x")
    plan = planned(tmp_path)
    assert counts(plan) == {"accepted": SLICES, "repaired": 0, "skipped": 0, "ignored": 12}
    reasons = {entry.reasons[0]: entry.files for entry in plan.settled}
    assert reasons["DX"] == reasons["SEG"] == reasons["CT localizer"] == 1
    assert reasons["other file (.xml)"] == 1


def test_links_are_followed_once(tmp_path: Path) -> None:
    """Loops, links upwards and second ways to a file end; what lies only behind a link is read."""
    outside = tmp_path / "outside"
    paths = write_series(outside)
    archive = tmp_path / "archive"
    inside = write_series(archive / "series", name="inside")
    for name, target in (("loop", archive), ("up", tmp_path), ("out", outside), ("out again", outside)):
        (archive / name).symlink_to(target)
    (archive / "series" / "one.dcm").symlink_to(paths[0])
    (archive / "series" / "two.dcm").symlink_to(inside[0])
    (archive / "series" / "round").symlink_to(archive / "series" / "round")
    (outside / "back").symlink_to(archive / "out")
    plan = planned(archive)
    assert counts(plan) == {"accepted": 2 * SLICES, "repaired": 0, "skipped": 0, "ignored": 7}
    read = [item.path for item in scan(archive) if isinstance(item, Slice)]
    assert len({path.resolve() for path in read}) == len(read) == 2 * SLICES


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(tmp_path)
    real_open = Path.open

    def deny(path: Path, *args, **kwargs):  # type: ignore[no-untyped-def]
        if path.name == "1-005.dcm":
            raise PermissionError(13, "Permission denied")
        return real_open(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", deny)
    plan = planned(tmp_path)
    assert not plan.jobs
    assert any("1-005.dcm: cannot be read: Permission denied" in entry.reasons[0] for entry in plan.settled)


@pytest.mark.parametrize("others", [0, 3])
def test_an_archive_without_ct_says_what_it_holds(tmp_path: Path, others: int) -> None:
    for number in range(others):
        write(dataset(phantom()[0], number, series_uid("x")), tmp_path / f"{number}.dcm", Modality="DX")
    with pytest.raises(DataError, match="no CT series found in .*found " + ("3 DX" if others else "no files")):
        planned(tmp_path)


def test_options_without_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="--max-gap 4"):
        Policy(max_gap=4)
    with pytest.raises(ConfigError, match="--size 4"):
        Target(size=4)
    with pytest.raises(ConfigError, match="fixed-window"):
        Target(modality="mr", intensity="fixed-window")


HOSTILE = [
    *("../../etc/passwd", "/abs/path", "a\\b", "nul\x00byte", "new\nline", "x" * 300, "", "CON", "..", "."),
    *(
        "Müller^Jörg",
        "患者",
        "LIDC-IDRI-0001/..",
        "LIDC-IDRI-00011",
        "lidc-idri-0001",
        " LIDC-IDRI-0001",
        "-rf",
        "$(id)",
    ),
]


def test_hostile_identifiers_never_become_names() -> None:
    codes = {text: patient_code(text, "1.2.3") for text in HOSTILE}
    assert len(set(codes.values())) == len(HOSTILE)
    assert all(SAFE.fullmatch(code) and code.startswith("sub-") for code in codes.values())
    assert patient_code("LIDC-IDRI-0001", "1.2.3") == "LIDC-IDRI-0001"
    assert patient_code("", "1.2.3") != patient_code("", "1.2.4")  # two strangers are not one patient


@settings(max_examples=500, deadline=None)
@given(st.lists(st.text(max_size=100), unique=True, max_size=5))
def test_codes_are_safe_and_differ(texts: list[str]) -> None:
    codes = [patient_code(text, "1.2.3") for text in texts]
    assert len(set(codes)) == len(texts)
    assert all(SAFE.fullmatch(code) for code in codes)


def test_damaged_bytes_end_in_a_verdict(tmp_path: Path) -> None:
    """Bytes of a good series changed at random, headers most of all: always a verdict, never another exception."""
    chance = random.Random(0)
    paths = write_series(tmp_path)
    good = [path.read_bytes() for path in paths]
    lenient = Policy(on_irregular="resample", on_duplicate="first", max_gap=1, tilt="resample")
    for _ in range(60):
        number = chance.randrange(len(paths))
        data = bytearray(good[number])
        for _ in range(chance.choice([1, 3, 20])):
            data[chance.randrange(128, len(data) - 400)] = chance.randrange(256)
        paths[number].write_bytes(data)
        plan = planned(tmp_path, lenient)
        assert sum(counts(plan).values()) == len(paths)
        for job in plan.jobs:
            with contextlib.suppress(DataError):
                job.prepare()
        paths[number].write_bytes(good[number])


def test_equal_series_uids_of_two_patients_stay_apart(tmp_path: Path) -> None:
    write_series(tmp_path / "a", patient="A/B")
    write_series(tmp_path / "b", patient="A_B")
    cases = [job.case for job in planned(tmp_path).jobs]
    assert len(set(cases)) == 2
    assert all(SAFE.fullmatch(case) for case in cases)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_no_bytes_make_reading_a_header_fail(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.dcm"
    for content in (data, bytes(128) + b"DICM" + data):
        path.write_bytes(content)
        found = read_header(path)
        assert isinstance(found, (OtherFile, Slice))


FILES = [Path(f"{number}.dcm") for number in range(1000)]


def header(file: Path, patient: str, uid: str, pixel: float, z: float, modality: str = "CT") -> Slice:
    return Slice(
        file, patient, uid, modality, "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1",
        ("ORIGINAL", "PRIMARY", "AXIAL"), 512, 512, 1, 1, "MONOCHROME2", 16, True, 1.0, -1024.0, None,
        (pixel, pixel), (-180.0, -180.0, z), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), 524300,
    )  # fmt: skip


TWO_SCANS = (132, 151, 315, 332, 355, 365, 442, 484)
SHORTEST, LONGEST = 403, 700
STEPS = {1.25: 349, 2.5: 322, 2.0: 124, 3.0: 117, 0.625: 50, 1.0: 40, 1.5: 10, 5.0: 6}  # mm: scans, roughly


def steps_of(number: int, rng: np.random.Generator) -> list[float]:
    """mm between the slices of a scan, by the database's range of extents and of slice numbers."""
    if number == 514:  # 18 slices are missing at one place
        return [2.0] * 60 + [38.0] + [2.0] * 70
    if number == 672:  # three single slices are missing
        return [2.5, 2.5, 5.0] * 3 + [2.5] * 110
    if number in (123, 267):  # half a millimetre at one end
        return [2.5] * 120 + [0.5] * (4 if number == 123 else 2)
    extent = {SHORTEST: 165.5, LONGEST: 685.0}.get(number)
    extent = extent or float(rng.uniform(170, 250) if 130 <= number < 159 else rng.uniform(262, 380))
    step = float(rng.choice(list(STEPS), p=np.array(list(STEPS.values())) / sum(STEPS.values())))
    count = 764 if number == LONGEST else min(700, max(65, round(extent / step)))
    return [extent / count] * (count - 1)


@functools.cache
def simulated_lidc(scans: int = 1018) -> tuple[Slice, ...]:
    """Headers with LIDC-IDRI's figures: 1,018 scans of 1,010 patients (8 have two), 30 of them short and 4 narrow
    (33 in all), 4 irregular, 13 positions that are there twice, first file numbers that are not 1; and 290 DX."""
    rng = np.random.default_rng(0)
    narrow = {140, 200, 201, 202}  # field of view below 256 mm; one of them is short as well
    slices = []
    for number in range(1, scans + 1):
        heights = (np.cumsum([0.0, *steps_of(number, rng)]) - 200).round(4).tolist()
        if 900 <= number < 913:
            heights.insert(30, heights[30])
        pixel = 0.48 if number in narrow else float(rng.uniform(0.55, 0.977))
        patient = f"LIDC-IDRI-{number if number <= 1010 else TWO_SCANS[number - 1011]:04}"
        first = number % 7
        slices += [header(FILES[first + i], patient, f"1.3.6.1.4.1.{number}", pixel, z) for i, z in enumerate(heights)]
    return (*slices, *(header(FILES[0], "LIDC-IDRI-0001", f"9.{n}", 1.0, 0.0, "DX") for n in range(290)))


def test_the_simulation_is_like_the_collection() -> None:
    """Slices a scan 65 to 764, z 165.5 to 685 mm, some 150,000 to 260,000 images: near the published database."""
    scans = group(item for item in simulated_lidc() if item.modality == "CT")
    counts_of = [len({item.position for item in scan}) for scan in scans]
    assert (len(scans), len({scan[0].patient for scan in scans})) == (1018, 1010)
    assert sum(map(len, scans)) - sum(counts_of) == 13
    assert (min(counts_of), max(counts_of)) == (65, 764)
    assert 150 < np.median(counts_of) < 260
    assert 150_000 < sum(map(len, scans)) < 260_000


def test_a_collection_like_lidc_idri() -> None:
    """R5: 1,014 of 1,018 usable, 4 named, 33 padded, 8 second series kept, 290 DX ignored."""
    slices = simulated_lidc()
    started = time.monotonic()
    plan = plan_lidc(slices, Path("/archive"), Policy(), Target())
    assert time.monotonic() - started < 20
    skipped = [entry for entry in plan.settled if entry.verdict == "skipped"]
    assert len(plan.jobs) == 1014
    assert {entry.patient for entry in skipped} == {f"LIDC-IDRI-{n:04}" for n in (514, 672, 123, 267)}
    assert all(".dcm" in entry.reasons[0] for entry in skipped)
    named = {entry.patient: entry.reasons[0] for entry in skipped}
    assert "18 slices missing: spacing 38.000 mm" in named["LIDC-IDRI-0514"]
    assert "3 slices missing: spacing 5.000 mm" in named["LIDC-IDRI-0672"]
    assert "4 irregular steps" in named["LIDC-IDRI-0123"]
    assert "2 irregular steps" in named["LIDC-IDRI-0267"]
    padded = [job.patient for job in plan.jobs if any("padded" in text for text in job.repairs)]
    assert len(padded) == len(set(padded)) == 33
    assert f"LIDC-IDRI-{SHORTEST:04}" in padded
    doubled = [job for job in plan.jobs if any("1 further files at positions" in text for text in job.repairs)]
    assert len(doubled) == 13
    patients = Counter(job.patient for job in plan.jobs)
    assert {patient for patient, scans in patients.items() if scans == 2} == {f"LIDC-IDRI-{n:04}" for n in TWO_SCANS}
    assert [(entry.reasons[0], entry.files) for entry in plan.settled if entry.verdict == "ignored"] == [("DX", 290)]
    assert sum(counts(plan).values()) == len(slices)
    assert len({job.case for job in plan.jobs}) == 1014


def test_order_of_files_does_not_matter() -> None:
    slices = [item for item in simulated_lidc(2) if item.modality == "CT"]
    shuffled = [slices[i] for i in np.random.default_rng(1).permutation(len(slices))]
    for one, other in zip(group(slices), group(shuffled), strict=True):
        a, b = judge(one, Policy()), judge(other, Policy())
        assert a.stack is not None
        assert b.stack is not None
        assert a.stack.slices == b.stack.slices
        assert np.array_equal(a.stack.affine, b.stack.affine)
