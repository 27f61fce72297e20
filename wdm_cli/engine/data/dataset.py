"""What every data set shares: the settings of the image-size rule and of intensities. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from wdm_cli.engine.errors import require


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Settings of a folder of volumes.

    image_size: side of the training volume, or three sides along the array's axes i, j, k.
    intensity: `paper` (per-volume quantiles, then min-max) or `fixed-window` (`window` in HU, exact).
    crop_margin: the share of a raw side that may be cropped before the volume is downsampled instead.
    cache: precision of the preprocessed copies that training reads.
    """

    dir: str
    image_size: int | tuple[int, int, int] = 128
    intensity: Literal["paper", "fixed-window"] = "paper"
    window: tuple[float, float] = (-1000.0, 1000.0)
    crop_margin: float = 0.1
    cache: Literal["float32", "int16"] = "float32"

    def __post_init__(self) -> None:
        require(min(self.shape) >= 2, "image_size", "every side must be at least 2")
        require(self.window[0] < self.window[1], "window", "must rise, e.g. [-1000, 1000]")
        require(0 <= self.crop_margin < 0.5, "crop_margin", "must be at least 0 and below 0.5")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Sides of the training volume."""
        size = self.image_size
        return (size, size, size) if isinstance(size, int) else size
