"""Where to compute, and in what precision."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from wdm_cli.engine.diffusion import Denoiser
from wdm_cli.engine.errors import ConfigError, OutOfMemoryError, ResourceError
from wdm_cli.engine.files import read_text

Precision = Literal["float32", "bf16"]
ROOMY = 2.5  # times the peak that must be free: a process that keeps what it frees was seen at 1.8 times


def choose_device(name: str) -> torch.device:
    """`auto` is the first GPU if there is one, else the CPU; other names as torch spells them.

    Raises:
        ConfigError: no name of a device. ResourceError: no such device on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.partition(":")[0] not in ("cpu", "cuda"):
        raise ConfigError(f"--device {name}: unknown", hint="auto, cpu, cuda, cuda:1, …")
    try:
        device = torch.device(name)
        if device.type == "cuda":
            torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ResourceError(
            f"--device {name}: {reason}", hint="`wdm doctor` lists the devices; try auto or cpu"
        ) from None
    return device


def as_denoiser(network: nn.Module, precision: Precision) -> Denoiser:
    """The network as a denoiser; under bf16 its convolutions and linear layers run in autocast.

    Norms, wavelets, the loss and the weights stay in float32.
    """
    if precision == "float32":
        return network

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        with torch.autocast(x_t.device.type, torch.bfloat16):
            x0: Tensor = network(x_t, t)
        return x0

    return denoise


@contextlib.contextmanager
def memory_errors(explain: Callable[[str], OutOfMemoryError]) -> Iterator[None]:
    """Turn a failed allocation on any device into `explain(torch's own words)`."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        # for the CPU torch has no class of its own
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error):
            raise explain(next(iter(str(error).splitlines()), "")) from error
        raise


def keep_freed_memory() -> bool:
    """Let this process keep the memory that its CPU tensors give back; True where the C library can (glibc).

    glibc returns blocks of some megabytes to the kernel at once and gets them anew, zeroed, page fault by page fault:
    on a CPU that costs more than the arithmetic of all but the convolutions. The price is memory that stays with the
    process.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    trim_threshold, top_pad, most_mmaps = -1, -2, -4  # M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX of malloc.h
    settings = {most_mmaps: 0, trim_threshold: 2**31 - 1, top_pad: 64 * 2**20}
    return all(library.mallopt(key, value) for key, value in settings.items())


def available_memory(device: torch.device) -> int:
    """Free bytes of a GPU, or of the machine for the CPU."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        fields = dict(line.split(":", 1) for line in read_text(Path("/proc/meminfo")).splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def keep_freed_memory_if_roomy(needed: int) -> None:
    """On a machine with memory to spare, trade some for the speed of work on the CPU whose peak is `needed` bytes."""
    if ROOMY * needed < available_memory(torch.device("cpu")):
        keep_freed_memory()


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what was asked of it, so that clocks tell the truth."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
