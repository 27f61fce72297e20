"""What is known of a volume once it was read as training reads it, and what many of them show together.

`verify` collects facts while it looks, training while it fills its cache: both say the same of the same folder.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from wdm_cli.engine.data.volume import are_cubes, times

Ends = tuple[tuple[float, float], ...]
SIGNS = {
    "hu": "hold values that look like HU of CT, but are read as MR, which spreads their whole range: "
    "--set data.modality=ct (with --dataset nifti) reads them as CT",
    "background": "have a background that is not their lowest value (z-scored inside a mask?): it becomes grey, and so "
    "does what is padded; set it to the lowest value if it should be black",
}
"""What is odd in a file by itself -> the rest of the sentence 'N of M volumes …'."""
NAMED = 4


@dataclass(frozen=True, kw_only=True)
class Facts:
    """One volume.

    Attributes:
        sides: of the file, in voxels; spacing: their distance in mm; orientation: where its axes point, e.g. RAS.
        factor: raw voxels averaged along each axis.
        lost: anatomy cropped away at the low and high end of each axis, in mm.
        low, high: raw intensities.
        signs: keys of SIGNS.
    """

    sides: tuple[int, ...]
    spacing: tuple[float, ...]
    orientation: str
    factor: int
    lost: Ends
    low: float
    high: float
    signs: tuple[str, ...] = ()

    @property
    def warning(self) -> str:
        """One sentence if anatomy was cropped away, else nothing."""
        if not any(map(any, self.lost)):
            return ""
        ends = ", ".join(f"{low:.0f}/{high:.0f}" for low, high in self.lost)
        return f"anatomy cropped by {ends} mm (low/high end of axes i, j, k); a smaller data.crop_margin keeps it"

    @property
    def text(self) -> str:
        """Sides, spacing and orientation on one line."""
        return f"{times(self.sides)}  {'×'.join(f'{mm:.3g}' for mm in self.spacing)} mm  {self.orientation}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Facts:
        """The inverse of `to_dict`, also after JSON.

        Raises:
            TypeError: they are not those of a volume.
        """
        plain: dict[str, Any] = {key: tuple(one) if isinstance(one, list) else one for key, one in values.items()}
        return cls(**plain | {"lost": tuple((float(low), float(high)) for low, high in plain["lost"])})


def oddities(found: Mapping[str, Facts]) -> list[str]:
    """What a user should know of volumes by name: signs of single files, and what no file shows alone: axes, voxel
    sizes or proportions that a network would have to learn as well.
    """
    told = []
    for sign, sentence in SIGNS.items():
        if names := [name for name, facts in found.items() if sign in facts.signs]:
            told.append(f"{len(names)} of {len(found)} volumes (e.g. {names[0]}) {sentence}")
    if stretched := [name for name, facts in found.items() if not are_cubes(facts.spacing)]:
        told.append(
            f"{len(stretched)} of {len(found)} volumes have voxels that are no cubes (e.g. {stretched[0]}); "
            "training keeps voxels as they are, so resample them first if distances matter"
        )
    kinds: tuple[tuple[str, Callable[[Facts], str]], ...] = (
        ("orientation", lambda facts: facts.orientation),
        ("voxel size", lambda facts: "×".join(f"{mm:.2g}" for mm in facts.spacing) + " mm"),
    )
    for what, value in kinds:
        counts = Counter(map(value, found.values())).most_common()
        if len(counts) > 1:
            listed = ", ".join(f"{text} ({count})" for text, count in counts[:NAMED])
            told.append(f"more than one {what}: {listed}" + " …" * (len(counts) > NAMED))
    return told
