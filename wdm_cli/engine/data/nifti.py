"""Any folder of NIfTI files: each one is a case."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from wdm_cli.engine.data.dataset import Dataset
from wdm_cli.engine.data.inventory import stem


@dataclass(frozen=True, kw_only=True)
class Nifti(Dataset):
    """Volumes of any kind.

    modality: `mr` (any intensities, the BraTS rule) or `ct` (HU, the LIDC rule).
    """

    kind: Literal["nifti"] = "nifti"
    dir: str = "data/NIFTI"
    modality: Literal["mr", "ct"] = "mr"

    layout: ClassVar[str] = "NIfTI files (.nii.gz or .nii, at any depth)"

    @property
    def is_ct(self) -> bool:
        return self.modality == "ct"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return True

    def case(self, path: Path) -> tuple[str, str]:
        return stem(path), ""
