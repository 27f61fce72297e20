"""What decides the voxels of samples: the grid they are made on, and the protocol that a folder of them keeps."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from wdm_cli.engine.checkpoint import Checkpoint
from wdm_cli.engine.data.volume import Affine, times
from wdm_cli.engine.preset import Preset


@dataclass(frozen=True)
class FieldOfView:
    """The grid that volumes are made on, beside the one that the model was trained on: sides in voxels, affine [4, 4].

    A network that fills another grid draws at the scale it has learned: voxels keep their size, and the middle of the
    volume stays where it was.
    """

    trained: tuple[int, int, int]
    made: tuple[int, int, int]
    trained_affine: Affine

    @property
    def affine(self) -> Affine:
        """Of the volumes that are made."""
        affine = np.array(self.trained_affine, np.float64)
        shift = [(before - now) / 2 for before, now in zip(self.trained, self.made, strict=True)]
        affine[:3, 3] += affine[:3, :3] @ shift
        return affine

    def mm(self, shape: tuple[int, int, int]) -> list[float]:
        """Length of every side of a grid."""
        spacing = np.linalg.norm(self.trained_affine[:3, :3], axis=0).tolist()
        return [round(side * mm, 2) for side, mm in zip(shape, spacing, strict=True)]

    @property
    def protocol(self) -> dict[str, Any]:
        """What the protocol says of another grid than the trained one; nothing for the same."""
        if self.made == self.trained:
            return {}
        fields = {"field_of_view_mm": self.mm(self.made), "trained_field_of_view_mm": self.mm(self.trained)}
        return {"trained_image_size": list(self.trained), **fields}

    @property
    def warning(self) -> str:
        """The same in words."""
        if self.made == self.trained:
            return ""
        now, before = (" × ".join(f"{mm:g}" for mm in self.mm(shape)) for shape in (self.made, self.trained))
        return (
            f"volumes of {times(self.made)} voxels from a model trained at {times(self.trained)}: voxels keep "
            f"their size, so the field of view is {now} mm, not {before} mm, and the model never saw one of that size"
        )


def default_affine(shape: tuple[int, int, int], extent: float = 256.0) -> Affine:
    """RAS axes, centred, as if the volume spanned `extent` mm: for weights that do not know their spacing.

    256 mm is the field of the paper's models: 2 mm voxels at 128³, 1 mm at 256³.
    """
    spacing = extent / max(shape)
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = [-spacing * (side - 1) / 2 for side in shape]
    return affine


def protocol_of(source: Checkpoint, settings: Preset, *, seed: int, ema: bool, precision: str) -> dict[str, Any]:
    """Everything that decides a voxel of sample i, as plain values.

    Args:
        ema: whether the averaged weights are taken.
    """
    sampler = dataclasses.asdict(settings.sample)
    protocol = {
        "checkpoint_sha256": source.sha256,
        "weights": "ema" if ema else "raw",
        "sampler": sampler.pop("kind"),
        **sampler,
        "space": dataclasses.asdict(settings.space),
        "diffusion": dataclasses.asdict(settings.diffusion),
        "seed": seed,
        "seed_rule": "sample i is drawn from a generator seeded with seed + i",
        "precision": precision,
        "intensity": settings.data.intensity,
        "image_size": list(settings.data.shape),
    }
    if settings.data.intensity == "fixed-window":
        protocol["window"] = list(settings.data.window)
    return protocol
