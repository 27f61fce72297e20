"""DICOM without pixels: which files there are (`archive`), what they say (`headers`, `meaning`), whose they are
(`patients`), which belong together (`grouping`, `apart`), where their voxels are (`geometry`), and what it amounts to
(`series`).
"""

from wdm_cli.engine.dicom.archive import count_files, scan
from wdm_cli.engine.dicom.geometry import Geometry
from wdm_cli.engine.dicom.grouping import group
from wdm_cli.engine.dicom.headers import OtherFile, Slice
from wdm_cli.engine.dicom.patients import settle
from wdm_cli.engine.dicom.series import Policy, Series, choose, judge

__all__ = [
    "Geometry",
    "OtherFile",
    "Policy",
    "Series",
    "Slice",
    "choose",
    "count_files",
    "group",
    "judge",
    "scan",
    "settle",
]
