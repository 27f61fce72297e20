"""The LIDC-IDRI layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from wdm_cli.engine.data.dataset import Dataset


@dataclass(frozen=True, kw_only=True)
class Lidc(Dataset):
    """LIDC-IDRI."""

    kind: Literal["lidc-idri"] = "lidc-idri"
    dir: str = "data/LIDC-IDRI"
