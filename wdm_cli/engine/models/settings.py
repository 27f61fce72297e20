"""Settings of the networks, with the rules that sizes, multipliers and groups must obey. No torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from wdm_cli.engine.errors import FieldError, require

if TYPE_CHECKING:
    from wdm_cli.engine.models.blocks import Network
    from wdm_cli.engine.models.unet import UNetNetwork
    from wdm_cli.engine.models.wavunet import WavUNetNetwork


@dataclass(frozen=True, kw_only=True)
class NetworkSettings(ABC):
    """What both networks share. Level i has base_channels · channel_multipliers[i] channels.

    base_channels: width of the first convolution, even, 2 to 4096; twice the width is about four times the parameters.
    channel_multipliers: width of each level, in base_channels, 1 to 64 each. Every level but the first halves the
        sides, so one more asks for volumes whose sides are multiples of twice as much.
    res_blocks: residual blocks a level on the way down, at least 1 (`wavunet`: 2); more are slower and larger.
    groups: groups of the group normalisation; must divide the channels of every level.
    dropout: share of values set to 0 in every residual block while training, at least 0 and below 1; against
        memorising where cases are few.
    """

    extra_halvings: ClassVar[int]  # how often the sides are halved beyond levels − 1

    base_channels: int = 64
    channel_multipliers: tuple[int, ...] = (1, 2, 2, 4, 4)
    res_blocks: int = 2
    groups: int = 32
    dropout: float = 0.0

    def __post_init__(self) -> None:
        require(2 <= self.base_channels <= 4096, "base_channels", "must be at least 2 and at most 4096")
        require(self.base_channels % 2 == 0, "base_channels", "must be even (half sines, half cosines)")
        require(len(self.channel_multipliers) >= 1, "channel_multipliers", "needs at least one level")
        inside = all(1 <= m <= 64 for m in self.channel_multipliers)
        require(inside, "channel_multipliers", "must all be from 1 to 64")
        require(self.res_blocks >= 1, "res_blocks", "must be at least 1")
        require(0 <= self.dropout < 1, "dropout", "must be at least 0 and below 1")
        require(self.groups >= 1, "groups", "must be at least 1")
        for width in self.widths:
            if width % self.groups:
                fitting = [g for g in range(1, width + 1) if all(w % g == 0 for w in self.widths)]
                near = min(fitting, key=lambda g: abs(g - self.groups))
                raise FieldError(
                    "groups",
                    f"{self.groups} groups do not divide a level of {width} channels; "
                    f"every level's width must be a multiple of groups (nearest that fits: {near})",
                )

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(self.base_channels * m for m in self.channel_multipliers)

    @property
    def size_multiple(self) -> int:
        """Every side of what the network sees must be a multiple of this: 2 for each halving."""
        return int(2 ** (len(self.channel_multipliers) - 1 + self.extra_halvings))

    @abstractmethod
    def build(self, in_channels: int, out_channels: int) -> Network:
        """The network, freshly initialised: [B, in_channels, d, h, w] -> [B, out_channels, d, h, w]."""

    def check_size(self, image_size: tuple[int, int, int], halvings: int) -> None:
        """Raise FieldError unless a volume of this shape passes through the network, halved before so often."""
        m = self.size_multiple << halvings
        for side in image_size:
            if side < m or side % m:
                below, above = side // m * m, -(-side // m) * m
                near = " or ".join(str(n) for n in (below, above) if n)
                raise FieldError(
                    "image_size",
                    f"{side} does not fit: with {len(self.channel_multipliers)} levels every side must be a "
                    f"multiple of {m} (nearest: {near})",
                )


@dataclass(frozen=True, kw_only=True)
class UNet(NetworkSettings):
    """The U-Net of WDM (`ours_unet_*`): resampling by pooling, additive skips."""

    extra_halvings: ClassVar[int] = 0
    kind: Literal["unet"] = "unet"

    def build(self, in_channels: int, out_channels: int) -> UNetNetwork:
        from wdm_cli.engine.models.unet import UNetNetwork

        return UNetNetwork(self, in_channels, out_channels)


@dataclass(frozen=True, kw_only=True)
class WavUNet(NetworkSettings):
    """The WavU-Net of WDM (`ours_wnet_*`): resampling by the wavelet transform, at every level."""

    extra_halvings: ClassVar[int] = 1
    kind: Literal["wavunet"] = "wavunet"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.res_blocks >= 2,
            "res_blocks",
            "must be at least 2 in the WavU-Net, whose decoder applies the last of them twice",
        )

    def build(self, in_channels: int, out_channels: int) -> WavUNetNetwork:
        from wdm_cli.engine.models.wavunet import WavUNetNetwork

        return WavUNetNetwork(self, in_channels, out_channels)
