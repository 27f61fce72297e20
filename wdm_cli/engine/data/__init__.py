"""Data sets: where volumes lie and how a file becomes a training volume.

DATASETS is the registry: configuration chooses among its classes by their `kind`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wdm_cli.engine.data.adni import Adni
from wdm_cli.engine.data.brats import Brats
from wdm_cli.engine.data.fastmri import FastMri
from wdm_cli.engine.data.inventory import walk
from wdm_cli.engine.data.labelmaps import by_name
from wdm_cli.engine.data.lidc import Lidc
from wdm_cli.engine.data.mrnet import MrNet
from wdm_cli.engine.data.nifti import Nifti
from wdm_cli.engine.data.prepared import stated

DATASETS = (Brats, Lidc, Adni, MrNet, FastMri, Nifti)
SUFFIXES = tuple({suffix: None for cls in DATASETS for suffix in cls.suffixes})

__all__ = ["DATASETS", "Adni", "Brats", "FastMri", "Lidc", "MrNet", "Nifti", "guess_kind", "kind_of"]


def guess_kind(root: Path) -> str:
    """The `kind` of the data set whose layout most volumes below `root` follow.

    `nifti` takes any name, so it is chosen only if more than half of them follow none. A folder that
    `wdm preprocess` made states its layout.

    Raises:
        DataError: the folder is missing.
    """
    found = stated(root)
    return found.kind if found else kind_of(walk(root, SUFFIXES).files, root)


def kind_of(files: Sequence[Path], root: Path) -> str:
    """`guess_kind` for files that were found already."""
    images = [path for path in files if not by_name(path, root)] or files
    # names like CASE_flair occur in other layouts too: of equals it is asked last
    named = sorted((cls for cls in DATASETS if cls is not Nifti), key=lambda cls: cls is Brats)
    best: str = Nifti.kind
    most, suffixes = 0, Nifti.suffixes
    for cls in named:
        count = cls.count([path for path in images if path.name.lower().endswith(cls.suffixes)])
        if count > most:
            best, most, suffixes = cls.kind, count, cls.suffixes
    others = sum(path.name.lower().endswith(Nifti.suffixes) for path in images)
    if most and suffixes == Nifti.suffixes:
        others -= most
    return best if most >= others else Nifti.kind
