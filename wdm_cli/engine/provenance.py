"""What made an output: versions, platform and device, for run.json."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from wdm_cli import __version__
from wdm_cli.engine import native
from wdm_cli.engine.files import read_text
from wdm_cli.engine.machine import processor

LIBRARIES = ("torch", "numpy", "nibabel", "pydantic", "PyWavelets", "SimpleITK", "pydicom", "safetensors", "pillow")


def versions() -> dict[str, str]:
    """wdm, Python and the libraries that decide results."""
    found = {"wdm": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name.lower()] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name.lower()] = "missing"
    return found


def commit(root: Path = Path(__file__).parents[2]) -> str | None:
    """The git commit of a source checkout (or worktree of one), None for an installed package."""
    git = root / ".git"
    try:
        if git.is_file():  # a worktree: the file names the folder
            git = root / read_text(git).removeprefix("gitdir:").strip()
        head = read_text(git / "HEAD").strip()
        if not head.startswith("ref: "):
            return head
        shared = git / read_text(git / "commondir").strip() if (git / "commondir").is_file() else git
        return _of_branch(shared, head.removeprefix("ref: "))
    except OSError:
        return None


def _of_branch(git: Path, name: str) -> str | None:
    """The commit of a branch, from its own file or from the list that `git gc` packs them into."""
    if (git / name).is_file():
        return read_text(git / name).strip()
    packed = (line.split() for line in read_text(git / "packed-refs").splitlines())
    return next((words[0] for words in packed if words[1:] == [name]), None)


def device_name(device: Any) -> str:
    """A GPU's model name, or the processor's with the number of torch's threads. device: a torch.device."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({processor()}, {torch.get_num_threads()} threads)"


def arithmetic(device: Any) -> str:
    """What decides how results are rounded: device, threads, compiled loops, PyTorch. device: a torch.device."""
    import torch

    loops = ", compiled loops" if native.at_work(device) else ""
    return f"{device_name(device)}{loops}, torch {torch.__version__}"


def provenance(device: Any, argv: list[str]) -> dict[str, Any]:
    """The part of run.json that every command writes."""
    return {
        "versions": versions(),
        "commit": commit(),
        "device": device_name(device),
        "compiled_loops": native.at_work(device),
        "argv": argv,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
