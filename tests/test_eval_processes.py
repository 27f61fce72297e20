"""One evaluation by several processes: torchrun, --gpus, kills, and a full disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from command import wdm
from ranks import free_port

VOLUMES, SIDE = 4, 16
NETWORK = """
import torch
class Bands(torch.nn.Module):
    def forward(self, x):
        parts = torch.nn.functional.avg_pool3d(x, 4).flatten(1)
        return torch.cat([parts, parts.square()], 1)
def build():
    return Bands()
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real and generated volumes, and a small network of one's own."""
    root = tmp_path_factory.mktemp("eval")
    for seed, name in enumerate(("real", "fake")):
        (root / name).mkdir()
        draw = np.random.default_rng(seed)
        for index in range(VOLUMES):
            image = nib.Nifti1Image(draw.random((SIDE,) * 3, dtype=np.float32), np.eye(4))
            nib.save(image, root / name / f"v{index}.nii.gz")
    (root / "bands.py").write_text(NETWORK)
    return root


def command(root: Path, out: Path, *more: str) -> list[str]:
    return ["eval", "all", "--real", str(root / "real"), "--fake", str(root / "fake"), "--extractor", "bands:build",
            "--trust-code", "--device", "cpu", "--out", str(out), *more]  # fmt: skip


def environment(root: Path, cache: Path) -> dict[str, str]:
    path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "WDM_CACHE_DIR": str(cache)}


def run(root: Path, cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], env=environment(root, cache), capture_output=True, text=True, timeout=120
    )


@pytest.fixture(scope="module")
def alone(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The result of one process that nothing disturbed."""
    out = tmp_path_factory.mktemp("alone") / "eval.json"
    done = run(folders, out.parent / "cache", "-m", "wdm_cli", *command(folders, out))
    assert done.returncode == 0, done.stderr
    return out.read_bytes()


def rows(cache: Path) -> dict[str, int]:
    """Kept rows and when they were written."""
    return {path.name: path.stat().st_mtime_ns for path in (cache / "features").glob("*.npy")}


@pytest.mark.slow
def test_torchrun_gives_the_bytes_of_one_process(folders: Path, alone: bytes, tmp_path: Path) -> None:
    out = tmp_path / "eval.json"
    start = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(free_port()), "-m", "wdm_cli"]
    done = run(folders, tmp_path / "cache", *start, *command(folders, out, "--json"))
    assert done.returncode == 0, done.stderr
    assert out.read_bytes() == alone
    assert json.loads(done.stdout) == json.loads(alone)  # said once


def test_each_process_makes_its_share_and_only_the_first_answers(
    folders: Path, alone: bytes, tmp_path: Path, monkeypatch: Any
) -> None:
    """The two processes of a torchrun, one after the other in this one."""
    monkeypatch.setenv("WDM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(folders))
    for name, value in {"WORLD_SIZE": "2", "LOCAL_RANK": "1", "RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    second = wdm(*command(folders, tmp_path / "eval.json", "--json"))
    assert (second.code, second.out) == (0, "")
    assert not (tmp_path / "eval.json").exists()
    by_the_second = rows(tmp_path / "cache")
    monkeypatch.setenv("RANK", "0")
    from wdm_cli.cli import console

    console.Verbosity.level = console.Verbosity.rank = 0
    first = wdm(*command(folders, tmp_path / "eval.json", "--json"))
    assert first.code == 0, first.err
    assert json.loads(first.out) == json.loads(alone)
    after = rows(tmp_path / "cache")
    assert len(by_the_second) == VOLUMES * 3  # half of the volumes; two descriptions and the network's features
    assert by_the_second.items() <= after.items()


def test_gpus_are_checked_first(folders: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    arguments = command(folders, tmp_path / "eval.json")
    arguments[arguments.index("--device") + 1] = "auto"
    missing = wdm(*arguments, "--gpus", 2)
    assert missing.code == 5
    assert "--gpus 2: this machine has 1" in missing.err
    assert wdm(*arguments, "--gpus", 1, "--workers", 2).code == 2
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert wdm(*arguments, "--workers", 2).code == 2
    assert wdm(*arguments, "--gpus", 1).code == 2


def killed_and_continued(folders: Path, cache: Path, out: Path, kills: int) -> None:
    """Kill -9 evaluations in forks of one process that has imported everything, until `kills` have met their work."""
    program = f"""
import os, random, signal, sys, time
sys.path.insert(0, {str(folders)!r})
import torch, bands
from wdm_cli.cli import console
from wdm_cli.cli.main import app
import wdm_cli.engine.evaluate, wdm_cli.engine.metrics.extractor, wdm_cli.config
torch.set_num_threads(1)
draw, killed, limit = random.Random(0), 0, 0.05
sys.stderr = open(os.devnull, "w")
while True:
    child = os.fork()
    if child == 0:
        try:
            console.run(lambda: app(args={command(folders, out)!r}, standalone_mode=False))
        except SystemExit as stop:
            os._exit(int(stop.code or 0))
        os._exit(0)
    time.sleep(draw.uniform(0, limit))
    os.kill(child, signal.SIGKILL) if killed < {kills} else None
    _, status = os.waitpid(child, 0)
    if killed >= {kills}:
        sys.exit(os.waitstatus_to_exitcode(status))
    killed += 1
"""
    done = run(folders, cache, "-c", program)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kills", [2, pytest.param(40, marks=pytest.mark.slow)])
def test_kills_change_nothing(kills: int, folders: Path, alone: bytes, tmp_path: Path) -> None:
    out = tmp_path / "eval.json"
    killed_and_continued(folders, tmp_path / "cache", out, kills)
    assert out.read_bytes() == alone
    for path in (tmp_path / "cache").rglob("*.npy"):
        np.load(path)  # readable under its final name


@pytest.mark.slow
def test_finished_features_are_not_made_again(folders: Path, alone: bytes, tmp_path: Path) -> None:
    """A process is stopped in the middle; the next one takes over the rows that are there."""
    cache, out = tmp_path / "cache", tmp_path / "eval.json"
    process = subprocess.Popen(
        [sys.executable, "-m", "wdm_cli", *command(folders, out)],
        env=environment(folders, cache),
        stderr=subprocess.DEVNULL,
    )
    while not rows(cache) and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = rows(cache)
    assert there
    done = run(folders, cache, "-m", "wdm_cli", *command(folders, out))
    assert done.returncode == 0, done.stderr
    assert out.read_bytes() == alone
    assert there.items() <= rows(cache).items()


@pytest.mark.slow
def test_a_full_disk_is_said_and_costs_nothing(folders: Path, alone: bytes, tmp_path: Path) -> None:
    cache, out = tmp_path / "cache", tmp_path / "eval.json"
    limited = (
        "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300)); "
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "sys.argv = ['wdm', *sys.argv[1:]]; runpy.run_module('wdm_cli', run_name='__main__')"
    )
    done = run(folders, cache, "-c", limited, *command(folders, out))
    assert done.returncode == 5, done.stderr
    assert str(cache) in done.stderr
    assert "larger than a file may be here" in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()
    for path in cache.rglob("*.npy"):
        np.load(path)
    again = run(folders, cache, "-m", "wdm_cli", *command(folders, out))
    assert again.returncode == 0, again.stderr
    assert out.read_bytes() == alone
