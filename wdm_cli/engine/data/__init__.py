"""Data sets: where volumes lie and how a file becomes a training volume.

DATASETS is the registry: configuration chooses among its classes by their `kind`.
"""

from wdm_cli.engine.data.brats import Brats
from wdm_cli.engine.data.lidc import Lidc
from wdm_cli.engine.data.nifti import Nifti

DATASETS = (Brats, Lidc, Nifti)

__all__ = ["DATASETS", "Brats", "Lidc", "Nifti"]
