"""Data sets: where volumes lie and how a file becomes a training volume.

DATASETS is the registry: configuration chooses among its classes by their `kind`.
"""

from __future__ import annotations

from pathlib import Path

from wdm_cli.engine.data.adni import Adni
from wdm_cli.engine.data.brats import Brats
from wdm_cli.engine.data.fastmri import FastMri
from wdm_cli.engine.data.inventory import walk
from wdm_cli.engine.data.lidc import Lidc
from wdm_cli.engine.data.mrnet import MrNet
from wdm_cli.engine.data.nifti import Nifti

DATASETS = (Brats, Lidc, Adni, MrNet, FastMri, Nifti)

__all__ = ["DATASETS", "Adni", "Brats", "FastMri", "Lidc", "MrNet", "Nifti", "guess_kind"]


def guess_kind(root: Path) -> str:
    """The `kind` of the first data set whose layout a file below `root` follows; `nifti` takes any name.

    Raises:
        DataError: the folder is missing.
    """
    # names like CASE_flair occur in other layouts too, and any name will do for nifti: these two are asked last
    asked = [cls for cls in DATASETS if cls not in (Brats, Nifti)] + [Brats, Nifti]
    known: dict[tuple[str, ...], list[Path]] = {}
    for cls in asked:
        if cls.suffixes not in known:
            known[cls.suffixes], _ = walk(root, cls.suffixes)
        if any(map(cls.recognises, known[cls.suffixes])):
            return cls.kind
    return Nifti.kind
