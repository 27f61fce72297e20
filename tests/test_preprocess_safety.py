"""Nothing identifying gets out, bombs are cheap to refuse, a full disk is named."""

from __future__ import annotations

import gzip
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import peak
import pytest
from command import wdm
from dicom_factory import mr_slice, without, write_series
from test_preprocess_run import planned, tree, volumes

from wdm_cli.engine.data.volume import write_nifti
from wdm_cli.engine.errors import ResourceError
from wdm_cli.engine.preprocess import run

PLANTED = {
    "PatientName": "Qwertz^Zaphodine",
    "PatientID": "MRN88776655",
    "PatientBirthDate": "19471103",
    "AccessionNumber": "ACC5544332211",
    "InstitutionName": "Sanatorium Berghof Davos",
    "ReferringPhysicianName": "Krokowski^Edhin",
    "PatientComments": "Hans Castorp seven years",
    "OtherPatientIDs": "ALIAS001122",
}


def test_nothing_identifying_gets_out(tmp_path: Path) -> None:
    """R25: planted identifiers are found nowhere in outputs, messages and details; the source is read-only."""
    source, out = tmp_path / "source", tmp_path / "out"
    write_series(source / "a", name="good", **PLANTED)
    write_series(source / "b", without(10), name="gap", **PLANTED)
    write_series(source / "c", name="no slope", RescaleSlope=None, **PLANTED)
    for path in [*source.rglob("*"), source]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = tree(source)
    command = [sys.executable, "-m", "wdm_cli", "-v", "preprocess", "lidc", "--dicom-dir", str(source), "--out"]
    made = subprocess.run(
        [*command, str(out), "--size", "16", "--spacing", "8", "--workers", "2"],
        capture_output=True, check=False, env={**os.environ, "WDM_DEBUG": "1"},
    )  # fmt: skip
    assert made.returncode == 4, made.stderr
    assert tree(source) == before
    texts = [made.stdout, made.stderr, *(path.name.encode() for path in out.rglob("*"))]
    for path in out.rglob("*"):
        if path.is_file():
            texts.append(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())
    assert len(texts) > 6
    for secret in (part for value in PLANTED.values() for part in value.replace("^", " ").split()):
        for text in texts:
            assert secret.lower().encode() not in text.lower(), secret


def test_lying_and_deflated_files_are_refused_cheaply(tmp_path: Path) -> None:
    """R8: a header that claims 65,535² pixels, and a deflated bomb, in a child with little memory."""
    write_series(tmp_path / "lying", Rows=65535, Columns=65535)
    write_series(tmp_path / "sane", name="sane")
    bomb = next((tmp_path / "lying").glob("*.dcm")).read_bytes()
    head = bomb.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99")[:400]
    (tmp_path / "bomb.dcm").write_bytes(head + gzip.compress(bytes(2**26)))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            before = peak.reset()
            started = time.monotonic()
            plan = planned(tmp_path)
            more = (peak.peak() - before) / 1e6
            reasons = " ".join(" ".join(entry.reasons) for entry in plan.settled)
            good = "65535" in reasons and "deflated" in reasons and len(plan.jobs) == 1
            code = 0 if good and more < 300 and time.monotonic() - started < 1 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_full_disk_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nibabel.save", full)
    write_series(tmp_path / "in")
    plan = planned(tmp_path / "in")
    with pytest.raises(ResourceError, match=r"preprocessed.nii.gz: no space left \(.* MB free\)"):
        list(run(plan, tmp_path / "out"))
    assert not list(tmp_path.rglob("*.nii.gz"))


