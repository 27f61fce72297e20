"""Runs over an archive: resumed, killed, in parallel, on read-only sources; nothing identifying gets out."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from dicom_factory import SLICES, dataset, phantom, series_uid, without, write, write_series

from wdm_cli.engine.data.lidc import Lidc
from wdm_cli.engine.dicom import Policy, scan
from wdm_cli.engine.errors import ConfigError, DataError, ResourceError
from wdm_cli.engine.preprocess import Entry, Plan, Target, plan_lidc, run, tally
from wdm_cli.engine.preprocess.manifest import Manifest

TARGET = Target(size=16, spacing=8.0)


def planned(folder: Path, target: Target = TARGET) -> Plan:
    return plan_lidc(scan(folder), folder, Policy(), target)


def tree(folder: Path) -> dict[str, str]:
    """sha256 of every file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def volumes(out: Path) -> dict[str, str]:
    """What must not depend on how a run went: every file but the record of it."""
    return {name: sha for name, sha in tree(out).items() if name not in ("manifest.jsonl", "run.json", ".lock")}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six good series, one with a gap, one DX and one XML file."""
    folder = tmp_path_factory.mktemp("archive")
    for number in range(6):
        write_series(folder / f"{number}", name=f"s{number}", patient=f"LIDC-IDRI-{number:04}", slices=SLICES - number)
    write_series(folder / "gap", without(10), name="gap", patient="LIDC-IDRI-0006")
    write(dataset(phantom()[0], 0, series_uid("dx")), folder / "dx.dcm", Modality="DX")
    (folder / "069.xml").write_text("<x/>")
    return folder


@pytest.fixture(scope="module")
def once(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Entry]]:
    out = tmp_path_factory.mktemp("once")
    before = tree(archive)
    entries = list(run(planned(archive), out))
    assert tree(archive) == before  # R3
    return out, entries


def test_every_file_is_counted(archive: Path, once: tuple[Path, list[Entry]]) -> None:
    _, entries = once
    counts = tally(entries)
    assert sum(files for _, files in counts.values()) == sum(path.is_file() for path in archive.rglob("*"))
    assert {verdict: cases for verdict, (cases, _) in counts.items()} == {
        "accepted": 1, "repaired": 5, "skipped": 1, "ignored": 2,
    }  # fmt: skip


def test_the_manifest_says_what_was_done(once: tuple[Path, list[Entry]]) -> None:
    out, entries = once
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert len(lines) == len(entries)
    for line in lines:
        if "output" in line:
            path = out / line["output"]
            assert hashlib.sha256(path.read_bytes()).hexdigest() == line["sha256"]
            assert line["spacing_in"] == [8, 8, 4]
            assert line["spacing_out"] == [8, 8, 8]
            assert len(line["padded_mm"]) == len(line["cropped_mm"]) == 3
            assert line["hu_range"][0] == -1000
            assert line["seconds"] > 0
    assert any("padded by 4 mm z" in text for line in lines for text in line.get("repairs", []))
    run_json = json.loads((out / "run.json").read_text())
    assert run_json["protocol"]["size"] == 16


def test_the_data_set_finds_the_cases(once: tuple[Path, list[Entry]]) -> None:
    out, entries = once
    found = Lidc(dir=str(out), image_size=16).find(out)
    assert {case.name for case in found.cases} == {entry.case for entry in entries if entry.output}
    volume = Lidc(dir=str(out), image_size=16).load(found.cases[0].path)
    assert volume.shape == (16, 16, 16)
    assert (volume.array.min(), volume.array.max()) == (-1, 1)


def test_the_same_command_again_makes_nothing_new(archive: Path, once: tuple[Path, list[Entry]]) -> None:
    out, entries = once
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path.name != ".lock"}
    again = list(run(planned(archive), out))
    assert sorted(entry.case for entry in again) == sorted(entry.case for entry in entries)
    after = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path.name != ".lock"}
    assert after == before


def test_a_damaged_or_missing_output_is_made_again(archive: Path, once: tuple[Path, list[Entry]]) -> None:
    out, _ = once
    before = volumes(out)
    path = next(out.glob("*/preprocessed.nii.gz"))
    path.write_bytes(path.read_bytes()[:100])
    list(run(planned(archive), out))
    assert volumes(out) == before


def test_changed_files_are_made_again_or_their_volume_is_withdrawn(tmp_path: Path) -> None:
    archive, out = tmp_path / "in", tmp_path / "out"
    write_series(archive / "a", name="a")
    paths = write_series(archive / "b", name="b", patient="LIDC-IDRI-0002")
    list(run(planned(archive), out))
    first = volumes(out)
    later = time.time_ns() + 10**9
    for number, path in enumerate(paths):  # the same files with other values, as a corrected download has
        write(dataset(phantom()[number] + 50, number, series_uid("b"), "LIDC-IDRI-0002"), path)
        os.utime(path, ns=(later, later))
    list(run(planned(archive), out))
    assert sum(sha != first[name] for name, sha in volumes(out).items() if name.endswith(".nii.gz")) == 1
    paths[10].unlink()  # now a slice is missing: the volume of before must not be trained on
    list(run(planned(archive), out))
    assert [name for name in volumes(out) if "LIDC-IDRI-0002" in name] == []
    assert len(list(out.glob("*/preprocessed.nii.gz"))) == 1


def test_other_settings_are_refused(archive: Path, once: tuple[Path, list[Entry]]) -> None:
    out, _ = once
    with pytest.raises(ConfigError, match="size: 16 there, 24 now"):
        list(run(planned(archive, Target(size=24, spacing=8.0)), out))


def test_overwrite_starts_anew_and_leaves_strangers(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    list(run(planned(archive), tmp_path))
    list(run(planned(archive, Target(size=24, spacing=8.0)), tmp_path, overwrite=True))
    assert (tmp_path / "mine.txt").read_text() == "keep"
    entries = Manifest(tmp_path).entries.values()
    assert {tuple(entry.facts["shape"]) for entry in entries if entry.output} == {(24, 24, 24)}


def test_strict_stops_before_anything_is_made(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 slices missing"):
        list(run(planned(archive), tmp_path / "out", strict=True))
    assert not (tmp_path / "out").exists()


def test_two_workers_make_the_same_files(archive: Path, once: tuple[Path, list[Entry]], tmp_path: Path) -> None:
    entries = list(run(planned(archive), tmp_path, workers=2))
    assert volumes(tmp_path) == volumes(once[0])
    assert {e.case: e.sha256 for e in entries} == {e.case: e.sha256 for e in once[1]}


def test_one_run_at_a_time(archive: Path, tmp_path: Path) -> None:
    running = run(planned(archive), tmp_path)
    next(running)
    with pytest.raises(ResourceError, match="another process is at work"):
        list(run(planned(archive), tmp_path))
    running.close()


def test_kill_9_and_go_on(archive: Path, once: tuple[Path, list[Entry]], tmp_path: Path) -> None:
    """R6: 20 kills at random moments, then a last run: the same files as one pass, no partial one ever seen.

    A machine that finishes before 20 kills goes on in another folder.
    """
    wanted, plan = volumes(once[0]), planned(archive)
    chance = random.Random(0)
    kills, folder = 0, 0
    while True:
        out = tmp_path / str(folder)
        child = os.fork()
        if child == 0:
            try:
                list(run(plan, out))
            finally:
                os._exit(0)
        if kills < 20:
            time.sleep(chance.uniform(0.0, 0.12))
        ended, _ = os.waitpid(child, os.WNOHANG if kills < 20 else 0)
        if not ended:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            kills += 1
        seen = {name: sha for name, sha in volumes(out).items() if ".partial/" not in name}
        assert seen.items() <= wanted.items(), kills
        if ended:
            assert volumes(out) == wanted
            assert Manifest(out).entries.keys() == Manifest(once[0]).entries.keys()
            if kills == 20:
                return
            folder += 1


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_workers_end_with_their_parent_and_the_run_goes_on(
    archive: Path, once: tuple[Path, list[Entry]], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "wdm_cli", "preprocess", "lidc", "--dicom-dir", str(archive), "--out"]
    command += [str(tmp_path), "--size", "16", "--spacing", "8", "--workers", "2"]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children")
    workers: list[int] = []
    while len(workers) < 2 and running.poll() is None:
        time.sleep(0.02)
        found = [int(pid) for pid in children.read_text().split()] if children.exists() else []
        workers = [pid for pid in found if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()]
    running.kill()
    running.wait()
    patience = time.monotonic() + 20
    while any(map(alive, workers)):
        assert time.monotonic() < patience, "workers outlive their parent"
        time.sleep(0.05)
    list(run(planned(archive), tmp_path))
    assert volumes(tmp_path) == {k: v for k, v in volumes(once[0]).items() if k != "contact_sheet.png"}


def test_a_manifest_cut_in_the_middle_of_a_line_goes_on(tmp_path: Path) -> None:
    entry = Entry("a", "accepted", "1", 3, output="a/x", sha256="0" * 64)
    manifest = Manifest(tmp_path)
    manifest.record(entry)
    with manifest.path.open("ab") as file:
        file.write(b'{"case": "b", "verd')
    manifest = Manifest(tmp_path)
    manifest.record(Entry("c", "skipped", "3", 1, reasons=("why",)))
    assert list(Manifest(tmp_path).entries) == ["1", "3"]
    assert Manifest(tmp_path).entries["1"] == entry


def test_previews_and_contact_sheet(once: tuple[Path, list[Entry]]) -> None:
    from PIL import Image

    from wdm_cli.engine.preprocess import write_contact_sheet

    out, entries = once
    cases = sorted(entry.case for entry in entries if entry.output)
    for case in cases:
        with Image.open(out / "previews" / f"{case}.png") as picture:
            assert np.asarray(picture).std() > 10
    sheet = write_contact_sheet(out, cases)
    assert sheet is not None
    with Image.open(sheet) as picture:
        assert picture.width >= 4 * 140
