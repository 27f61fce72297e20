"""One voxel size for all training volumes of a data set, chosen from headers before a voxel is read.

Each volume averaged by itself would give heads of two sizes: raw sides of 220 and 230 at 32 are averaged by 7 and 8.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wdm_cli.engine.data.header import millimetres
from wdm_cli.engine.data.volume import Sides
from wdm_cli.engine.errors import DataError

if TYPE_CHECKING:
    from wdm_cli.engine.data.dataset import Dataset
    from wdm_cli.engine.data.inventory import Inventory

Grid = tuple[Sides, tuple[float, float, float]]
"""Sides of a file in voxels, and their distances in mm."""


@dataclass(frozen=True)
class Scale:
    """The chosen size.

    Attributes:
        voxel: mm along each axis. deciding: the cases that need so large voxels.
        coarsened: volumes that alone would be averaged less, of `total`.
    """

    voxel: tuple[float, float, float]
    deciding: tuple[str, ...]
    coarsened: int
    total: int

    @property
    def text(self) -> str:
        """One line for a user."""
        told = f"voxels of training: {millimetres(self.voxel)} mm"
        if not self.coarsened:
            return told
        return (
            f"{told} for all; {' and '.join(self.deciding)} decide{'s' * (len(self.deciding) == 1)}, "
            f"{self.coarsened} of {self.total} volumes alone would need less (data.voxel sets another size)"
        )


def common_scale(dataset: Dataset, inventory: Inventory) -> Scale | None:
    """What `data.voxel=common` means for these cases; None if it is set otherwise or no header can be read."""
    if dataset.voxel != "common":
        return None
    grids: dict[str, Grid] = {}
    for case in inventory.cases:
        try:
            grids[case.name] = dataset.grid(case.path)
        except DataError:  # reading the file says so, by its name
            continue
    return scale_of(dataset, grids) if grids else None


def scale_of(dataset: Dataset, grids: Mapping[str, Grid]) -> Scale:
    """Along each axis the voxels of the volume that needs the largest; six digits, as they are to be written down."""
    alone = {name: dataset.factor(*grid) for name, grid in grids.items()}
    sizes = {name: _times(alone[name], spacing) for name, (_, spacing) in grids.items()}
    deciding = [max(sizes, key=lambda name: sizes[name][axis]) for axis in range(3)]
    i, j, k = (float(f"{sizes[name][axis]:.6g}") for axis, name in enumerate(deciding))
    together = dataset.at((i, j, k))
    coarsened = sum(together.factor(*grid) != alone[name] for name, grid in grids.items())
    return Scale((i, j, k), tuple(dict.fromkeys(deciding)), coarsened, len(grids))


def _times(factor: Sequence[int], spacing: Sequence[float]) -> list[float]:
    return [f * mm for f, mm in zip(factor, spacing, strict=True)]
