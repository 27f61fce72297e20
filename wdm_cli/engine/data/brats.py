"""The BraTS layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from wdm_cli.engine.data.dataset import Dataset


@dataclass(frozen=True, kw_only=True)
class Brats(Dataset):
    """BraTS."""

    kind: Literal["brats"] = "brats"
    dir: str = "data/BRATS"
    contrast: Literal["t1n", "t1c", "t2w", "t2f"] = "t1n"
