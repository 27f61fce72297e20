"""The volume as it is (3D DDPM)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from wdm_cli.engine.spaces.space import Sides, Space

if TYPE_CHECKING:
    from torch import Tensor

    from wdm_cli.engine.draw import Draw


@dataclass(frozen=True, kw_only=True)
class Voxel(Space):
    """Voxels in [−1, 1], one channel: eight times the memory of the wavelet space at the same width."""

    kind: Literal["voxel"] = "voxel"

    channels: ClassVar[int] = 1
    halvings: ClassVar[int] = 0
    columns: ClassVar[tuple[str, ...]] = ("voxel",)

    @property
    def words(self) -> str:
        return "the clean volume"

    def encode(self, volume: Tensor) -> Tensor:
        return volume

    def decode(self, x: Tensor) -> Tensor:
        return x

    def clamp(self, x0: Tensor) -> Tensor:
        return x0.clamp(-1, 1)

    def noise(self, draw: Draw, volume: Sides) -> Tensor:
        return draw.normal(1, *volume)
