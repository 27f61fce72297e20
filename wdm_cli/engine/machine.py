"""What this machine has, for `wdm doctor` and run.json: processor, memory, file systems, locks. No torch."""

from __future__ import annotations

import fcntl
import math
import os
import platform
import tempfile
from pathlib import Path

from wdm_cli.engine.files import existing_parent, read_text

CPUINFO = Path("/proc/cpuinfo")
MOUNTS = Path("/proc/self/mounts")
CGROUP = Path("/sys/fs/cgroup")
BF16 = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512", "bf16": "Arm"}
"""Flags of processors that multiply bf16 numbers themselves -> what the instructions are called."""


def cpuinfo() -> dict[str, str]:
    """The first processor's lines of /proc/cpuinfo, names in lower case; empty where there is none."""
    try:
        lines = read_text(CPUINFO, "replace").partition("\n\n")[0].splitlines()
    except OSError:
        return {}
    return {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def processor() -> str:
    """The processor's model, else its architecture."""
    return cpuinfo().get("model name") or platform.processor() or platform.machine()


def bf16_instructions() -> str:
    """What computes in bf16 without a detour (AMX, AVX-512, Arm); "" if nothing does or it is not known."""
    found = cpuinfo()
    flags = (found.get("flags") or found.get("features") or "").split()
    return next((name for flag, name in BF16.items() if flag in flags), "")


def usable_processors() -> int:
    """Processors that this process may keep busy: its affinity, and a container's quota."""
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(own, _quota()))


def _quota() -> int:
    """Whole processors that the control group grants (v2, else v1); a very large number without a limit."""
    old = CGROUP / "cpu"
    for files in ([CGROUP / "cpu.max"], [old / "cpu.cfs_quota_us", old / "cpu.cfs_period_us"]):
        try:
            quota, period = (float(number) for file in files for number in read_text(file).split())
        except (OSError, ValueError):  # no such group, or "max"
            continue
        if quota > 0 and period > 0:
            return math.ceil(quota / period)
    return 2**31


def total_memory() -> int:
    """Bytes of the whole machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def file_system(path: Path) -> str:
    """The type of the file system that `path` lies, or will lie, on (ext4, nfs4, lustre, …); "" if unknown."""
    place, best = existing_parent(path).resolve(), ("", "")
    try:
        mounts = [line.split() for line in read_text(MOUNTS, "replace").splitlines()]
    except OSError:
        return ""
    for _, folder, kind, *_ in mounts:
        folder = folder.replace("\\040", " ")
        if place.is_relative_to(folder) and len(folder) >= len(best[0]):
            best = (folder, kind)
    return best[1]


def locks(folder: Path) -> str:
    """`work` where files can be locked; else what the system says. Both kinds that wdm uses are tried.

    A nameless temporary file is made in the folder, or in the nearest one above it that exists.
    """
    try:
        with tempfile.TemporaryFile(dir=existing_parent(folder)) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(file, fcntl.LOCK_UN)
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0)
    except OSError as error:
        return str(error.strerror or error)
    return "work"
