"""What the page needs to show volumes in 3D: niivue, which comes with wdm, and the volumes in few bytes."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import nibabel as nib
import numpy as np

from wdm_cli.engine.data.volume import Volume
from wdm_cli.engine.errors import DataError

ASSETS = resources.files("wdm_cli.engine.report") / "assets"
GRIDS = ((1, 256), (1, 64), (2, 256), (2, 64), (4, 256), (8, 64))
"""(voxels averaged along a side, grey levels), best first."""


@dataclass(frozen=True)
class Packed:
    """Volumes as base64 of gzipped NIfTI files, all on a grid of `factor` with `levels` greys."""

    volumes: tuple[str, ...]
    factor: int
    levels: int


def pack(volumes: Sequence[Volume], values: tuple[float, float], budget: int) -> Packed:
    """Volumes in [0, 1] with as much detail as fits into `budget` characters, the same for all.

    Args:
        values: what 0 and 1 stand for; the viewer shows values in that unit.
    """
    for factor, levels in GRIDS:
        packed: list[str] = []
        for volume in volumes:
            packed.append(_text(_nifti(volume, values, factor, levels)))
            if sum(map(len, packed)) > budget and (factor, levels) != GRIDS[-1]:
                break
        else:
            return Packed(tuple(packed), factor, levels)
    raise AssertionError("the last grid is taken whatever its size")


def _nifti(volume: Volume, values: tuple[float, float], factor: int, levels: int) -> bytes:
    """An 8-bit NIfTI file; blocks of factor³ voxels are averaged."""
    array, affine = volume.array, volume.affine.copy()
    if factor > 1:
        sides = [side // factor * factor for side in array.shape]
        blocks = [part for side in sides for part in (side // factor, factor)]
        array = array[: sides[0], : sides[1], : sides[2]].reshape(blocks).mean(axis=(1, 3, 5))
        affine[:3, 3] += affine[:3, :3] @ np.full(3, (factor - 1) / 2)
        affine[:3, :3] *= factor
    grey = np.rint(np.clip(array, 0, 1) * (levels - 1)).astype(np.uint8)
    image: Any = nib.Nifti1Image(grey, affine)
    image.header.set_slope_inter((values[1] - values[0]) / (levels - 1), values[0])
    image.header.set_xyzt_units("mm")
    return bytes(image.to_bytes())


def _text(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, 6, mtime=0)).decode()


def library() -> str:
    """niivue as base64 of gzipped JavaScript.

    Raises:
        DataError: the file in this installation is not the one that was recorded.
    """
    content = (ASSETS / "niivue.umd.js.gz").read_bytes()
    if hashlib.sha256(gzip.decompress(content)).hexdigest() != facts()["sha256"]:
        raise DataError("niivue.umd.js.gz of this installation was changed", hint="install wdm again")
    return base64.b64encode(content).decode()


def facts() -> dict[str, str]:
    """Version, source, licence and sha256 of the viewer."""
    return dict(json.loads(asset("niivue.json")))


def asset(name: str) -> str:
    """A text file that comes with the report."""
    return (ASSETS / name).read_text(encoding="utf-8")
