"""What is known of a volume once it was read as training reads it, and what many of them show together.

`verify` collects facts while it looks, training while it fills its cache: both say the same of the same folder.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from wdm_cli.engine.data.header import SAME_SIZE, millimetres
from wdm_cli.engine.data.volume import are_cubes, times

Ends = tuple[tuple[float, float], ...]
SIGNS = {
    "sform": "have an empty or damaged sform: the qform is taken instead",
    "forms": "have an sform that their qform or voxel sizes (pixdim) contradict by more than 1° or 1 %: the sform is "
    "taken, as most programs do",
    "unoriented": "have a header that states no orientation (sform and qform codes are 0): where their axes point is a "
    "guess",
    "scaling": "have an scl_slope or scl_inter that is no finite number: both are ignored, as the NIfTI standard says, "
    "and stored values are taken as they are",
    "hu": "hold values that look like HU of CT, but are read as MR, which spreads their whole range: "
    "--set data.modality=ct (with --dataset nifti) reads them as CT",
    "water": "have a background as dense as tissue (a body cut out, with 0 around it?): air is −1000 HU; set it so",
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
        factor: raw voxels averaged, an axis each.
        lost: anatomy cropped away at the low and high end of each axis, in mm.
        low, high: raw intensities.
        signs: keys of SIGNS.
    """

    sides: tuple[int, ...]
    spacing: tuple[float, ...]
    orientation: str
    factor: tuple[int, ...]
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
        remedy = "a larger data.image_size or data.voxel, or a smaller data.crop_margin, keeps it"
        return f"anatomy cropped by {ends} mm (low/high end of axes i, j, k); {remedy}"

    @property
    def voxel(self) -> tuple[float, ...]:
        """Of the training volume, in mm."""
        return tuple(round(factor * mm, 4) for factor, mm in zip(self.factor, self.spacing, strict=True))

    @property
    def averaged(self) -> str:
        """÷4 or ÷4×4×1."""
        return f"÷{self.factor[0] if len(set(self.factor)) == 1 else times(self.factor)}"

    @property
    def text(self) -> str:
        """Sides, spacing and orientation on one line."""
        return f"{times(self.sides)}  {millimetres(self.spacing)} mm  {self.orientation}"

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
    if stretched := [name for name, facts in found.items() if not are_cubes(facts.voxel)]:
        size = millimetres(found[stretched[0]].voxel)
        told.append(
            f"{len(stretched)} of {len(found)} volumes have voxels that are no cubes (e.g. {stretched[0]}), {size} mm "
            "in training; a network learns them as they are, so resample them first if all distances shall count alike"
        )
    kinds: tuple[tuple[str, Callable[[Facts], str], str], ...] = (
        ("orientation", lambda facts: facts.orientation, "`wdm preprocess nifti` (or `brats`) brings all to RAS"),
        (
            "voxel size in training",
            lambda facts: "×".join(f"{mm:.2g}" for mm in facts.voxel) + " mm",
            f"`wdm preprocess nifti --spacing {usual_spacing(list(found.values()))}` brings all to one",
        ),
    )
    along_axes = zip(*(facts.voxel for facts in found.values()), strict=True)
    one_size = all(max(sizes) <= (1 + SAME_SIZE) * min(sizes) for sizes in along_axes)
    for what, value, remedy in kinds[:1] if one_size else kinds:  # 0.944 and 0.946 are rounded apart
        counts = Counter(map(value, found.values())).most_common()
        if len(counts) > 1:
            listed = ", ".join(f"{text} ({count})" for text, count in counts[:NAMED])
            told.append(f"more than one {what}: {listed}" + " …" * (len(counts) > NAMED) + f"; {remedy}")
    return told


def usual_spacing(cases: Sequence[Facts]) -> str:
    """The median voxel size as `--spacing` takes it: one number, or three along right, anterior, superior."""
    if not cases:
        return ""
    turned = [_along_body(facts) for facts in cases]
    usual = [float(f"{median(sizes):.2g}") for sizes in zip(*turned, strict=True)]
    return f"{usual[0]:g}" if are_cubes(usual) else ",".join(f"{mm:g}" for mm in usual)


def _along_body(facts: Facts) -> list[float]:
    """Voxel size along right, anterior and superior."""
    by_side = dict(zip(facts.orientation, facts.spacing, strict=True))
    return [next(mm for side, mm in by_side.items() if side in pair) for pair in ("RL", "AP", "SI")]
