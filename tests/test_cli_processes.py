"""Several processes of one command: their place, their device, their start and end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from command import sets, wdm
from ranks import free_port
from small import SETS

from wdm_cli.cli import console
from wdm_cli.cli.processes import check_gpus, own_device, place, start_together, without_option
from wdm_cli.engine.checkpoint import read
from wdm_cli.engine.data.phantom import write_phantoms
from wdm_cli.engine.distributed import Place
from wdm_cli.engine.errors import ConfigError, ResourceError

TORCHRUN = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "node7", "MASTER_PORT": "1234"}


@pytest.fixture(autouse=True)
def _loud() -> Any:
    yield
    console.Verbosity.level = console.Verbosity.rank = 0


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"WORLD_SIZE": "1", "RANK": "0"}, None),
        (TORCHRUN, Place(1, 4, 1, "node7:1234")),
        (TORCHRUN | {"MASTER_ADDR": "fe80::1"}, Place(1, 4, 1, "[fe80::1]:1234")),
        ({"WORLD_SIZE": "2", "RANK": "1"}, Place(1, 2, 1, "127.0.0.1:29500")),
    ],
)
def test_the_place_of_a_process(environment: dict[str, str], expected: Place | None) -> None:
    assert place(environment) == expected


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"RANK": None}, "RANK is not set"), ({"RANK": "4"}, "no such process"), ({"RANK": "x"}, "RANK=x: must be"),
     ({"WORLD_SIZE": "many"}, "WORLD_SIZE=many"), ({"MASTER_PORT": "0"}, "no such process")],
)  # fmt: skip
def test_places_that_are_none(change: dict[str, str | None], reason: str) -> None:
    environment = {k: v for k, v in (TORCHRUN | change).items() if v is not None}
    with pytest.raises(ConfigError, match=reason):
        place(environment)


def test_only_the_first_speaks(capsys: pytest.CaptureFixture[str]) -> None:
    place(TORCHRUN)
    console.note("progress")
    console.warn("careful")
    with pytest.raises(SystemExit) as stop:
        console.fail(ConfigError("all say this"))
    assert stop.value.code == 2
    with pytest.raises(SystemExit):
        console.fail(ResourceError("disk of this machine"))
    assert capsys.readouterr().err == "error in process 1: disk of this machine\n"


def test_devices(monkeypatch: Any) -> None:
    import torch

    taken: list[str] = []
    monkeypatch.setattr("wdm_cli.engine.device.choose_device", lambda name: taken.append(name))
    third = Place(3, 4, 3, "a:1")
    own_device("cpu", third)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for count in (4, 1):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        own_device("auto", third)
    own_device("cuda:2", None)
    assert taken == ["cpu", "cuda:3", "cuda:0", "cuda:2"]
    with pytest.raises(ConfigError, match="each of 4 processes takes a GPU of its own"):
        own_device("cuda:2", third)


def test_gpus_that_cannot_be_had(monkeypatch: Any) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_gpus(2, "auto", {})
    with pytest.raises(ResourceError, match="--gpus 3: this machine has 2"):
        check_gpus(3, "cuda", {})
    with pytest.raises(ConfigError, match="takes a GPU of its own"):
        check_gpus(2, "cpu", {})
    with pytest.raises(ConfigError, match="one of several already"):
        check_gpus(2, "auto", TORCHRUN)
    check_gpus(2, "auto", {"WORLD_SIZE": "1"})  # one process is not several, as `place` says too
    with pytest.raises(ConfigError, match="WORLD_SIZE=many: must be a whole number"):
        check_gpus(2, "auto", {"WORLD_SIZE": "many"})
    for command in (["train", "--preset", "tiny"], ["sample", "-n", 1, "--out", "nowhere"]):
        assert wdm(*command, "--gpus", 2, "--device", "cpu").code == 2
    refused = wdm("train", "--preset", "tiny", "--gpus", 2, "--set", "train.batch_size=3")
    assert refused.code == 2
    assert "cannot be divided among 2 processes" in refused.err


def test_options_are_taken_out_of_a_command_line() -> None:
    line = ["-q", "train", "--gpus", "2", "--out", "--gpus=x", "--gpus=3", "--set", "a=b", "--overwrite"]
    assert without_option(line, "--gpus=", "--overwrite") == ["-q", "train", "--out", "--set", "a=b"]


def test_processes_started_inside_a_torchrun_of_one_meet_each_other(monkeypatch: Any) -> None:
    """With its variables they would wait for a server that its agent has elsewhere."""
    for name, value in {"WORLD_SIZE": "1", "RANK": "0", "TORCHELASTIC_USE_AGENT_STORE": "True"}.items():
        monkeypatch.setenv(name, value)
    started, popen = [], subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **kw: (started.append(kw["env"]), popen(*args, **kw))[1])
    assert start_together(2, ["--version"]) == 0
    assert [(e["RANK"], e["WORLD_SIZE"]) for e in started] == [("0", "2"), ("1", "2")]
    assert not [name for e in started for name in e if name.startswith("TORCHELASTIC_")]


TRAIN = sets(*SETS, "train.batch_size=2", "train.save_every=50", "train.preview_every=100", "train.log_every=50",
             "sample.steps=3")  # fmt: skip


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heads")
    write_phantoms(folder, 4, size=16)
    return folder


def train(heads: Path, out: Path, steps: int) -> list[str]:
    return ["train", "--preset", "tiny", "--data-dir", str(heads), "--out", str(out), "--device", "cpu", "--workers",
            "1", *TRAIN, "--steps", str(steps)]  # fmt: skip


def launch(*arguments: str, torchrun: bool) -> subprocess.Popen[str]:
    """Two processes by torchrun, which starts them once more when one dies, or by the launcher behind --gpus."""
    if torchrun:
        start = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--max-restarts", "1", "--master_port",
                 str(free_port()), "-m", "wdm_cli"]  # fmt: skip
    else:
        program = "import sys; from wdm_cli.cli.processes import start_together as s; sys.exit(s(2, sys.argv[1:]))"
        start = ["-c", program]
    return subprocess.Popen([sys.executable, *start, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})  # fmt: skip


def tensors(out: Path) -> tuple[int | None, Any]:
    found = read(max((out / "checkpoints").glob("*.pt")))
    parts: list[Any] = [found.weights, found.ema, *found.training["optimizer"]["state"].values()]
    return found.step, [tensor.tolist() for part in parts for tensor in part.values()]


def workers(parent: int) -> dict[int, int]:
    """Process ids of the processes of a training by rank."""
    found = {}
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            if f"PPid:\t{parent}\n" in status.read_text():
                environment = (status.parent / "environ").read_bytes()
                if rank := re.search(rb"\0RANK=(\d+)\0", environment):
                    found[int(rank[1])] = int(status.parent.name)
        except OSError:
            continue
    return found


def wait_for_checkpoint(out: Path, process: subprocess.Popen[str]) -> None:
    while not list((out / "checkpoints").glob("*.pt")) and process.poll() is None:
        time.sleep(0.02)


@pytest.mark.slow
def test_torchrun_starts_again_what_was_killed(heads: Path, tmp_path: Path) -> None:
    """T11: one of two processes killed with -9; the end is that of an undisturbed training by two."""
    straight = launch(*train(heads, tmp_path / "straight", 120), torchrun=False)
    _, err = straight.communicate(timeout=100)
    assert straight.returncode == 0, err
    run = tmp_path / "run"
    process = launch(*train(heads, run, 120), torchrun=True)
    wait_for_checkpoint(run, process)
    os.kill(workers(process.pid)[1], signal.SIGKILL)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    assert err.count("continuing") == 1
    assert err.count("finished at step 120") == 1
    assert tensors(run) == tensors(tmp_path / "straight")
    lines = (run / "metrics.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["step", "50", "100", "120"]
    assert not list(run.rglob(".partial"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGHUP, signal.SIGKILL], ids=lambda n: n.name)
def test_the_launcher_passes_signals_on_and_never_leaves_processes_behind(
    number: signal.Signals, heads: Path, tmp_path: Path
) -> None:
    """SIGUSR1, SIGHUP: 75 and a checkpoint. SIGKILL of the launcher itself: its processes save and end too."""
    run = tmp_path / "run"
    process = launch(*train(heads, run, 10**6), torchrun=False)
    wait_for_checkpoint(run, process)
    there = workers(process.pid)
    assert sorted(there) == [0, 1]
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == (-number if number == signal.SIGKILL else 75), err
    patience = time.monotonic() + 30
    while any(Path(f"/proc/{pid}/environ").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]
              for pid in there.values()):  # fmt: skip
        assert time.monotonic() < patience, "processes outlive their launcher"
        time.sleep(0.05)
    step, _ = tensors(run)
    assert step
    assert err.count("stopping after this step") == 1
    assert f"at step {step:,}; the checkpoint is saved" in err


@pytest.mark.slow
def test_a_killed_process_ends_the_others_after_a_checkpoint(heads: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = launch(*train(heads, run, 10**6), torchrun=False)
    wait_for_checkpoint(run, process)
    time.sleep(0.3)
    os.kill(workers(process.pid)[1], signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGKILL, err
    assert "process 1 was ended by SIGKILL" in err
    assert err.count("error: another process of this training ended or cannot be reached") == 1
    assert "Traceback" not in err
    assert (tensors(run)[0] or 0) >= 50


@pytest.mark.slow
def test_samples_by_two_processes(heads: Path, tmp_path: Path) -> None:
    assert wdm(*train(heads, tmp_path / "run", 2)).code == 0
    arguments = ["sample", "-n", "12", "--run", str(tmp_path / "run"), "--device", "cpu"]
    assert wdm(*arguments, "--out", tmp_path / "one").code == 0
    process = launch(*arguments, "--out", str(tmp_path / "two"), torchrun=False)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / f).glob("sample_*")} for f in ("one", "two"))
    assert one == two
    assert len(one) == 12
    assert (tmp_path / "two" / "preview.png").exists()
