"""Whether numbers are Hounsfield units: one judgement for files and DICOM series, whatever the intensity scheme.

HU are fixed by physics: air is −1000, water 0, soft tissue −200 to 300, and nearly nothing but bone and metal lies
above 500. Numbers that were shifted (HU + 1024), scaled ([0, 1], 8 bits), turned (−HU) or measure something else (an
iodine map) miss one of these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

UNIT_TOLERANCE = 1e-3
SOFTEST = -100.0  # every CT has air or at least fat below it
TISSUE = (-200.0, 300.0)
DENSE = 500.0
AIR_LIKE = (-1100.0, -900.0)
PADDING = -1900.0  # what scanners and viewers write outside the circle: −2000, −2048, −3024
LEAST_TISSUE, MOST_DENSE = 0.01, 0.6  # shares of the voxels
LEAST_BETWEEN, SOME_DENSE = 0.001, 0.05
LEAST_AIR, CLEARLY_TISSUE = 0.05, 0.02
SCALED_DOWN, SCALED_UP = (-700.0, -300.0), (-1900.0, -1100.0)  # where air lies in HU/2 and lungs in 2·HU
MOST_LIGHT, MOST_LIGHTER = 0.3, 0.1  # shares; lungs full of water, and noise of air, stay below


@dataclass
class Census:
    """What is counted over the voxels of a volume as they stand in its file, all at once or slice by slice."""

    low: float = np.inf
    high: float = -np.inf
    total: int = 0
    tissue: int = 0
    dense: int = 0
    air: int = 0
    between: int = 0  # skin, fat and lung: above air, below SOFTEST
    light: int = 0  # too dense for lung, too light for fat
    lighter: int = 0  # lighter than air, denser than padding

    @classmethod
    def of(cls, array: npt.NDArray[Any]) -> Census:
        census = cls()
        for part in array:  # comparisons of a whole volume would take a quarter of it each
            census.add(part)
        return census

    def add(self, values: npt.NDArray[Any]) -> None:
        """Count further voxels, of any shape; those that the file calls padding are to be left out."""
        if not values.size:
            return
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        self.total += values.size
        self.tissue += int(np.count_nonzero((values > TISSUE[0]) & (values < TISSUE[1])))
        self.dense += int(np.count_nonzero(values > DENSE))
        self.between += int(np.count_nonzero((values >= AIR_LIKE[1]) & (values < SOFTEST)))
        self.light += int(np.count_nonzero((values > SCALED_DOWN[0]) & (values < SCALED_DOWN[1])))
        self.lighter += int(np.count_nonzero((values > SCALED_UP[0]) & (values < SCALED_UP[1])))
        in_air = (values > AIR_LIKE[0]) & (values < AIR_LIKE[1])
        self.air += int(np.count_nonzero(in_air | (values < PADDING)))

    @property
    def in_unit_range(self) -> bool:
        """Whether the values were normalised to [0, 1] before (up to storage as scaled integers)."""
        return self.low >= -UNIT_TOLERANCE and self.high <= 1 + UNIT_TOLERANCE

    @property
    def problem(self) -> str:
        """Why the values are no HU, or nothing."""
        span = f"values {self.low:.6g} … {self.high:.6g} are no HU"
        if self.in_unit_range:
            return "values lie in [0, 1]: no HU are left"
        if self.low > SOFTEST:
            return f"{span} (no air, nothing below {SOFTEST:g}): shifted, as HU + 1024, or of another unit?"
        if self.dense > MOST_DENSE * self.total:
            return f"{span} ({self.dense / self.total:.0%} above {DENSE:g}, denser than bone): of another unit or sign?"
        gap = self.low <= AIR_LIKE[1] and self.between < LEAST_BETWEEN * self.total
        if gap and self.dense > SOME_DENSE * self.total:
            empty = f"nothing between {AIR_LIKE[1]:g} and {SOFTEST:g}, where skin, fat and lung lie"
            return f"{span} ({empty}, but {self.dense / self.total:.0%} above {DENSE:g}): shifted, with padding below?"
        if self.tissue < LEAST_TISSUE * self.total:
            between = f"between {TISSUE[0]:g} and {TISSUE[1]:g}, where soft tissue lies"
            return f"{span} (only {self.tissue / self.total:.1%} {between}): shifted, or of another unit?"
        scaled = ((self.light, MOST_LIGHT, SCALED_DOWN), (self.lighter, MOST_LIGHTER, SCALED_UP))
        for count, most, (low, high) in scaled:
            if count > most * self.total:
                share = f"{count / self.total:.0%} between {low:g} and {high:g}, where hardly anything lies"
                return f"{span} ({share}): scaled, or of another unit?"
        return ""

    @property
    def looks_like_hu(self) -> bool:
        """Whether values of unknown meaning look like CT: air at −1000 or padding below it, and soft tissue."""
        return (
            self.low <= AIR_LIKE[1]
            and self.air >= LEAST_AIR * self.total
            and self.tissue >= CLEARLY_TISSUE * self.total
            and not self.problem
        )
