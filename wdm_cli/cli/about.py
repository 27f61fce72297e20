"""wdm doctor and wdm cite."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from typing import Any

from wdm_cli.cli import console
from wdm_cli.cli.options import JsonOption
from wdm_cli.engine.citation import BIBTEX

EXTRAS = {"tb": "tensorboard", "wandb": "wandb", "hub": "huggingface_hub", "fastmri": "h5py"}
"""The extras of pyproject.toml that a user may want -> the module that each brings."""
THREAD_SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
WRONG = 0.05  # deviation of bf16 from float32; rounding gives a tenth of it
LITTLE = 5e9  # bytes; a run folder of ours_unet_128 takes 3.7 GB
Facts = dict[str, Any]


def doctor(as_json: JsonOption = False) -> None:
    """Versions, device, threads, bad builds, disks and locks: what a bug report needs. Exit 5 if something is wrong.

    Problems make results wrong or work impossible; notes say what is slow, scarce or missing.
    """
    from wdm_cli.engine.errors import ResourceError

    facts, problems, notes = examine()
    if as_json:
        console.answer_json({**facts, "problems": problems, "notes": notes})
    else:
        console.table(("what", "found"), facts.items(), title="wdm doctor")
        for text in notes:
            console.note(f"note: {text}")
        for problem in problems:
            console.warn(problem)
        console.note("" if problems else "nothing wrong found")
    if problems:
        raise ResourceError(f"{len(problems)} problem{'s' if len(problems) > 1 else ''} found", hint="see above")


def examine() -> tuple[Facts, list[str], list[str]]:
    """Facts about this machine and installation, what is known to go wrong with them, and what is worth knowing."""
    from wdm_cli.engine.provenance import commit, versions

    facts: Facts = {**versions(), "commit": commit() or "installed package", **machine_facts()}
    problems = [f"{name} is not installed" for name, version in facts.items() if version == "missing"]
    notes: list[str] = []
    if facts["torch"] != "missing":
        try:
            found, wrong, notes = examine_torch()
        except (ImportError, OSError) as error:  # a driver or a library that is missing, a build for another system
            problems.append(f"torch cannot be loaded: {error}; install it anew as pytorch.org says")
        else:
            facts |= found
            problems += wrong
    places, more = examine_places()
    return facts | places | extras(), problems, notes + more


def machine_facts() -> Facts:
    """Processor, threads and memory, and the names of settings in the environment (their values may be private)."""
    import platform

    from wdm_cli.engine.machine import bf16_instructions, processor, total_memory, usable_processors

    set_here = [f"{name}={os.environ[name]}" for name in THREAD_SETTINGS if name in os.environ]
    return {
        "platform": platform.platform(),
        "processor": processor(),
        "bf16 instructions": bf16_instructions() or "none",
        "usable processors": f"{usable_processors()} of {os.cpu_count()}",
        "thread settings": ", ".join(set_here) or "none",
        "memory": console.size(total_memory()),
        "WDM_ variables": ", ".join(sorted(name for name in os.environ if name.startswith("WDM_"))) or "none",
    }


def examine_torch() -> tuple[Facts, list[str], list[str]]:
    """What torch says of its build and devices; problems; notes. Runs a few convolutions."""
    import torch

    from wdm_cli.engine import native
    from wdm_cli.engine.device import available_memory, choose_device
    from wdm_cli.engine.machine import bf16_instructions, usable_processors
    from wdm_cli.engine.provenance import device_name
    from wdm_cli.engine.selfcheck import bf16_deviation

    device, on_gpu = choose_device("auto"), torch.cuda.is_available()
    cudnn: int | None = torch.backends.cudnn.version() if on_gpu else None  # type: ignore[no-untyped-call]
    deviation = bf16_deviation(device)
    facts: Facts = {
        "device": device_name(device),
        "free memory": console.size(available_memory(device)),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda or "no",
        "cudnn": cudnn or "no",
        "onednn": onednn_version(torch.__config__.show()),
        "cpu loops": native.state().words,
        "bf16 against float32": f"convolutions off by {deviation:.1g} of the largest value",
    }
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        facts[f"gpu {index}"] = f"{gpu.name}, {console.size(gpu.total_memory)}, compute {gpu.major}.{gpu.minor}"
    notes = slow_threads(torch.get_num_threads(), usable_processors())
    if torch.version.cuda and not on_gpu:
        notes.append(f"torch is built for CUDA {torch.version.cuda} but finds no GPU; does `nvidia-smi` show one?")
    if not on_gpu and native.state().library is None:
        why = native.state().words
        notes.append(
            f"training in bf16 takes about twice as long on this CPU without the loops that g++ compiles ({why})"
        )
    if not on_gpu and not bf16_instructions():
        notes.append("this processor has no bf16 instructions: train.precision=bf16 saves memory here, hardly time")
    if not on_gpu and facts["onednn"].startswith("3.12"):
        notes.append("oneDNN 3.12 errs in bf16 weight gradients on grids of two planes; wdm computes those in float32")
    return facts, bad_builds(torch.__version__, cudnn) + wrong_bf16(deviation), notes


def bad_builds(torch_version: str, cudnn: int | None) -> list[str]:
    """Builds known to be bad, each with what to do."""
    problems = []
    major, minor = (int(part) for part in torch_version.split(".")[:2])
    if (major, minor) < (2, 10):
        slow = " (2.9 runs 3D convolutions under autocast 4× slower)" if (major, minor) == (2, 9) else ""
        problems.append(f"torch {torch_version}: wdm needs 2.10 or newer{slow}")
    if cudnn is not None and 90800 <= cudnn < 91100:
        problems.append(f"cuDNN {cudnn}: versions 9.8 to 9.10 compute wrong 3D convolutions in bf16; update it")
    return problems


def wrong_bf16(deviation: float) -> list[str]:
    """A problem where bf16 is further from float32 than rounding explains."""
    if deviation <= WRONG:
        return []
    return [f"3D convolutions in bf16 are off by {deviation:.2g} of the largest value; use float32 (train.precision)"]


def slow_threads(threads: int, processors: int) -> list[str]:
    """A note where more threads compute than processors may be kept busy, or far fewer."""
    if threads > processors:
        return [
            f"{threads} threads on {processors} usable processors hinder each other; set OMP_NUM_THREADS={processors}"
        ]
    if 4 * threads <= processors:
        return [f"only {threads} of {processors} usable processors compute; OMP_NUM_THREADS sets how many"]
    return []


def onednn_version(build: str) -> str:
    """The version in what torch says of its build (`torch.__config__.show()`), which calls oneDNN by its old name."""
    _, found, rest = build.partition("MKL-DNN v")
    return rest.split()[0] if found else "no"


def examine_places() -> tuple[Facts, list[str]]:
    """The cache and this folder: size, space, file system and locks; notes on what is scarce."""
    from wdm_cli.cli.train_data import cache_folder
    from wdm_cli.engine.files import existing_parent
    from wdm_cli.engine.machine import file_system, locks

    facts: Facts = {}
    notes = []
    for name, place in (("for the cache", cache_folder()), ("here", Path.cwd())):
        try:
            free, can_lock = shutil.disk_usage(existing_parent(place)).free, locks(place)
            if name == "for the cache":
                facts["cache"] = f"{place} ({console.size(folder_bytes(place))})"
        except OSError as error:  # a folder of another account
            notes.append(f"{place}: {error.strerror}; WDM_CACHE_DIR names another cache")
            continue
        facts[f"free {name}"] = console.size(free)
        facts[f"file system {name}"] = f"{file_system(place) or 'unknown'}, locks: {can_lock}"
        if free < LITTLE:
            notes.append(f"only {console.size(free)} free {name} ({place})")
        if can_lock != "work" and os.access(existing_parent(place), os.W_OK):
            notes.append(f"no locks {name} ({can_lock}): two commands on one folder are not kept apart")
    return facts, notes


def extras() -> Facts:
    """Which optional libraries are here."""
    found = [name for name, module in EXTRAS.items() if importlib.util.find_spec(module)]
    return {"extras": ", ".join(found) or "none"}


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def cite() -> None:
    """The paper to cite, as BibTeX."""
    console.answer(BIBTEX)
