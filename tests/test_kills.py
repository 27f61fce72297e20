"""Processes that are killed, stopped, starved of disk or shut out, in the middle of real work.

Children are forked, so that each begins its work at once and a kill meets the work and not the imports.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import random
import resource
import shutil
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from small import Heads, digest, small

from wdm_cli.cli import console
from wdm_cli.cli import sample as sample_command
from wdm_cli.cli import train as train_command
from wdm_cli.config import Resolved, resolve
from wdm_cli.engine import checkpoint as checkpoints
from wdm_cli.engine.checkpoint import read
from wdm_cli.engine.data.parallel import ASKING
from wdm_cli.engine.data.phantom import write_phantoms
from wdm_cli.engine.run import checkpoint_files, latest_checkpoint
from wdm_cli.engine.run import train as run_train
from wdm_cli.engine.train import Trainer

CPU = torch.device("cpu")
SCALE = [pytest.param(10, id="10"), pytest.param(100, id="100", marks=pytest.mark.slow)]


class Child:
    """A forked process that does `work` and ends with the exit code the command line would give."""

    def __init__(self, work: Callable[[], object]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside threads; there are none
            self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.suppress(SystemExit):
                    try:
                        console.run(work)
                        code = 0
                    except SystemExit as stop:
                        code = int(stop.code or 0)
                if code not in (0, 75):
                    Path(os.environ["CHILD_LOG"]).write_text(said.getvalue())
            finally:
                os._exit(code)

    def wait(self) -> int:
        """Exit code, or minus the signal that killed it."""
        _, status, usage = os.wait4(self.pid, 0)
        self.used = usage.ru_utime + usage.ru_stime
        return os.waitstatus_to_exitcode(status)

    def after(self, seconds: float, number: signal.Signals) -> int:
        """Exit code after a signal; `seconds` is the processor time from the signal to the end."""
        time.sleep(seconds)
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        before = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
        code = self.wait()
        self.seconds = self.used - before
        return code


@pytest.fixture(autouse=True)
def log(tmp_path: Path, monkeypatch: Any) -> Path:
    monkeypatch.setenv("CHILD_LOG", str(tmp_path / "child.log"))
    return tmp_path / "child.log"


class Saves:
    """Tells this process when a child begins to write a checkpoint."""

    def __init__(self) -> None:
        self.out, self.into = os.pipe()
        self.write = checkpoints.write_pt

    def __call__(self, *args: Any) -> None:
        os.write(self.into, b"x")
        self.write(*args)

    def wait(self) -> None:
        """Until the next save, whatever was saved before."""
        os.set_blocking(self.out, False)
        with contextlib.suppress(BlockingIOError):
            while os.read(self.out, 1024):
                pass
        os.set_blocking(self.out, True)
        os.read(self.out, 1)


@pytest.fixture
def saves() -> Iterator[Saves]:
    watch = Saves()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "write_pt", watch)
        yield watch
    os.close(watch.out)
    os.close(watch.into)


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    """One step here, so that no child spends its life importing what torch imports late."""
    steps = Trainer(small(), Heads(), CPU).run()
    next(steps)
    steps.close()


def run_of(steps: int) -> Any:
    return small(train__steps=steps, train__save_every=2)


def state_of(run: Path) -> tuple[int, str]:
    """Step and digest of the newest checkpoint."""
    found, damaged = latest_checkpoint(run)
    assert not damaged
    assert found.preset is not None
    assert found.step is not None
    heads = Heads()
    heads.names = heads.names[: found.training["data"]["cases"]]
    if found.preset.data.dir != small().data.dir:
        heads.names = tuple(f"phantom_{i:04d}" for i in range(len(heads.names)))
    trained = Trainer(found.preset, heads, CPU)
    trained.restore(found)
    return found.step, digest(trained)


@pytest.mark.parametrize("kills", SCALE)
def test_training_survives_kill_9(kills: int, tmp_path: Path, log: Path, saves: Saves) -> None:
    """Whatever is under a final name can be read, no saved step is lost, and the end is the undisturbed run's."""
    draw, run, newest = random.Random(1), tmp_path / "run", 0
    for _ in range(kills):
        child = Child(lambda: list(run_train(Trainer(run_of(10**6), Heads(), CPU), run)))
        for _ in range(draw.choice([1, 1, 2])):  # when the second save begins, the first has been made
            saves.wait()
        assert child.after(draw.choice([0, 0.005, 0.01, draw.uniform(0, 0.05)]), signal.SIGKILL) == -signal.SIGKILL, (
            log.read_text()
        )
        files = checkpoint_files(run)
        assert all(read(path).step == step for step, path in files.items())
        assert max(files, default=0) >= newest
        newest = max(files, default=0)
    assert newest > kills // 6  # it did get on
    for folder in (run, tmp_path / "straight"):
        list(run_train(Trainer(run_of(newest + 3), Heads(), CPU), folder))
    assert state_of(run) == state_of(tmp_path / "straight")
    assert not list(tmp_path.rglob(".partial"))


