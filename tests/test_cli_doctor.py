"""wdm doctor: what a bug report needs, what is wrong, what is slow; also with a torch that cannot be loaded."""

from __future__ import annotations

import builtins
import json
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from command import wdm
from torch import nn

from wdm_cli.cli import about
from wdm_cli.cli.train_data import cache_folder
from wdm_cli.engine import machine, native, provenance, selfcheck
from wdm_cli.engine.errors import ResourceError

WANTED = {
    "wdm",
    "python",
    "torch",
    "device",
    "platform",
    "processor",
    "threads",
    "usable processors",
    "onednn",
    "cpu loops",
    "cache",
}


def test_what_a_bug_report_needs() -> None:
    result = wdm("doctor", "--json")
    facts = json.loads(result.out)
    assert result.code == (5 if facts["problems"] else 0)
    assert facts.keys() >= WANTED | {"free here", "file system here", "extras", "bf16 against float32"}
    shown = wdm("doctor")
    assert shown.out.startswith("what\tfound")
    assert "nothing wrong found" in shown.err or facts["problems"]


def test_the_compiled_loops_are_switched_off_by_off_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WDM_NATIVE", "OFF")
    try:
        assert "switched off (WDM_NATIVE=off)" in wdm("doctor").out
    finally:
        native.switch(True)
    monkeypatch.setenv("WDM_NATIVE", "0")
    result = wdm("doctor")
    assert (result.code, "on or off" in result.err) == (2, True)


def test_bad_builds() -> None:
    assert about.bad_builds("2.13.0+cpu", None) == []
    assert "wdm needs 2.10 or newer (2.9 runs" in about.bad_builds("2.9.1", None)[0]
    assert about.bad_builds("2.8.0", None) == ["torch 2.8.0: wdm needs 2.10 or newer"]
    assert "cuDNN 90800" in about.bad_builds("2.13.0", 90800)[0]
    assert about.bad_builds("2.13.0", 91100) == []


def test_a_library_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "LIBRARIES", (*provenance.LIBRARIES, "nosuchlibrary"))
    result = wdm("doctor", "--json")
    assert result.code == 5
    assert "nosuchlibrary is not installed" in json.loads(result.out)["problems"]


def test_a_torch_that_cannot_be_loaded_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def fail(name: str, *rest: Any, **named: Any) -> Any:
        if name == "torch":
            raise OSError("libcudart.so.13: cannot open shared object file")
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", fail)
    facts, problems, _ = about.examine()
    assert "libcudart.so.13" in problems[0]
    assert facts["processor"]


def test_threads_that_hinder_each_other() -> None:
    assert "OMP_NUM_THREADS=2" in about.slow_threads(64, 2)[0]
    assert about.slow_threads(2, 2) == about.slow_threads(4, 8) == []
    assert "only 1 of 16" in about.slow_threads(1, 16)[0]


def test_settings_in_the_environment_are_named_without_their_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WDM_DATA_DIR", "/data/Jane_Doe")
    for name in about.THREAD_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    facts = about.machine_facts()
    assert "WDM_DATA_DIR" in facts["WDM_ variables"]
    assert facts["thread settings"] == "OMP_NUM_THREADS=3"
    assert "Jane" not in json.dumps(facts)


def test_extras_are_those_of_the_package() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert set(about.EXTRAS) == set(project["optional-dependencies"]) - {"dev"}


def test_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = tmp_path / "cpuinfo"
    monkeypatch.setattr(machine, "CPUINFO", listed)
    for text, name, bf16 in (
        ("model name\t: Xeon\nflags\t\t: avx2 avx512_bf16 amx_bf16\n\nmodel name\t: another", "Xeon", "AMX"),
        ("model name\t: Epyc\nflags\t\t: avx2 avx512_bf16", "Epyc", "AVX-512"),
        ("model name\t: Old\nflags\t\t: avx2", "Old", ""),
        ("processor\t: 0\nFeatures\t: fp asimd bf16 i8mm", None, "Arm"),
    ):
        listed.write_text(text)
        assert machine.bf16_instructions() == bf16
        assert machine.processor() == name or name is None
    listed.unlink()
    assert machine.processor()
    assert machine.bf16_instructions() == ""


def test_a_containers_quota_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert machine.usable_processors() == 8
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert machine.usable_processors() == 8
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("150000\n")
    assert machine.usable_processors() == 2
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert machine.usable_processors() == 2
    (tmp_path / "cpu.max").write_text("300000 100000\n")
    assert machine.usable_processors() == 3


def test_file_systems_and_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mounts"
    monkeypatch.setattr(machine, "MOUNTS", mounts)
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\nserver:/x {tmp_path} nfs4 rw 0 0\ntmpfs /elsewhere tmpfs rw 0 0\n")
    assert machine.file_system(tmp_path / "not" / "yet") == "nfs4"
    assert machine.file_system(Path("/")) == "ext4"
    assert machine.locks(tmp_path / "not" / "yet") == "work"
    assert list(tmp_path.iterdir()) == [mounts]

    def refuse(*_: Any) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(machine.fcntl, "flock", refuse)
    assert machine.locks(tmp_path) == "No locks available"
    _, notes = about.examine_places()
    assert any("two commands on one folder" in text for text in notes)


def test_bf16_that_is_wrong_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1e-4 < selfcheck.bf16_deviation(torch.device("cpu")) < about.WRONG / 2
    assert about.wrong_bf16(0.005) == []

    class Wrong(nn.Conv3d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            good = super().forward(x)
            return torch.cat([good[:, :1] * 2, good[:, 1:]], 1) if torch.is_autocast_enabled("cpu") else good

    monkeypatch.setattr(selfcheck, "conv3", lambda a, b: Wrong(a, b, 3, padding=1))
    assert selfcheck.bf16_deviation(torch.device("cpu")) > about.WRONG
    problems = json.loads(wdm("doctor", "--json").out)["problems"]
    assert any("use float32" in text for text in problems)


def test_the_commit_of_a_checkout_a_worktree_and_a_packed_branch(tmp_path: Path) -> None:
    assert provenance.commit(tmp_path) is None

    def git(*words: str) -> str:
        author = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=trunk"]
        done = subprocess.run(
            ["git", *author, *words], cwd=tmp_path / "one", capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    (tmp_path / "one").mkdir()
    git("init")
    git("commit", "--allow-empty", "-m", "first")
    git("worktree", "add", "-b", "side", str(tmp_path / "two"))
    head = git("rev-parse", "HEAD")
    assert provenance.commit(tmp_path / "one") == provenance.commit(tmp_path / "two") == head
    git("pack-refs", "--all")
    assert provenance.commit(tmp_path / "one") == provenance.commit(tmp_path / "two") == head
    git("checkout", "--detach")
    assert provenance.commit(tmp_path / "one") == head


def test_a_cache_that_may_not_be_read_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(about, "folder_bytes", refuse)
    monkeypatch.setenv("WDM_CACHE_DIR", str(tmp_path / "other"))
    facts, notes = about.examine_places()
    assert notes == [f"{tmp_path / 'other'}: Permission denied; WDM_CACHE_DIR names another cache"]
    assert "free here" in facts


def test_an_account_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("WDM_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(ResourceError, match="no home folder to keep caches in"):
        cache_folder()