def as_nobody() -> None:
    """Root may write anywhere."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder in which everybody may work."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


def locked(source: Path) -> None:
    for path in [*source.rglob("*"), source]:
        path.chmod(0o555 if path.is_dir() else 0o444)


def may_change(source: Path) -> bool:
    """Whether this process can change, remove or add a file."""
    file = next(path for path in source.rglob("*") if path.is_file())
    for work in (lambda: file.open("ab").close(), (source / "new").touch, file.unlink):
        try:
            work()
        except PermissionError:
            continue
        return True
    return False


@pytest.mark.parametrize("command", ["lidc", "mr", "nifti"])
def test_a_source_that_nobody_can_write_to_is_enough(open_folder: Path, command: str) -> None:
    """R3: whoever runs the command here can neither change, nor remove, nor add a file of the source."""
    source, wanted, out = (open_folder / name for name in ("source", "wanted", "out"))
    if command == "nifti":
        volume = np.random.default_rng(0).random((12, 12, 12)).astype(np.float32)
        write_nifti(source / "a" / "one.nii.gz", volume, np.diag([8.0, 8, 8, 1]))
    else:
        write_series(source / "a", mr_slice if command == "mr" else None)
    folder = "--data-dir" if command == "nifti" else "--dicom-dir"
    line = ["preprocess", command, folder, source, "--size", 16, "--spacing", 8, "--workers", 1, "--out"]
    assert wdm(*line, wanted).code == 0  # all libraries are loaded: nobody cannot read where they may lie
    locked(source)
    before = {path: (path.stat().st_mtime_ns, path.stat().st_mode) for path in source.rglob("*")}
    hashes = tree(source)
    child = os.fork()
    if child == 0:
        code = 98
        try:
            as_nobody()
            code = 99 if may_change(source) else wdm(*line, out).code
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert {k: v for k, v in volumes(out).items() if k.endswith(".gz")}
    assert volumes(out) == volumes(wanted)
    assert tree(source) == hashes
    assert {path: (path.stat().st_mtime_ns, path.stat().st_mode) for path in source.rglob("*")} == before


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_disk_that_fills_up(tmp_path: Path, workers: int) -> None:
    """R19: exit 5 with path and reason, earlier cases as they were, nothing half; the same command goes on."""
    for number in range(2):
        write_series(tmp_path / "in" / str(number), name=f"s{number}", patient=f"LIDC-IDRI-000{number}")
    wanted, out = tmp_path / "wanted", tmp_path / "out"
    shutil.copytree(tmp_path / "in" / "0", tmp_path / "first" / "0")
    line = [sys.executable, "-m", "wdm_cli", "preprocess", "lidc", "--size", "16", "--spacing", "8"]

    def real(folder: str, to: Path, most: int = resource.RLIM_INFINITY) -> subprocess.CompletedProcess[str]:
        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

        command = [*line, "--dicom-dir", str(tmp_path / folder), "--out", str(to), "--workers", str(workers)]
        return subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=limit)

    assert real("in", wanted).returncode == 0
    assert real("first", out).returncode == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.suffix in (".gz", ".png", ".jsonl")}
    smallest = min(path.stat().st_size for path in wanted.rglob("*.nii.gz"))
    shutil.rmtree(tmp_path / "first")
    full = real("in", out, smallest - 1000)
    assert full.returncode == 5, full.stderr
    assert "larger than a file may be here" in full.stderr, full.stderr
    assert str(out) in full.stderr
    assert "Traceback" not in full.stderr
    assert {path: path.read_bytes() for path in before} == before
    assert len(list(out.rglob("*.nii.gz"))) == 1
    assert real("in", out).returncode == 0
    assert volumes(out) == volumes(wanted)


MEMORY = """
import sys
from pathlib import Path
import numpy as np
import wdm_cli.engine.preprocess.ct as ct
from wdm_cli.engine.dicom import Policy, scan
from wdm_cli.engine.errors import DataError
from wdm_cli.engine.preprocess import Target, plan_lidc
from wdm_cli.engine.preprocess.work import make
rng = np.random.default_rng(0)
plane = rng.integers(-1000, 1000, (512, 512)).astype(np.float32)
ct.rescaled = lambda item: (plane.copy(), None)
sys.path.insert(0, sys.argv[1])
from test_dicom_archives import header, FILES
slices = [header(FILES[i], "LIDC-IDRI-0001", "1.2.3", 0.7, i * 0.6) for i in range(764)]
(job,) = plan_lidc(slices, Path("/x"), Policy(), Target()).jobs
entry = make(job, Path(sys.argv[2]))
assert entry.verdict == "accepted", entry
import peak
print(peak.peak() / 1e9)
"""


@pytest.mark.slow
def test_the_largest_scan_of_lidc_fits_into_memory(tmp_path: Path) -> None:
    """764 slices of 512² need at most 2.5 GB."""
    command = [sys.executable, "-c", MEMORY, str(Path(__file__).parent), str(tmp_path)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    assert float(made.stdout) < 2.5
