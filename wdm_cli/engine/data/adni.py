"""ADNI: brain MR of healthy and demented people.

Layout: NIfTI files as the LONI archive exports them (`ADNI_002_S_0295_MR_…_I118671.nii`, at any depth), or
converted to BIDS (`sub-ADNI002S0295/ses-M00/anat/sub-ADNI002S0295_ses-M00_T1w.nii.gz`); of BIDS only T1w images
are taken. DICOM exports are converted by `wdm preprocess mr`, which names files as the archive does.
Access: free for research after an application to adni.loni.usc.edu; its agreement forbids passing images on, which
may include images that a model has memorised (`wdm eval memorization`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from wdm_cli.engine.data.dataset import Dataset
from wdm_cli.engine.data.inventory import stem

EXPORTED = re.compile(r"ADNI_\d{3}_S_\d{4}_MR_.+", re.IGNORECASE)
BIDS = re.compile(r"(?P<who>sub-ADNI\d{3}S\d{4}(_ses-[a-z0-9]+)?)(_.+)?_(?P<kind>[a-z0-9]+)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Adni(Dataset):
    """T1-weighted brain MR, as exported or in BIDS."""

    kind: Literal["adni"] = "adni"
    dir: str = "data/ADNI"

    layout: ClassVar[str] = "ADNI_002_S_0295_MR_….nii or sub-ADNI002S0295_ses-M00_T1w.nii.gz (at any depth)"
    unlike: ClassVar[str] = "not named as in ADNI"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return bool(EXPORTED.fullmatch(stem(path)) or BIDS.fullmatch(stem(path)))

    def case(self, path: Path) -> tuple[str, str]:
        if not self.recognises(path):
            return "", self.unlike
        match = BIDS.fullmatch(stem(path))
        if match and match["kind"].lower() != "t1w":
            return "", f"other contrast ({match['kind']})"
        return stem(path), ""

    def subject(self, path: Path) -> str:
        match = BIDS.fullmatch(stem(path))
        return match["who"] if match else ""

    @property
    def lacks(self) -> str:
        return "other images but no T1w"
