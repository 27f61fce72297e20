"""fastMRI: magnitude images of knees and brains, reconstructed from fully sampled k-space.

Layout: `file1000001.h5` or `file_brain_AXT2_200_2000019.h5` (at any depth), each with a data set
`reconstruction_rss` (several coils) or `reconstruction_esc` (one) of [slices, rows, columns], the contrast in the
attribute `acquisition` and the voxel size in the header. Test files hold no reconstruction. Needs h5py:
`pip install "wdm-cli[fastmri]"`. The files state no directions: columns, rows and slices become i, j, k.
Access: free for research after an agreement at fastmri.med.nyu.edu; no redistribution.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from wdm_cli.engine.data.dataset import Dataset
from wdm_cli.engine.data.inventory import Inventory
from wdm_cli.engine.data.presence import refuse_absent
from wdm_cli.engine.errors import DataError, ResourceError

if TYPE_CHECKING:
    from wdm_cli.engine.data.scale import Grid
    from wdm_cli.engine.data.volume import Volume

NAME = re.compile(r"file(_brain_[A-Z0-9]+_\d+_)?\d+")
KEYS = ("reconstruction_rss", "reconstruction_esc")
RECON = re.compile(r"<reconSpace>(.*?)</reconSpace>", re.DOTALL)
SIZES = r"<{0}>\s*<x>([\d.]+)</x>\s*<y>([\d.]+)</y>\s*<z>([\d.]+)</z>\s*</{0}>"
MAX_HEADER = 2**20
DAMAGED = (OSError, KeyError, MemoryError, RuntimeError, TypeError, ValueError)  # what h5py raises on damaged files


@dataclass(frozen=True, kw_only=True)
class FastMri(Dataset):
    """Magnitude volumes, reconstructed from fully sampled k-space.

    acquisition: the contrast, by its name in the files; `all` mixes knees and brains if both are there.
    """

    kind: Literal["fastmri"] = "fastmri"
    dir: str = "data/fastMRI"
    acquisition: Literal["all", "AXT1", "AXT1PRE", "AXT1POST", "AXT2", "AXFLAIR", "CORPD_FBK", "CORPDFS_FBK"] = "all"

    layout: ClassVar[str] = "file1000001.h5 or file_brain_AXT2_200_2000019.h5 (at any depth)"
    suffixes: ClassVar[tuple[str, ...]] = (".h5",)
    unlike: ClassVar[str] = "not named as in fastMRI"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return NAME.fullmatch(path.stem) is not None

    def case(self, path: Path) -> tuple[str, str]:
        if not self.recognises(path):
            return "", self.unlike
        if self.acquisition == "all":
            return path.stem, ""
        try:
            with _h5py().File(path, "r") as file:
                found = str(file.attrs.get("acquisition", "unknown"))
        except DAMAGED:
            return path.stem, ""  # damaged: reading it says so, by name
        return (path.stem, "") if found == self.acquisition else ("", f"other acquisition ({found[:20]})")

    def advice(self, inventory: Inventory) -> str:
        for reason in inventory.reasons():
            if reason.startswith("other acquisition"):
                return "take all, or another one: --set data.acquisition=all"
        return super().advice(inventory)

    def read(self, path: Path) -> Volume:
        """Columns, rows and slices as the axes i, j, k, in mm."""
        import numpy as np

        from wdm_cli.engine.data.volume import Volume, refuse_no_picture

        refuse_absent(path)
        try:
            with _h5py().File(path, "r") as file:
                stack = np.asarray(_reconstruction(path, file)[()], np.float32)
                spacing = _spacing(path, file)
        except DAMAGED as error:
            raise DataError(f"{path}: is damaged, truncated or no HDF5 file") from error
        array = np.ascontiguousarray(stack.transpose(2, 1, 0))
        refuse_no_picture(path, array)
        return Volume(array, np.diag([*spacing, 1.0]))

    def grid(self, path: Path) -> Grid:
        try:
            with _h5py().File(path, "r") as file:
                i, j, k = _reconstruction(path, file).shape[::-1]
                x, y, z = _spacing(path, file)
        except DAMAGED as error:
            raise DataError(f"{path}: is damaged, truncated or no HDF5 file") from error
        return (i, j, k), (x, y, z)


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise ResourceError("fastMRI files need h5py", hint='pip install "wdm-cli[fastmri]"') from error
    return h5py


def _reconstruction(path: Path, file: Any) -> Any:
    """The magnitude volume; refused if it lies in another file or is larger than a volume can be."""
    from wdm_cli.engine.data.volume import MAX_BYTES, times

    key = next((key for key in KEYS if isinstance(file.get(key, getlink=True), _h5py().HardLink)), None)
    if key is None:
        raise DataError(f"{path}: holds no reconstruction ({' or '.join(KEYS)})", why="test files have none")
    data = file[key]
    if data.is_virtual or data.external or data.ndim != 3 or data.dtype.kind != "f":
        raise DataError(f"{path}: {key} is no stack of numbers in this file")
    if data.size * 4 > MAX_BYTES or min(data.shape) < 2:
        raise DataError(f"{path}: {key} claims {times(data.shape)} voxels")
    return data


def _spacing(path: Path, file: Any) -> list[float]:
    """mm between columns, rows and slices: the reconstructed field of view by its matrix (ISMRMRD header)."""
    header = file.get("ismrmrd_header", default=None)
    text = bytes(header[()])[:MAX_HEADER].decode(errors="replace") if header is not None else ""
    recon = RECON.search(text)
    found = [re.search(SIZES.format(name), recon[1]) for name in ("fieldOfView_mm", "matrixSize")] if recon else [None]
    if None in found:
        raise DataError(f"{path}: its header states no field of view", why="the voxel size follows from it")
    view, matrix = ([float(number) for number in match.groups()] for match in found if match)
    if min(view) <= 0 or min(matrix) <= 0:
        raise DataError(f"{path}: its header states a field of view of {view} mm for {matrix} voxels")
    return [mm / count for mm, count in zip(view, matrix, strict=True)]
