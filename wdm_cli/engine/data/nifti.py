"""Any folder of NIfTI files: each one is a case."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from wdm_cli.engine.data.dataset import Dataset
from wdm_cli.engine.data.inventory import some_of, stem

CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")
CHANNELS = tuple(f"{number:04}" for number in range(8))
CONTRAST = re.compile(
    r"(?:(?P<case>.+?)[_-])?(?P<contrast>t1w?|t1n|t1c|t1ce|t1gd|t2w?|t2f|t2star|flair|pdw?|dwi|adc|swi|mprage|orig|nu|norm|"
    r"brain|brainmask|000[0-7])",
    re.IGNORECASE,
)
"""What files of one case are told apart by, at the end of their names."""


@dataclass(frozen=True, kw_only=True)
class Nifti(Dataset):
    """Volumes of any kind.

    modality: `mr` (any intensities, the BraTS rule) or `ct` (HU, the LIDC rule).
    """

    kind: Literal["nifti"] = "nifti"
    dir: str = "data/NIFTI"
    modality: Literal["mr", "ct"] = "mr"

    layout: ClassVar[str] = "NIfTI files (.nii.gz or .nii, at any depth)"

    @property
    def is_ct(self) -> bool:
        return self.modality == "ct"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        return True

    def case(self, path: Path) -> tuple[str, str]:
        return stem(path), ""

    def notes(
        self, files: Sequence[Path], taken: Sequence[Path], ignored: Sequence[tuple[Path, str]]
    ) -> tuple[str, ...]:
        """Also: cases that come with several contrasts or channels, which one model should not mix."""
        told = super().notes(files, taken, ignored)
        found: dict[tuple[Path, str], set[str]] = {}
        for match, path in ((CONTRAST.fullmatch(stem(path)), path) for path in taken):
            if match:
                found.setdefault((path.parent, match["case"] or path.parent.name), set()).add(match["contrast"])
        several = {case: own for (_, case), own in found.items() if len(own) > 1}
        if len(several) < 2:  # one alone: numbers of cases
            return told
        kinds = ", ".join(sorted(set().union(*several.values())))
        return (
            *told,
            f"{len(several)} cases have several volumes ({kinds}; e.g. {min(several)}): one model makes one contrast, "
            "so give each a folder of its own",
        )

    def incomplete(self, files: Sequence[Path], taken: Sequence[Path]) -> str:
        """Cases that lack a channel which others have, where files are named CASE_0000, CASE_0001, … as for nnU-Net."""
        channels: dict[tuple[Path, str], set[str]] = {}
        for match, path in ((CHANNEL.fullmatch(stem(path)), path) for path in taken):
            if match:
                channels.setdefault((path.parent, match["case"]), set()).add(match["channel"])
        usual = set().union(*channels.values())
        if not usual <= set(CHANNELS) or len(usual) < 2:
            return ""  # numbers of cases
        lacking = sorted(f"{case} (no {min(usual - own)})" for (_, case), own in channels.items() if usual - own)
        if not lacking:
            return ""
        cases = "1 case lacks" if len(lacking) == 1 else f"{len(lacking)} cases lack"
        return f"{cases} a channel that others have: {some_of(lacking)}"
