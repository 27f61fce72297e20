"""Asked to end by a scheduler, a keyboard or a terminal that closes: what is finished is kept, exit 75."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from command import sets, start, wdm
from small import SETS, small, trainer

from wdm_cli.cli.evaluate_show import follow
from wdm_cli.cli.stop import StopRequest, asking, until_asked
from wdm_cli.engine.data import parallel
from wdm_cli.engine.data.parallel import ASKING
from wdm_cli.engine.data.phantom import write_phantoms
from wdm_cli.engine.errors import ResourceError, Stopped
from wdm_cli.engine.metrics.metric import Progress
from wdm_cli.engine.run import checkpoint_files
from wdm_cli.engine.run import train as run_train


@pytest.fixture(autouse=True)
def hangups_are_heard() -> Generator[None, None, None]:
    """Also in tests that were started under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", ASKING, ids=lambda n: n.name)
def test_every_signal_that_asks_is_heard_and_handed_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopRequest("saving") as stop:
        assert not stop()
        send(number)
        assert stop()
        assert stop.reason == number.name
    assert signal.getsignal(number) == before


def test_a_hangup_that_is_ignored_from_the_start_on_stays_ignored() -> None:
    """As under nohup; the other signals are heard."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert set(asking()) == set(ASKING) - {signal.SIGHUP}
        with StopRequest("saving") as stop:
            send(signal.SIGHUP)
            assert not stop()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def job(events: list[int], wrong: Exception | None = None) -> Generator[Progress, None, str]:
    try:
        for done in range(1, 4):
            if done == 2:
                send(signal.SIGUSR2)
                if wrong is not None:
                    raise wrong
            events.append(done)
            yield Progress("work", done, 3)
    finally:
        events.append(-1)
    return "result"


def test_a_job_is_closed_after_the_step_in_work() -> None:
    events: list[int] = []
    with pytest.raises(Stopped, match="stopped by SIGUSR2; what is finished is kept") as caught:
        follow(job(events))
    assert caught.value.exit_code == 75
    assert events == [1, 2, -1]
    assert list(until_asked(iter_of([1, 2]))) == [1, 2]


def iter_of(values: list[int]) -> Generator[int, None, None]:
    yield from values


def test_workers_that_the_same_signal_ended_are_no_failure() -> None:
    with pytest.raises(Stopped):
        follow(job([], ResourceError("a worker process ended without a word")))
    with pytest.raises(ZeroDivisionError):
        follow(job([], ZeroDivisionError()))


def dispositions(index: int) -> list[str]:
    return [number.name for number in ASKING if signal.getsignal(number) != signal.SIG_IGN]


@pytest.mark.slow
def test_workers_leave_all_but_sigterm_to_their_parent() -> None:
    found = [result for _, result in parallel.run(dispositions, [0, 1], 2)]
    assert found == [["SIGTERM"]] * 2


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heads")
    write_phantoms(folder, 4, size=16)
    return folder


def when(there: Callable[[], object], process: subprocess.Popen[Any]) -> None:
    """Wait until something is there, or the process has ended."""
    patience = time.monotonic() + 60
    while not there() and process.poll() is None and time.monotonic() < patience:
        time.sleep(0.02)
    time.sleep(0.1)


def test_a_terminal_that_closes_costs_no_step(heads: Path, tmp_path: Path) -> None:
    """With the bar drawn on it: the hangup, and then every write to it fails."""
    run = tmp_path / "run"
    terminal, ours = pty.openpty()
    command = ["train", "--preset", "tiny", "--data-dir", heads, "--out", run, "--workers", 1, "--steps", 10**6]
    process = subprocess.Popen(
        [sys.executable, "-c", "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
         "from wdm_cli.cli.main import main; main()", *map(str, command), *sets(*SETS, "train.log_every=1")],
        stdin=ours, stdout=ours, stderr=ours, start_new_session=True, env=os.environ | {"TERM": "xterm"},
    )  # fmt: skip
    os.close(ours)
    seen = b""
    while b"training" not in seen and process.poll() is None:
        seen += os.read(terminal, 4096)
    when(lambda: (run / "metrics.csv").exists() and len((run / "metrics.csv").read_text().splitlines()) > 2, process)
    os.close(terminal)
    assert process.wait(60) == 75
    assert len(checkpoint_files(run)) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", [signal.SIGHUP, pytest.param(signal.SIGXCPU, marks=pytest.mark.slow)], ids=lambda n: n.name
)
def test_preprocess_ends_with_75_and_continues(number: signal.Signals, tmp_path: Path) -> None:
    write_phantoms(tmp_path / "in", 40, size=32)
    line = ["preprocess", "nifti", "--data-dir", tmp_path / "in", "--out", tmp_path / "out", "--workers", 1]
    process = start(*line)
    when(lambda: list(tmp_path.glob("out/**/*.nii.gz")), process)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert f"stopped by {number.name}; what is finished is kept" in err
    made = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/**/*.nii.gz")}
    assert 0 < len(made) < 40
    assert wdm(*line).code == 0
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert len(list(tmp_path.glob("out/**/*.nii.gz"))) == 40


@pytest.mark.slow
def test_sample_ends_with_75_after_a_hangup(tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "s"
    list(run_train(trainer(small(train__steps=1)), run))
    process = start("sample", "-n", 10_000, "--out", out, "--run", run, "--device", "cpu")
    when(lambda: list(out.glob("*.nii.gz")), process)
    process.send_signal(signal.SIGHUP)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert "stopped by SIGHUP: " in err


def test_a_command_that_keeps_nothing_ends_without_a_traceback(tmp_path: Path) -> None:
    write_phantoms(tmp_path / "in", 40, size=32)
    process = start("verify", tmp_path / "in", "--preset", "tiny")
    time.sleep(1)
    process.send_signal(signal.SIGHUP)
    _, err = process.communicate(timeout=60)
    assert process.returncode in (0, -signal.SIGHUP)
    assert "Traceback" not in err