def hashes(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.glob("sample_*.nii.gz"))}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("model")
    list(run_train(Trainer(small(train__steps=2, sample__steps=3), Heads(), CPU), run))
    return run


def fill(model: Path, out: Path, number: int) -> None:
    source, _ = latest_checkpoint(model)
    assert source.preset is not None
    sample_command.sample_into(out, source, source.preset, number, seed=0, batch_size=1, ema=True, precision="float32",
                               device=CPU)  # fmt: skip


@pytest.mark.parametrize("kills", SCALE)
def test_sampling_by_three_processes_survives_kill_9(kills: int, model: Path, tmp_path: Path, log: Path) -> None:
    """The files of one serial run: none twice, none rewritten, none unreadable at any moment."""
    number, out, draw, killed = 40, tmp_path / "s", random.Random(2), 0
    seen: dict[str, tuple[int, int]] = {}
    children: list[Child] = []
    while killed < kills:
        children += [Child(partial(fill, model, out, number)) for _ in range(3 - len(children))]
        code = children.pop(draw.randrange(3)).after(draw.uniform(0.01, 0.08), signal.SIGKILL)
        assert code in (0, -signal.SIGKILL), log.read_text()
        killed += code < 0
        there = {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in out.glob("sample_*.nii.gz")}
        assert there.items() >= seen.items()
        for name in there.keys() - seen.keys():
            np.asarray(nib.load(out / name).dataobj)
        seen = there
        if len(seen) > number - 5:
            number += 40
    assert [child.wait() for child in children] == [0] * len(children), log.read_text()
    fill(model, out, number)  # the rest, if all were killed at the end
    fill(model, tmp_path / "serial", number)
    assert hashes(out) == hashes(tmp_path / "serial")
    assert len((out / "samples.csv").read_text().splitlines()) == number + 1
    assert not (out / ".partial").exists()


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heads")
    write_phantoms(folder, 3, size=8)
    return folder


def train_on(heads: Path, run: Path, steps: int) -> None:
    preset = small(train__steps=steps, train__save_every=2, data__dir=str(heads))
    train_command.run_training(Resolved(preset, {}), run, CPU, workers=1)


@pytest.mark.parametrize("where", [pytest.param("anywhere", marks=pytest.mark.slow), "inside a save"])
def test_signals_stop_with_75_and_lose_nothing(
    where: str, heads: Path, tmp_path: Path, log: Path, saves: Saves
) -> None:
    """Ten signals of every kind: each life ends with a checkpoint of its last step, the last with the same state."""
    draw, run, newest = random.Random(3), tmp_path / "run", 0
    for turn in range(10):
        child = Child(lambda: train_on(heads, run, 10**6))
        saves.wait()
        number = ASKING[turn % len(ASKING)]
        assert child.after(draw.uniform(0, 0.1) if where == "anywhere" else 0, number) == 75, log.read_text()
        assert child.seconds < 2
        files = checkpoint_files(run)
        assert max(files) > newest
        newest = max(files)
        assert read(files[newest]).step == newest
    for folder in (run, tmp_path / "straight"):
        train_on(heads, folder, newest + 3)
    assert state_of(run) == state_of(tmp_path / "straight")


@pytest.mark.slow
def test_the_preset_tiny_stops_within_two_seconds(tmp_path: Path, log: Path, saves: Saves) -> None:
    """R16; of processor time, so that the machine's load does not count."""
    write_phantoms(tmp_path / "data", 4, size=32)
    options = {"data.dir": str(tmp_path / "data"), "train.steps": 10**6, "train.save_every": 3}
    child = Child(
        lambda: train_command.run_training(resolve("tiny", options=options), tmp_path / "run", CPU, workers=1)
    )
    saves.wait()
    assert child.after(0.3, signal.SIGTERM) == 75, log.read_text()
    assert child.seconds < 2


