"""What `wdm preprocess` states of a folder that it made, so that nobody has to say it again. No torch, no numpy."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wdm_cli.engine.errors import DataError

KINDS = {"lidc": "lidc-idri", "brats": "brats", "nifti": "nifti", "mr": "nifti"}
"""Command of `wdm preprocess` -> the data set that reads what it wrote."""


@dataclass(frozen=True)
class Stated:
    """How the volumes of a folder are named and stored.

    Attributes:
        kind: the data set that reads them. modality: ct or mr. intensity: paper ([0, 1]) or fixed-window (int16 HU).
    """

    kind: str
    modality: str
    intensity: str

    def settings(self, kind: str) -> dict[str, str]:
        """Keys of the table `data` for a data set of this kind, the folder's own or another one."""
        modality = {"modality": self.modality} if kind == "nifti" else {}
        reads_ct = kind == "lidc-idri" or (kind == "nifti" and self.modality == "ct")
        return modality | ({"intensity": self.intensity} if reads_ct or self.intensity == "paper" else {})


def stated(folder: Path) -> Stated | None:
    """What run.json says if `wdm preprocess` wrote it, else None.

    Raises:
        DataError: it is damaged.
    """
    path = folder / "run.json"
    if not path.is_file():
        return None
    try:
        about = json.loads(path.read_bytes())
        protocol: Any = about.get("protocol") if isinstance(about, dict) else None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}", hint="restore it from a backup") from error
    if not isinstance(protocol, dict) or protocol.get("command") not in KINDS:
        return None
    kind = KINDS[protocol["command"]]
    if protocol["command"] == "mr" and any(folder.glob("ADNI_*")):
        kind = "adni"
    return Stated(kind, str(protocol.get("modality", "mr")), str(protocol.get("intensity", "paper")))
