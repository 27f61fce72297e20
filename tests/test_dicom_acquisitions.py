"""Several acquisitions under one series UID: told apart where each is whole, else skipped for that, never mixed."""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_factory import SLICES, STEP, mr_slice, phantom, set_hu, write_series
from pydicom.uid import UID

from wdm_cli.engine.dicom import Policy, scan
from wdm_cli.engine.errors import DataError
from wdm_cli.engine.preprocess import Plan, Target, plan_lidc, plan_mr

TARGET = Target(size=16, spacing=8.0, intensity="fixed-window")
NATIVE = Target(modality="mr", size=None, spacing=None)
BRIGHTER = 100  # HU between the phases
POLICIES = [
    Policy(),
    Policy(max_gap=1, on_duplicate="first"),
    Policy(on_irregular="resample", on_duplicate="first", max_gap=3, tilt="resample"),
]
Tags = dict[str, Any] | Callable[[int], dict[str, Any]]


def phases(folder: Path, *kinds: Tags, shift: float = 0.0, mr: bool = False, slices: int = SLICES) -> None:
    """Acquisitions of one UID; each is brighter than the last, shifted along the normal, and has tags of its own.
    Files are named so that those of a place mix."""
    for number, tags in enumerate(kinds):

        def change(place: int, ds: Any, number: int = number, tags: Tags = tags) -> Any:
            ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID(f"1.2.{number + 3}.{place}")
            ds.ImagePositionPatient[2] += number * shift
            hu = phantom(slices)[place]
            set_hu(ds, np.where(hu > 0, hu // 20 + number * BRIGHTER, hu))
            if mr:
                mr_slice(place, ds)
            for tag, value in (tags(place) if callable(tags) else tags).items():
                setattr(ds, tag, value)
            return ds

        for path in write_series(folder / str(number), change, slices=slices):
            path.rename(folder / f"{hashlib.sha256(f'{path.name} {number}'.encode()).hexdigest()[:12]}.dcm")


def planned(folder: Path, policy: Policy, mr: bool = False) -> Plan:
    target = NATIVE if mr else TARGET
    found = headers(folder, tuple(sorted(path.name for path in folder.iterdir())))
    return (plan_mr if mr else plan_lidc)(found, folder, policy, target)


@functools.lru_cache(maxsize=2)
def headers(folder: Path, names: tuple[str, ...]) -> list[Any]:
    """What the files say, read once for all policies; `names` so that a file that went is noticed."""
    return list(scan(folder))


def is_mixed(job: Any) -> bool:
    """Whether a usable volume holds slices of two acquisitions."""
    stack = job.series.stack
    return len({item.instance.split(".")[2] for item in stack.slices}) > 1


def reasons(plan: Plan) -> list[str]:
    """Of what is skipped, after pixels."""
    found = [reason for entry in plan.settled for reason in entry.reasons]
    for job in plan.jobs:
        try:
            job.prepare()
        except DataError as error:
            found.append(error.what)
    return found


TOLD: dict[str, tuple[Tags, Tags]] = {
    "number": ({"AcquisitionNumber": 1}, {"AcquisitionNumber": 2}),
    "time": ({"AcquisitionTime": "100000"}, {"AcquisitionTime": "100100.5"}),
    "time of every slice": (
        lambda n: {"ContentTime": f"1000{n:02}"},
        lambda n: {"ContentTime": f"1010{n:02}"},
    ),
    "instance numbers": (lambda n: {"InstanceNumber": n + 1}, lambda n: {"InstanceNumber": n + 101}),
    "turns of the tube": (
        lambda n: {"AcquisitionNumber": 1 + n // 16},
        lambda n: {"AcquisitionNumber": 3 + n // 16},
    ),
    "temporal position": ({"TemporalPositionIdentifier": 1}, {"TemporalPositionIdentifier": 2}),
    "cardiac phase": ({"NominalPercentageOfCardiacPhase": 40}, {"NominalPercentageOfCardiacPhase": 75}),
    "kernel": ({"ConvolutionKernel": "B30f"}, {"ConvolutionKernel": "B70f"}),
    "energy": ({"KVP": 80}, {"KVP": 140}),
}


SHIFTED = [
    *((name, 0.0) for name in TOLD),
    *itertools.product(("number", "turns of the tube", "instance numbers"), (1.0, 62.0)),
    *(("number", 2.0), ("time", 2.0)),
]


@pytest.mark.parametrize(("name", "shift"), SHIFTED)
def test_two_whole_acquisitions_are_two_cases(tmp_path: Path, name: str, shift: float) -> None:
    """At the same places and between each other, whatever the options."""
    phases(tmp_path, *TOLD[name], shift=shift)
    for policy in (Policy(), POLICIES[-1]):
        jobs = planned(tmp_path, policy).jobs
        assert [len(job.files) for job in jobs] == [SLICES, SLICES]
        assert not any(is_mixed(job) for job in jobs)
        assert len({job.case for job in jobs}) == len({job.source for job in jobs}) == 2
    assert all("one of 2 images under one series UID (" in " ".join(job.repairs) for job in jobs)
    first, second = sorted(float(np.median(job.prepare().array[6:10, 6:10])) for job in jobs)
    assert second - first == pytest.approx(BRIGHTER, abs=5)


@pytest.mark.parametrize("shift", [0.0, 1.0, 62.0])
@pytest.mark.parametrize("mr", [False, True])
def test_what_nothing_tells_apart_is_never_mixed(tmp_path: Path, shift: float, mr: bool) -> None:
    """And no reason proposes an option that would."""
    phases(tmp_path, {}, {}, shift=shift, mr=mr)
    for policy in POLICIES:
        plan = planned(tmp_path, policy, mr)
        said = reasons(plan)
        assert len(said) == 1
        assert "tell" in said[0]
        assert not any(option in said[0] for option in ("--max-gap", "--on-duplicate", "--on-irregular"))


@pytest.mark.parametrize("step", [2.5, 5.0, 6.4])
def test_scans_of_different_steps_are_never_mixed(tmp_path: Path, step: float) -> None:
    phases(tmp_path, {}, lambda n: {"ImagePositionPatient": [-60.5, -50.25, step * n - 299.3]})
    for policy in POLICIES:
        (reason,) = reasons(planned(tmp_path, policy))
        assert "tell" in reason
        assert "--" not in reason


@pytest.mark.parametrize("mr", [False, True])
@pytest.mark.parametrize("shift", [0.0, 1.0, 2.0])
def test_acquisitions_that_are_not_whole_are_skipped_for_that(tmp_path: Path, shift: float, mr: bool) -> None:
    phases(tmp_path, {"AcquisitionNumber": 1}, {"AcquisitionNumber": 2}, shift=shift, mr=mr)
    gone = [item.path for item in scan(tmp_path) if item.instance in ("1.2.3.9", "1.2.4.20")]  # type: ignore[union-attr]
    for path in gone:
        path.unlink()
    for policy in POLICIES:
        (reason,) = reasons(planned(tmp_path, policy, mr))
        assert "2 acquisitions (AcquisitionNumber) under one series UID lie doubly or between each other" in reason
        assert "--" not in reason


@pytest.mark.parametrize("shift", [1.0, 2.0])
def test_numbers_that_run_twice_through_the_body_are_two_scans(tmp_path: Path, shift: float) -> None:
    """Told apart at half a step too; where both lack slices nothing is used, whatever may be interpolated."""
    phases(tmp_path, *TOLD["instance numbers"], shift=shift)
    for policy in POLICIES:
        jobs = planned(tmp_path, policy).jobs
        assert [len(job.files) for job in jobs] == [SLICES, SLICES]
        assert not any(is_mixed(job) for job in jobs)
    for item in scan(tmp_path):
        if item.instance in ("1.2.3.9", "1.2.4.20"):  # type: ignore[union-attr]
            item.path.unlink()
    for policy in POLICIES:
        (reason,) = reasons(planned(tmp_path, policy))
        assert "2 acquisitions (InstanceNumber) under one series UID lie doubly or between each other" in reason


@pytest.mark.parametrize("step", [STEP, 2.5 * STEP])
def test_mr_slices_acquired_in_turn_are_one_case_however_far_apart(tmp_path: Path, step: float) -> None:
    """Odd slices, then even ones, with numbers and times of their own."""

    def change(place: int, ds: Any) -> Any:
        mr_slice(place, ds)
        ds.ImagePositionPatient[2] = step * place
        ds.AcquisitionNumber, ds.AcquisitionTime = 1 + place % 2, f"10000{place % 2}"
        ds.InstanceNumber = 1 + place // 2 + 16 * (place % 2)
        return ds

    write_series(tmp_path, change)
    (job,) = planned(tmp_path, Policy(), mr=True).jobs
    assert len(job.files) == SLICES


@pytest.mark.parametrize("overlapping", [True, False])
@pytest.mark.parametrize("number", [lambda n: 500 - n, lambda n: n * n % 67], ids=["falling", "in no order"])
def test_slices_with_a_gap_are_one_case_in_any_order(tmp_path: Path, number: Any, overlapping: bool) -> None:
    """Twice as thick as apart, or with a thickness that some do not state: interpolated where asked."""

    def change(place: int, ds: Any) -> Any:
        ds.InstanceNumber = 1 + number(place)
        ds.SliceThickness = 2 * STEP if overlapping else None if place % 5 == 0 else STEP
        return None if place == 9 else ds

    write_series(tmp_path, change)
    (job,) = planned(tmp_path, Policy(max_gap=1)).jobs
    assert len(job.files) == SLICES - 1


@pytest.mark.parametrize("shift", [0.0, 1.0, 62.0])
def test_mr_acquisitions_are_told_like_ct(tmp_path: Path, shift: float) -> None:
    phases(tmp_path, {"AcquisitionNumber": 1}, {"AcquisitionNumber": 2}, shift=shift, mr=True)
    for policy in (Policy(), POLICIES[-1]):
        jobs = planned(tmp_path, policy, mr=True).jobs
        assert [len(job.files) for job in jobs] == [SLICES, SLICES]
        assert not any(is_mixed(job) for job in jobs)


@pytest.mark.parametrize(
    "number", [lambda n: n, lambda n: n // 2, lambda n: n // 16, lambda n: n % 2, lambda n: (7 * n) % 3],
    ids=["every slice", "turns", "halves", "in turn", "three in turn"],
)  # fmt: skip
@pytest.mark.parametrize("missing", [None, 1])
def test_parts_of_a_volume_are_one_case(tmp_path: Path, number: Any, missing: int | None) -> None:
    """Numbers for parts of a scan, and a missing slice of it that is called so."""

    def change(place: int, ds: Any) -> Any:
        ds.AcquisitionNumber = 1 + number(place)
        return None if place == missing else ds

    write_series(tmp_path, change)
    plan = planned(tmp_path, Policy(max_gap=1))
    (job,) = plan.jobs
    assert job.prepare().facts["slices"] == SLICES - (missing is not None)
    if missing is not None:
        (reason,) = reasons(planned(tmp_path, Policy()))
        assert "1 slices missing" in reason
        assert "--max-gap 1 interpolates" in reason


def test_a_head_in_two_slice_distances_is_no_pair_of_scans(tmp_path: Path) -> None:
    """Thin at the base, thick above, each with its own number: still one scan, resampled where asked."""

    def change(place: int, ds: Any) -> Any:
        thin = place < 16
        ds.AcquisitionNumber, ds.SliceThickness = (1, STEP) if thin else (2, 2 * STEP)
        ds.ImagePositionPatient[2] = STEP * place if thin else STEP * (2 * place - 16)
        return ds

    write_series(tmp_path, change)
    (reason,) = reasons(planned(tmp_path, Policy()))
    assert "15 slices missing" in reason
    assert "--max-gap 1 interpolates" in reason


def test_first_is_what_was_made_first_and_only_for_a_few_places(tmp_path: Path) -> None:
    """A slice made anew: the lower instance number stays, whatever the files are called."""
    phases(tmp_path, {}, slices=SLICES)
    again = tmp_path / "again"
    write_series(again, lambda n, ds: set_number(ds) if n == 7 else None)
    (again / "1-008.dcm").rename(tmp_path / "000.dcm")
    (job,) = planned(tmp_path, Policy(on_duplicate="first")).jobs
    kept = [item.instance for item in job.series.stack.slices]  # type: ignore[attr-defined]
    assert kept[7] == "1.2.3.7"
    assert any("000.dcm at the same position differs" in text for text in job.prepare().repairs)


def set_number(ds: Any) -> Any:
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID("1.2.1.1")
    ds.InstanceNumber = 99
    return ds


def test_times_tell_acquisitions_apart_and_are_written_nowhere(tmp_path: Path) -> None:
    phases(tmp_path, *TOLD["time"], mr=True)
    jobs = planned(tmp_path, Policy(), mr=True).jobs
    assert len(jobs) == 2
    assert [job.prepare().facts["contrast"][-1] for job in jobs] == ["AcquisitionTime=#1", "AcquisitionTime=#2"]
    assert not any("100100" in f"{job.case} {job.repairs} {job.prepare().facts}" for job in jobs)
