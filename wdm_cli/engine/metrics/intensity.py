"""How stored intensities become [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from wdm_cli.engine.errors import ConfigError, DataError

Scheme = Literal["paper", "fixed-window"]
ROUNDING = 1e-4  # how far outside [0, 1] a resampled or compressed volume may lie


@dataclass(frozen=True)
class Intensity:
    """How stored values become [0, 1]: `paper` stores them so, `fixed-window` stores HU of a window."""

    scheme: Scheme = "paper"
    window: tuple[float, float] = (-1000.0, 1000.0)

    def __post_init__(self) -> None:
        if self.scheme not in get_args(Scheme):
            raise ConfigError(
                f"unknown intensity scheme {self.scheme!r}", hint=f"choose one of: {', '.join(get_args(Scheme))}"
            )

    def to_unit(self, array: NDArray[np.float32], path: Path) -> NDArray[np.float32]:
        """Values in [0, 1]; DataError if the file cannot have been written under this scheme."""
        low, high = float(array.min()), float(array.max())
        found = f"{path}: values from {low:.6g} to {high:.6g}"
        if self.scheme == "paper":
            if low < -ROUNDING or high > 1 + ROUNDING:
                raise DataError(
                    f"{found} do not lie in [0, 1]",
                    why="the intensity scheme `paper` compares volumes that are already in [0, 1]",
                    hint="CT in HU: --intensity fixed-window; raw images: --preset NAME, which preprocesses them",
                )
            return array.clip(0, 1)
        if high - low <= 2:
            raise DataError(
                f"{found} are no HU",
                why="the intensity scheme `fixed-window` reads Hounsfield units",
                hint="for volumes in [0, 1] use --intensity paper",
            )
        bottom, top = self.window
        return ((array - bottom) / (top - bottom)).clip(0, 1)

    def describe(self) -> dict[str, Any]:
        """What of it belongs into a protocol stamp."""
        return {"scheme": self.scheme} | ({"window": list(self.window)} if self.scheme == "fixed-window" else {})
