"""DICOM: what the files say (`headers`), where voxels are (`geometry`), what it amounts to (`series`). No pixels."""

from wdm_cli.engine.dicom.geometry import Geometry
from wdm_cli.engine.dicom.headers import OtherFile, Slice, count_files, scan
from wdm_cli.engine.dicom.series import Policy, Series, choose, group, judge

__all__ = ["Geometry", "OtherFile", "Policy", "Series", "Slice", "choose", "count_files", "group", "judge", "scan"]
