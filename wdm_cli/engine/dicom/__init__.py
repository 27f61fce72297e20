"""DICOM without pixels: what the files say (`headers`), which belong together (`grouping`), where their voxels are
(`geometry`), and what it amounts to (`series`).
"""

from wdm_cli.engine.dicom.geometry import Geometry
from wdm_cli.engine.dicom.grouping import group
from wdm_cli.engine.dicom.headers import OtherFile, Slice, count_files, scan
from wdm_cli.engine.dicom.series import Policy, Series, choose, judge

__all__ = ["Geometry", "OtherFile", "Policy", "Series", "Slice", "choose", "count_files", "group", "judge", "scan"]
