"""MRNet: knee MR of 1,370 examinations, as stacks of pictures.

Layout: `MRNet-v1.0/{train,valid}/{axial,coronal,sagittal}/0000.npy`, uint8 [slices, 256, 256]. The files state
neither voxel size nor directions: 1 mm and the usual way to show each plane are assumed.
Access: free for research after registration at stanfordmlgroup.github.io/competitions/mrnet; no redistribution.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from wdm_cli.engine.data.dataset import Dataset
from wdm_cli.engine.data.inventory import Inventory
from wdm_cli.engine.data.presence import refuse_absent
from wdm_cli.engine.errors import DataError

if TYPE_CHECKING:
    from wdm_cli.engine.data.scale import Grid
    from wdm_cli.engine.data.volume import Volume

PLANES = {"axial": (0, 1, 2), "coronal": (0, 2, 1), "sagittal": (1, 2, 0)}
"""The world axes (x, y, z) that columns, rows and slices run along; all run towards left, posterior, inferior."""


@dataclass(frozen=True, kw_only=True)
class MrNet(Dataset):
    """Knee MR stacks of one plane.

    plane: the plane whose stacks are taken; the others are left aside.
    """

    kind: Literal["mrnet"] = "mrnet"
    dir: str = "data/MRNet-v1.0"
    plane: Literal["axial", "coronal", "sagittal"] = "sagittal"

    layout: ClassVar[str] = "train/sagittal/0000.npy (or axial, coronal; valid)"
    suffixes: ClassVar[tuple[str, ...]] = (".npy",)
    unlike: ClassVar[str] = "not named as in MRNet"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return path.parent.name in PLANES and path.stem.isdecimal()

    def case(self, path: Path) -> tuple[str, str]:
        if not self.recognises(path):
            return "", self.unlike
        return (path.stem, "") if path.parent.name == self.plane else ("", f"other plane ({path.parent.name})")

    def subject(self, path: Path) -> str:
        return path.stem if self.recognises(path) else ""

    @property
    def lacks(self) -> str:
        return f"other planes but no {self.plane} one"

    def advice(self, inventory: Inventory) -> str:
        for reason in inventory.reasons():
            if reason.startswith("other plane"):
                return f"take another plane: --set data.plane={reason[13:-1]}"
        return super().advice(inventory)

    def read(self, path: Path) -> Volume:
        """Columns, rows and slices as the axes i, j, k; the affine says how the plane is usually shown."""
        import numpy as np

        from wdm_cli.engine.data.volume import Volume, refuse_no_picture

        refuse_absent(path)
        stack = _stack(path)
        array = np.ascontiguousarray(np.asarray(stack, np.float32).transpose(2, 1, 0))
        refuse_no_picture(path, array)
        affine = np.zeros((4, 4))
        affine[3, 3] = 1
        for axis, world in enumerate(PLANES[path.parent.name]):
            affine[world, axis] = -1
        return Volume(array, affine)

    def grid(self, path: Path) -> Grid:
        i, j, k = _stack(path).shape[::-1]
        return (i, j, k), (1.0, 1.0, 1.0)


def _stack(path: Path) -> Any:
    """The numbers of a file, mapped: [slices, rows, columns]; DataError if it cannot be used."""
    import numpy as np

    from wdm_cli.engine.data.volume import MAX_BYTES, times

    refuse_absent(path)
    try:
        stack = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (EOFError, OverflowError, SyntaxError, TokenError, TypeError, ValueError) as error:
        raise DataError(f"{path}: is damaged or no .npy file of numbers") from error
    if stack.ndim != 3 or stack.dtype.kind not in "iuf" or min(stack.shape) < 2 or stack.size * 4 > MAX_BYTES:
        raise DataError(f"{path}: {times(stack.shape)} {stack.dtype} is no stack of slices")
    return stack
