"""What every data set shares: the image-size rule and intensities. Which files are cases: `layout.py`.

No torch, and numpy only when a file is read: configuration imports this.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from wdm_cli.engine.data.inventory import Inventory
from wdm_cli.engine.data.labelmaps import TAKE, by_content
from wdm_cli.engine.data.layout import Layout
from wdm_cli.engine.errors import DataError, require

if TYPE_CHECKING:
    from wdm_cli.engine.data.facts import Facts
    from wdm_cli.engine.data.scale import Grid
    from wdm_cli.engine.data.volume import Array, Sides, Volume


DARK = 0.01  # of [0, 1]: a background below this passes for the darkest value


@dataclass(frozen=True, eq=False)
class Prepared:
    """A training volume, [D, H, W] float32 in [−1, 1] with its true affine, and what is known of its file."""

    volume: Volume
    facts: Facts


@dataclass(frozen=True, kw_only=True)
class Dataset(Layout):
    """Settings of a folder of volumes, and how a file of it becomes a training volume.

    image_size: side of the training volume, or three sides along the array's axes i, j, k.
    intensity: `paper` (per-volume quantiles, then min-max) or `fixed-window` (`window` in HU, exact).
    window: lowest and highest HU of `fixed-window`; what lies outside is clipped.
    crop_margin: the share of a raw side that may be cropped before the volume is downsampled instead.
    voxel: mm of training voxels, one number or three: every volume is averaged as far as comes nearest, and cropped
        where that is too large. `common`: one size for all, that of the volume that needs the largest; a run keeps
        the numbers. `own`: each volume is averaged by itself; `one-factor`: so, and all its axes alike (version 0.1).
    cache: precision of the preprocessed copies that training reads.
    """

    image_size: int | tuple[int, int, int] = 128
    intensity: Literal["paper", "fixed-window"] = "paper"
    window: tuple[float, float] = (-1000.0, 1000.0)
    crop_margin: float = 0.1
    voxel: Literal["common", "own", "one-factor"] | float | tuple[float, float, float] = "common"
    cache: Literal["float32", "int16"] = "float32"

    def __post_init__(self) -> None:
        require(min(self.shape) >= 2, "image_size", "every side must be at least 2")
        require(self.window[0] < self.window[1], "window", "must rise, e.g. [-1000, 1000]")
        require(
            self.intensity == "paper" or self.is_ct,
            "intensity",
            "fixed-window is for CT: MR intensities have no unit (nifti files of CT: data.modality=ct)",
        )
        require(0 <= self.crop_margin < 0.5, "crop_margin", "must be at least 0 and below 0.5")
        voxel = (float(self.voxel),) * 3 if isinstance(self.voxel, int | float) else self.voxel
        require(isinstance(voxel, str) or min(voxel) > 0, "voxel", "must be above 0 mm")
        object.__setattr__(self, "voxel", voxel)  # one number or three: the same settings

    @property
    def shape(self) -> tuple[int, int, int]:
        """Sides of the training volume."""
        size = self.image_size
        return (size, size, size) if isinstance(size, int) else size

    @property
    def is_ct(self) -> bool:
        """Whether raw intensities are HU."""
        return False

    def read(self, path: Path) -> Volume:
        """The raw volume of a file; data sets of other formats have their own.

        Raises:
            DataError: the file cannot be used.
        """
        from wdm_cli.engine.data.volume import read_nifti

        return read_nifti(path)

    def grid(self, path: Path) -> Grid:
        """Sides and voxel size (mm) of a file from its header alone; raises as `read` does, for what that shows."""
        from wdm_cli.engine.data.header import voxel_size
        from wdm_cli.engine.data.volume import read_grid

        sides, affine = read_grid(path)
        return sides, voxel_size(affine)

    def factor(self, sides: Sides, spacing: tuple[float, float, float]) -> Sides:
        """How many raw voxels become one, along each axis of a volume of `sides` voxels of `spacing` mm."""
        from wdm_cli.engine.data.transforms import factors, needed

        if isinstance(self.voxel, tuple):
            i, j, k = (max(1, round(wanted / mm)) for wanted, mm in zip(self.voxel, spacing, strict=True))
            return i, j, k
        least = needed(sides, self.shape, self.crop_margin)
        return factors(least, spacing if self.voxel != "one-factor" else (1.0, 1.0, 1.0))

    def at(self, voxel: tuple[float, float, float]) -> Self:
        """The same settings with training voxels of a given size in mm."""
        return replace(self, voxel=voxel)

    def settled(self, inventory: Inventory) -> Self:
        """The same settings with `voxel=common` replaced by the numbers that it means for these cases."""
        from wdm_cli.engine.data.scale import common_scale

        scale = common_scale(self, inventory)
        return self.at(scale.voxel) if scale else self

    def load(self, path: Path) -> Volume:
        """The training volume of a file: [D, H, W] float32 in [−1, 1] of `shape`, with its true affine.

        Raises:
            DataError: the file cannot be used (see `read_nifti`), or its intensities do not fit the scheme.
        """
        return self.prepare(path).volume

    def prepare(self, path: Path) -> Prepared:
        """`load`, and what was done to make the volume; raises as `load` does."""
        import nibabel as nib

        from wdm_cli.engine.data.facts import Facts
        from wdm_cli.engine.data.header import refuse_impossible, refuse_leaning
        from wdm_cli.engine.data.transforms import fit
        from wdm_cli.engine.data.volume import Volume

        raw = self.read(path)
        self.refuse_labels(path, raw.array)
        refuse_impossible(path, raw.affine)
        refuse_leaning(path, raw.affine)
        try:
            unit = self.unit(raw.array)
        except ValueError as error:
            raise DataError(f"{path}: {error}", hint=self.intensity_advice()) from error
        ground, signs = self.background(raw.array, unit)
        fitted = fit(unit, self.shape, self.factor(raw.shape, raw.spacing), ground)
        volume = Volume(fitted.array * 2 - 1, fitted.affine(raw.affine))
        facts = Facts(
            sides=raw.shape,
            spacing=tuple(round(mm, 4) for mm in raw.spacing),
            orientation="".join(nib.aff2axcodes(raw.affine)),
            factor=fitted.factor,
            lost=tuple((low * mm, high * mm) for (low, high), mm in zip(fitted.lost, raw.spacing, strict=True)),
            low=round(float(raw.array.min()), 4),
            high=round(float(raw.array.max()), 4),
            signs=raw.signs + signs,
        )
        return Prepared(volume, facts)

    def refuse_labels(self, path: Path, array: Array) -> None:
        """Raise DataError for voxels that are labels, unless those are wanted."""
        if self.label_maps == "leave" and (reason := by_content(array)):
            raise DataError(
                f"{path}: {reason}", why="a network would learn labels as anatomy",
                hint=f"move it out of the folder, or --set {TAKE} if label maps are wanted",
            )  # fmt: skip

    def background(self, raw: Array, unit: Array) -> tuple[float, tuple[str, ...]]:
        """What is padded with, in [0, 1], and what is odd about raw intensities that can be used (keys of `SIGNS`)."""
        import numpy as np

        from wdm_cli.engine.data.hounsfield import SOFTEST, TISSUE, Census
        from wdm_cli.engine.data.transforms import background

        if self.is_ct:
            outside = background(raw) if raw.min() < SOFTEST else None  # of a body that was cut out: 0 is water
            return 0.0, ("water",) if outside is not None and SOFTEST < outside < TISSUE[1] else ()
        signs = ["hu"] if raw.min() < 0 and Census.of(raw).looks_like_hu else []
        ground = background(unit)  # of a scan that was scaled inside a mask: what is outside is no black
        if ground is None or np.isclose(ground, 0, atol=DARK):
            return 0.0, tuple(signs)
        return ground, (*signs, "background")

    def unit(self, array: Array) -> Array:
        """Raw intensities to [0, 1] by the chosen scheme; ValueError if they do not fit it."""
        from wdm_cli.engine.data import transforms
        from wdm_cli.engine.data.hounsfield import Census

        if not self.is_ct:
            return transforms.unit_mr(array)
        census = Census.of(array)
        if census.problem and not (self.intensity == "paper" and census.in_unit_range):
            raise ValueError(census.problem)
        return transforms.unit_ct(array) if self.intensity == "paper" else transforms.unit_window(array, self.window)

    def intensity_advice(self) -> str:
        """What to type when intensities do not fit the scheme."""
        if self.intensity == "fixed-window":
            return "use a file in HU, another data.window, or --set data.intensity=paper"
        return "--dataset nifti --set data.modality=mr takes intensities of any range" if self.is_ct else ""

    def voxel_settings(self) -> dict[str, Any]:
        """Every setting that changes the voxels of a given file, as plain values."""
        settings = asdict(self) | {"image_size": list(self.shape), "window": list(self.window)}
        if isinstance(self.voxel, tuple):
            settings["voxel"] = list(self.voxel)
        left = ("label_maps",) if self.label_maps == "leave" else ()  # taken ones must not wait in a cache of others
        for key in ("dir", "contrast", "part", *left, *(() if self.intensity == "fixed-window" else ("window",))):
            settings.pop(key, None)
        return settings