def test_a_volume_lost_in_the_middle_costs_no_finished_step(
    heads: Path, tmp_path: Path, log: Path, saves: Saves
) -> None:
    """The cache is deleted while a training reads it: exit 3 after a checkpoint; the same command caches again."""
    run, cache = tmp_path / "run", tmp_path / "cache"
    preset = small(train__steps=10**6, train__save_every=3, data__dir=str(heads))

    def work(steps: int = 10**6) -> None:
        os.environ["WDM_CACHE_DIR"] = str(cache)
        resolved = Resolved(replace(preset, train=replace(preset.train, steps=steps)), {})
        train_command.run_training(resolved, run, CPU, workers=1)

    child = Child(work)
    saves.wait()
    shutil.rmtree(cache)
    assert child.wait() == 3
    assert "in the cache is missing or damaged" in log.read_text()
    newest = max(checkpoint_files(run))
    assert Child(lambda: work(newest + 2)).wait() == 0
    assert max(checkpoint_files(run)) == newest + 2


@pytest.mark.slow
def test_a_stopped_and_continued_process_goes_on(heads: Path, tmp_path: Path, log: Path, saves: Saves) -> None:
    """As a scheduler suspends it, within and between saves."""
    child = Child(lambda: train_on(heads, tmp_path / "run", 30))
    for _ in range(4):
        saves.wait()
        os.kill(child.pid, signal.SIGSTOP)
        time.sleep(0.02)
        os.kill(child.pid, signal.SIGCONT)
    assert child.wait() == 0, log.read_text()
    train_on(heads, tmp_path / "straight", 30)
    assert state_of(tmp_path / "run") == state_of(tmp_path / "straight")


def limited(work: Callable[[], object], most: int) -> Callable[[], object]:
    """The same work where no file can grow beyond `most` bytes."""

    def inside() -> object:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        return work()

    return inside


def test_a_disk_that_fills_up_in_training(heads: Path, tmp_path: Path, log: Path) -> None:
    train_on(heads, tmp_path / "run", 4)
    before = {p: p.read_bytes() for p in (tmp_path / "run" / "checkpoints").iterdir()}
    assert Child(limited(lambda: train_on(heads, tmp_path / "run", 9), 100_000)).wait() == 5
    assert "step_0000006.pt: larger than a file may be here" in log.read_text()
    assert {p: p.read_bytes() for p in (tmp_path / "run" / "checkpoints").iterdir()} == before
    assert Child(lambda: train_on(heads, tmp_path / "run", 6)).wait() == 0


def test_a_disk_that_fills_up_in_sampling(model: Path, tmp_path: Path, log: Path) -> None:
    assert Child(limited(lambda: fill(model, tmp_path / "s", 2), 1000)).wait() == 5
    assert "run.json: larger than a file may be here" in log.read_text()
    fill(model, tmp_path / "s", 1)
    whole = hashes(tmp_path / "s")
    size = (tmp_path / "s" / "run.json").stat().st_size
    shutil.rmtree(tmp_path / "s")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nib.Nifti1Image, "to_filename", _too_large)
        assert Child(limited(lambda: fill(model, tmp_path / "s", 1), size + 500)).wait() == 5
    assert "sample_000000.nii.gz: larger than a file may be here" in log.read_text()
    assert not list(tmp_path.rglob("sample_*"))
    assert Child(lambda: fill(model, tmp_path / "s", 1)).wait() == 0
    assert hashes(tmp_path / "s") == whole


def _too_large(image: Any, file: Any, *args: Any, **kwargs: Any) -> None:
    with Path(file).open("wb") as out:
        out.write(b"x" * 100_000)


@pytest.fixture
def locked_out() -> Iterator[Path]:
    """A folder that nobody may write to, in one that everybody may read."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    (folder / "out").mkdir(mode=0o555)
    (folder / "log").mkdir()
    (folder / "log").chmod(0o777)
    yield folder
    (folder / "out").chmod(0o755)
    shutil.rmtree(folder)


def as_nobody(work: Callable[[], object]) -> Callable[[], object]:
    """Root may write anywhere."""

    def inside() -> object:
        if os.geteuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        return work()

    return inside


def test_a_read_only_output_is_found_before_any_work(locked_out: Path, model: Path, monkeypatch: Any) -> None:
    write_phantoms(locked_out / "heads", 3, size=8)
    monkeypatch.setenv("CHILD_LOG", str(locked_out / "log" / "child.log"))
    monkeypatch.setattr(train_command, "open_volumes", lambda *args: pytest.fail("the work has begun"))
    assert Child(as_nobody(lambda: train_on(locked_out / "heads", locked_out / "out" / "run", 2))).wait() == 5
    assert "Permission denied" in (locked_out / "log" / "child.log").read_text()
    source, _ = latest_checkpoint(model)

    def sample() -> None:
        sample_command.sample_into(locked_out / "out", source, source.preset, 1, seed=0, batch_size=1, ema=True,
                                   precision="float32", device=CPU)  # fmt: skip

    assert Child(as_nobody(sample)).wait() == 5
