"""The LIDC-IDRI layout after conversion: one folder a case with one file in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from wdm_cli.engine.data.dataset import Dataset
from wdm_cli.engine.data.inventory import stem

STEMS = ("preprocessed", "processed")


@dataclass(frozen=True, kw_only=True)
class Lidc(Dataset):
    """Chest CT, in HU or already in [0, 1]."""

    kind: Literal["lidc-idri"] = "lidc-idri"
    dir: str = "data/LIDC-IDRI"

    layout: ClassVar[str] = "CASE/preprocessed.nii.gz or CASE/processed.nii.gz (at any depth)"
    unlike: ClassVar[str] = "not named preprocessed or processed"

    @property
    def is_ct(self) -> bool:
        return True

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return stem(path).lower() in STEMS

    @classmethod
    def count(cls, files: Sequence[Path]) -> int:
        cases = {path.parent for path in files if cls.recognises(path)}
        return sum(path.parent in cases for path in files)  # what lies beside a case is its company

    def case(self, path: Path) -> tuple[str, str]:
        if not self.recognises(path):
            return "", self.unlike
        first = path.name.lower().replace("processed", "preprocessed", 1)
        if stem(path).lower() == "processed" and path.with_name(first).exists():
            return "", "second file of its case"
        return path.parent.name or "case", ""

    def subject(self, path: Path) -> str:
        return path.parent.name

    @property
    def lacks(self) -> str:
        return "other files but no preprocessed.nii.gz or processed.nii.gz"
