"""Loops in C++ that PyTorch's operations cannot express, compiled once for this machine by its own g++.

Where there is no g++ (or the processor is unknown to it), `serves` is false and the callers compute the same with
PyTorch's operations, slower. `state` says which it is and why.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib
import os
import platform
import signal
import subprocess
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from wdm_cli.engine.errors import ResourceError
from wdm_cli.engine.files import write_bytes
from wdm_cli.engine.machine import cpuinfo

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SOURCE = Path(__file__).parent / "kernels.cpp"
COMPILE = ("g++", "-std=c++17", "-O3", "-fPIC", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi")
LINK = ("g++", "-shared")
"""Without -fopenmp: a second OpenMP runtime beside PyTorch's would have threads of its own, which compete with them."""
TIMEOUT = 60  # seconds for the compiler, which takes one or two
SUFFIXES = {"torch.float32": "float32", "torch.bfloat16": "bfloat16"}
POINTER, LONG, FLOAT = ctypes.c_void_p, ctypes.c_long, ctypes.c_float
SIGNATURES = {
    "norm_act": [POINTER] * 6 + [LONG] * 4 + [FLOAT],
    "norm_act_backward": [POINTER] * 9 + [LONG] * 4,
    "haar": [POINTER] * 2 + [LONG] * 5 + [FLOAT],
    "inverse_haar": [POINTER] * 2 + [LONG] * 5 + [FLOAT],
    "sum_blocks": [POINTER] * 2 + [LONG] * 5 + [FLOAT],
}
X86 = {  # what the processor must know -> options; the best first
    "avx512f avx512cd avx512bw avx512dq avx512vl": ("-march=skylake-avx512", "-mprefer-vector-width=512"),
    "avx2 fma bmi2": ("-march=haswell",),
    "": (),
}


class State(NamedTuple):
    """The loaded library, or None; and in a few words what it is, or why there is none."""

    library: ctypes.CDLL | None
    words: str


class _Settings:
    folder: Callable[[], Path] = staticmethod(lambda: Path.home() / ".cache" / "wdm" / "kernels")
    wanted: bool = True


def keep_in(folder: Callable[[], Path]) -> None:
    """Keep what is compiled in the folder that the function says when it is needed; in none if it raises."""
    _Settings.folder = folder
    state.cache_clear()


def switch(on: bool) -> None:
    """Use the compiled loops (as by default), or not."""
    _Settings.wanted = on
    state.cache_clear()


def serves(x: Tensor, *parameters: Tensor) -> bool:
    """Whether the compiled loops are there and fit: x in float32 or bf16, parameters in float32, all on the CPU."""
    if x.device.type != "cpu" or str(x.dtype) not in SUFFIXES or not x.numel() or state().library is None:
        return False
    return all(p.device.type == "cpu" and str(p.dtype) == "torch.float32" for p in parameters)


def at_work(device: torch.device) -> bool:
    """Whether what is computed on the device uses the compiled loops."""
    return device.type == "cpu" and state().library is not None


def run(name: str, *arguments: Tensor | int | float) -> None:
    """Call a loop of kernels.cpp in the precision of its first argument.

    Tensors are passed as addresses: the layout, contiguous, must be the one that kernels.cpp names.
    """
    library, first = state().library, arguments[0]
    assert library is not None
    assert not isinstance(first, int | float)
    function = getattr(library, f"{name}_{SUFFIXES[str(first.dtype)]}")
    function(*(value if isinstance(value, int | float) else value.data_ptr() for value in arguments))


@lru_cache(maxsize=1)
def state() -> State:
    """Load the library, compiled before or now; a damaged one is compiled anew."""
    if not _Settings.wanted:
        return State(None, "switched off (WDM_NATIVE=off)")
    importlib.import_module("torch")  # brings the OpenMP runtime
    if not hasattr(ctypes.CDLL(None), "GOMP_parallel"):
        return State(None, "this PyTorch does not use GNU OpenMP")
    options = _options()
    name, kept = f"kernels-{_fingerprint(options)}.so", None
    with contextlib.suppress(RuntimeError, ResourceError):
        kept = _Settings.folder()
    for folder in (SOURCE.parent, kept):  # beside the source in a container image
        if folder and (found := _load(folder / name)).library:
            return found
    try:
        with tempfile.TemporaryDirectory() as scratch:
            compiled = Path(scratch) / name
            build(compiled, options)
            with contextlib.suppress(ResourceError):  # where nothing can be kept, it is compiled every time
                if kept:
                    write_bytes(kept / name, compiled.read_bytes())
                    compiled = kept / name
            return _load(compiled)
    except (OSError, subprocess.SubprocessError) as error:
        return State(None, f"not compiled: {_words_of(error)}")


def build(path: Path, options: tuple[str, ...]) -> None:
    """Compile kernels.cpp to a library, behind which its SHA-256 stands: the loader dies of half a library.

    Raises:
        OSError, subprocess.SubprocessError: there is no compiler, or it failed or hung.
    """
    made = path.with_suffix(".o")
    _run(*COMPILE, *options, "-c", str(SOURCE), "-o", str(made))
    _run(*LINK, str(made), "-o", str(path))
    made.unlink()
    library = path.read_bytes()
    path.write_bytes(library + hashlib.sha256(library).digest())


def _run(*command: str) -> None:
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            _, said = process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with what it started
            raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command[0], stderr=said)


def build_for_any(folder: Path = SOURCE.parent) -> None:
    """Compile for every kind of processor of this architecture: for a container image that has no compiler."""
    for options in X86.values() if _is_x86() else [_options()]:
        build(folder / f"kernels-{_fingerprint(options)}.so", options)


def _is_x86() -> bool:
    return platform.machine() in ("x86_64", "AMD64")


def _options() -> tuple[str, ...]:
    """What lets the compiler use this processor's vector instructions."""
    if not _is_x86():
        return ()
    flags = set(cpuinfo().get("flags", "").split())
    return next(options for needed, options in X86.items() if flags.issuperset(needed.split()))


def _fingerprint(options: tuple[str, ...]) -> str:
    parts = (platform.machine(), *COMPILE, *options)
    return hashlib.sha256("\0".join(parts).encode() + b"\0" + SOURCE.read_bytes()).hexdigest()[:16]


def _load(path: Path) -> State:
    try:
        contents = path.read_bytes()
        if hashlib.sha256(contents[:-32]).digest() != contents[-32:]:
            return State(None, f"{path}: damaged")
        library = ctypes.CDLL(str(path))
        for name, types in SIGNATURES.items():
            for suffix in SUFFIXES.values():
                function = getattr(library, f"{name}_{suffix}")
                function.argtypes, function.restype = types, None
    except (OSError, AttributeError) as error:
        return State(None, f"{path}: {error}")
    return State(library, f"compiled, {path.name}")


def _words_of(error: OSError | subprocess.SubprocessError) -> str:
    """The compiler's first complaint, else the system's."""
    if isinstance(error, subprocess.TimeoutExpired):
        return f"{COMPILE[0]} took more than {TIMEOUT} s"
    said = str(getattr(error, "stderr", None) or "").splitlines()
    return next(
        (line for line in said if "error" in line), f"{COMPILE[0]}: {getattr(error, 'strerror', None) or error}"
    )
