"""Data sets: where volumes lie and how a file becomes a training volume.

DATASETS is the registry: configuration chooses among its classes by their `kind`.
"""

from __future__ import annotations

from pathlib import Path

from wdm_cli.engine.data.brats import Brats
from wdm_cli.engine.data.inventory import walk
from wdm_cli.engine.data.lidc import Lidc
from wdm_cli.engine.data.nifti import Nifti

DATASETS = (Brats, Lidc, Nifti)

__all__ = ["DATASETS", "Brats", "Lidc", "Nifti", "guess_kind"]


def guess_kind(root: Path) -> str:
    """The `kind` of the first data set whose layout a file below `root` follows; `nifti` takes any name.

    Raises:
        DataError: the folder is missing.
    """
    files, _ = walk(root)
    return next((cls.kind for cls in DATASETS if any(map(cls.recognises, files))), Nifti.kind)
