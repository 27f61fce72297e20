"""The BraTS layout: one folder a case, one file a contrast, named CASE-CONTRAST."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from wdm_cli.engine.data.dataset import Dataset
from wdm_cli.engine.data.inventory import Inventory, stem

CONTRASTS = {"t1": "t1n", "t1ce": "t1c", "t1gd": "t1c", "t2": "t2w", "flair": "t2f"}
"""Names of the older challenges -> names since 2023."""
NAME = re.compile(r"(?P<case>.+)[-_](?P<kind>t1n|t1c|t2w|t2f|t1|t1ce|t1gd|t2|flair|seg)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Brats(Dataset):
    """Skull-stripped brain MR of one contrast (240×240×155 at 1 mm).

    contrast: `t1n` (T1), `t1c` (T1 with contrast agent), `t2w` (T2) or `t2f` (FLAIR); older names of files are known.
    """

    kind: Literal["brats"] = "brats"
    dir: str = "data/BRATS"
    contrast: Literal["t1n", "t1c", "t2w", "t2f"] = "t1n"

    layout: ClassVar[str] = "CASE/CASE-t1n.nii.gz (or -t1c, -t2w, -t2f; at any depth)"
    unlike: ClassVar[str] = "not named as in BraTS"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return NAME.fullmatch(stem(path)) is not None

    @classmethod
    def count(cls, files: Sequence[Path]) -> int:
        found = [match for path in files if (match := NAME.fullmatch(stem(path)))]
        return sum(match["kind"].lower() != "seg" for match in found)  # label maps alone are any folder's

    def case(self, path: Path) -> tuple[str, str]:
        match = NAME.fullmatch(stem(path))
        if match is None:
            return "", self.unlike
        contrast = CONTRASTS.get(match["kind"].lower(), match["kind"].lower())
        return (match["case"], "") if contrast == self.contrast else ("", f"other contrast ({contrast})")

    def subject(self, path: Path) -> str:
        match = NAME.fullmatch(stem(path))
        return match["case"] if match else ""

    @property
    def lacks(self) -> str:
        return f"other contrasts but no {self.contrast}"

    def advice(self, inventory: Inventory) -> str:
        for reason in inventory.reasons():
            if reason.startswith("other contrast") and reason[-4:-1] in CONTRASTS.values():
                return f"take another contrast: --set data.contrast={reason[-4:-1]}"
        return super().advice(inventory)
