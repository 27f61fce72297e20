"""Whether a model's training cases are those of a split: runs record how many they had, and a hash of their names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def fingerprint(names: Sequence[str]) -> dict[str, Any]:
    """What a run's data are: how many cases, and a hash over their names in order."""
    return {
        "cases": len(names),
        "names_sha256": hashlib.sha256("\n".join(names).encode(errors="surrogateescape")).hexdigest(),
    }


def other_cases(samples: Path, names: Sequence[str]) -> str:
    """What differs if the run that made a folder of samples was trained on other cases than these.

    Nothing if they are the same, or if it is not recorded: volumes of another tool, a run that was moved.
    """
    checkpoint = _read(samples / "run.json").get("checkpoint")
    if not isinstance(checkpoint, str):
        return ""
    run = Path(checkpoint).parent.parent
    trained = _read(run / "run.json").get("data")
    if not isinstance(trained, dict) or "names_sha256" not in trained or trained == fingerprint(names):
        return ""
    return (
        f"{run} was trained on {trained.get('cases')} cases, which are not the {len(names)} of the training part "
        "(another split, or data.part=all)"
    )


def _read(path: Path) -> dict[str, Any]:
    """A run.json; empty where there is none. Whether it is sound is judged where it is needed."""
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
