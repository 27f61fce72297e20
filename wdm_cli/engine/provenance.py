"""What made an output: versions, platform and device, for run.json."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from wdm_cli import __version__

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


def commit() -> str | None:
    """The git commit of a source checkout, None for an installed package."""
    git = Path(__file__).parents[2] / ".git"
    try:
        head = (git / "HEAD").read_text().strip()
        return (git / head.removeprefix("ref: ")).read_text().strip() if head.startswith("ref: ") else head
    except OSError:
        return None


def device_name(device: Any) -> str:
    """A GPU's model name, or the processor's."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({platform.processor() or platform.machine()}, {torch.get_num_threads()} threads)"


def provenance(device: Any, argv: list[str]) -> dict[str, Any]:
    """The part of run.json that every command writes."""
    return {
        "versions": versions(),
        "commit": commit(),
        "device": device_name(device),
        "argv": argv,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
