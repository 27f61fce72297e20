"""What a space is: where a diffusion lives. Settings, and what they do; no torch until it is used."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import Tensor

    from wdm_cli.engine.draw import Draw

Sides = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Space(ABC):
    """The domain that noise and network work in.

    Attributes:
        channels: of its tensors.
        halvings: how often it halves the sides of a volume.
        columns: what its channels are called in metrics.csv, one loss each.
        words: what the network predicts there, for the methods of a paper.
    """

    kind: str
    channels: ClassVar[int]
    halvings: ClassVar[int]
    columns: ClassVar[tuple[str, ...]]

    @property
    @abstractmethod
    def words(self) -> str: ...

    def sides(self, volume: Sides) -> Sides:
        """Sides of its tensors for a volume of these sides, multiples of 2^halvings."""
        d, h, w = (side >> self.halvings for side in volume)
        return d, h, w

    @abstractmethod
    def encode(self, volume: Tensor) -> Tensor:
        """[B, 1, D, H, W] in [−1, 1] -> [B, channels, d, h, w]."""

    @abstractmethod
    def decode(self, x: Tensor) -> Tensor:
        """The inverse of `encode`; values are not clamped."""

    @abstractmethod
    def clamp(self, x0: Tensor) -> Tensor:
        """A prediction of a clean volume with its voxels in [−1, 1]; asked for at every step of a sampler."""

    @abstractmethod
    def noise(self, draw: Draw, volume: Sides) -> Tensor:
        """Standard normal noise of training, [B, channels, d, h, w] for volumes of these sides."""
