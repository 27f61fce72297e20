"""The eight sub-bands of one level of an orthonormal wavelet transform (Friedrich et al. 2024, "WDM")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from wdm_cli.engine.errors import require
from wdm_cli.engine.spaces.space import Sides, Space

if TYPE_CHECKING:
    from torch import Tensor

    from wdm_cli.engine.draw import Draw


@dataclass(frozen=True, kw_only=True)
class Wavelet(Space):
    """Sub-bands of half the sides, in band order, LLL divided by 3.

    wavelet: one of PyWavelets' orthonormal ones (`haar`, `db2`, …); released weights need `haar`.
    """

    kind: Literal["wavelet"] = "wavelet"
    wavelet: str = "haar"

    channels: ClassVar[int] = 8
    halvings: ClassVar[int] = 1
    columns: ClassVar[tuple[str, ...]] = ("LLL", "LLH", "LHL", "LHH", "HLL", "HLH", "HHL", "HHH")

    def __post_init__(self) -> None:
        if self.wavelet == "haar":
            return
        import pywt

        known = pywt.wavelist(kind="discrete")
        require(
            self.wavelet in known and pywt.Wavelet(self.wavelet).orthogonal,
            "wavelet",
            f"{self.wavelet!r} is not an orthonormal wavelet of PyWavelets (e.g. haar, db2, sym4, coif1)",
        )

    @property
    def words(self) -> str:
        return f"the clean sub-bands of a {self.wavelet} wavelet transform"

    def encode(self, volume: Tensor) -> Tensor:
        from wdm_cli.engine.wavelet import encode

        return encode(volume, self.wavelet)

    def decode(self, x: Tensor) -> Tensor:
        from wdm_cli.engine.wavelet import decode

        return decode(x, self.wavelet)

    def clamp(self, x0: Tensor) -> Tensor:
        return self.encode(self.decode(x0).clamp_(-1, 1))

    def noise(self, draw: Draw, volume: Sides) -> Tensor:
        """Noise of the voxels, transformed like them but not rescaled: orthonormal, hence white again."""
        from wdm_cli.engine.wavelet import dwt

        return dwt(draw.normal(1, *volume), self.wavelet).squeeze(2)
