"""The NIfTI layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from wdm_cli.engine.data.dataset import Dataset


@dataclass(frozen=True, kw_only=True)
class Nifti(Dataset):
    """NIfTI."""

    kind: Literal["nifti"] = "nifti"
    dir: str = "data/NIFTI"
    modality: Literal["mr", "ct"] = "mr"
