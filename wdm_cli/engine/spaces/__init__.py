"""Spaces: where a diffusion lives.

SPACES is the registry: configuration chooses among its classes by their `kind`; `space.py` has the contract.
"""

from wdm_cli.engine.spaces.space import Space
from wdm_cli.engine.spaces.voxel import Voxel
from wdm_cli.engine.spaces.wavelet import Wavelet

SPACES = (Wavelet, Voxel)

__all__ = ["SPACES", "Space", "Voxel", "Wavelet"]
