"""wdm doctor and wdm cite."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from wdm_cli.cli import console
from wdm_cli.cli.options import JsonOption

CITATION = """\
@inproceedings{friedrich2024wdm,
  title     = {{WDM}: {3D} Wavelet Diffusion Models for High-Resolution Medical Image Synthesis},
  author    = {Friedrich, Paul and Wolleb, Julia and Bieder, Florentin and Durrer, Alicia and Cattin, Philippe C.},
  booktitle = {MICCAI Workshop on Deep Generative Models},
  pages     = {11--21},
  year      = {2024}
}"""


def doctor(as_json: JsonOption = False) -> None:
    """Versions, device, known bad builds, disk and caches: what a bug report needs. Exit 5 if something is wrong."""
    from wdm_cli.engine.errors import ResourceError

    facts, problems = examine()
    if as_json:
        console.answer_json({**facts, "problems": problems})
    else:
        console.table(("what", "found"), facts.items(), title="wdm doctor")
        for problem in problems:
            console.warn(problem)
        console.note("everything looks right" if not problems else "")
    if problems:
        raise ResourceError(f"{len(problems)} problem{'s' if len(problems) > 1 else ''} found", hint="see above")


def examine() -> tuple[dict[str, Any], list[str]]:
    """Facts about this machine and installation, and what is known to go wrong with them."""
    import platform

    import torch

    from wdm_cli.cli.train_data import cache_folder
    from wdm_cli.engine.device import choose_device
    from wdm_cli.engine.estimate import available_memory
    from wdm_cli.engine.files import existing_parent
    from wdm_cli.engine.provenance import commit, device_name, versions

    device = choose_device("auto")
    cudnn: int | None = torch.backends.cudnn.version() if torch.cuda.is_available() else None  # type: ignore[no-untyped-call]
    cache = cache_folder()
    facts: dict[str, Any] = {
        **versions(),
        "commit": commit() or "installed package",
        "platform": platform.platform(),
        "device": device_name(device),
        "free memory": console.size(available_memory(device)),
        "cuda": torch.version.cuda or "no",
        "cudnn": cudnn or "no",
        "cache": f"{cache} ({console.size(folder_bytes(cache))})",
        "free for the cache": console.size(shutil.disk_usage(existing_parent(cache)).free),
        "free here": console.size(shutil.disk_usage(Path.cwd()).free),
    }
    return facts, problems_of(torch.__version__, cudnn, facts)


def problems_of(torch_version: str, cudnn: int | None, facts: dict[str, Any]) -> list[str]:
    """Known bad builds and missing parts, each with what to do."""
    problems = []
    major, minor = (int(part) for part in torch_version.split(".")[:2])
    if (major, minor) < (2, 10):
        problems.append(
            f"torch {torch_version}: wdm needs 2.10 or newer (2.9 runs 3D convolutions under autocast 4× slower)"
        )
    if cudnn is not None and 90800 <= cudnn < 91100:
        problems.append(f"cuDNN {cudnn}: versions 9.8 to 9.10 compute wrong 3D convolutions in bf16; update it")
    problems += [f"{name} is not installed" for name, version in facts.items() if version == "missing"]
    return problems


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def cite() -> None:
    """The paper to cite, as BibTeX."""
    console.answer(CITATION)
