"""Procedural head phantoms: a small data set for the demo and the tests, made from nothing but a seed.

A head is painted from the outside in: scalp, skull, cortex, white matter, then midline, deep grey matter, lateral
ventricles, cerebellum, brain stem and, in some, a lesion. Every structure is given by its signed distance, whose
value within half a voxel of the surface is the share of the voxel inside it, so edges are smooth at any size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wdm_cli.engine.data.volume import Affine, Volume, write_nifti

Field = NDArray[np.floating[Any]]

FIELD_MM = 240.0  # side of the cube that holds a head
SCALP, SKULL, CSF, GREY, WHITE = 950, 90, 280, 520, 780  # intensities in T1 weighting
DEEP_GREY, CEREBELLUM, STEM, RIM, CORE = 590, 640, 740, 1000, 330
SCALP_WIDTH, SKULL_WIDTH, CORTEX_WIDTH = 0.085, 0.055, 0.115  # in half sides of the cube
LESION_SHARE = 0.4


@dataclass(frozen=True)
class _Space:
    """Voxel centres in the head's own frame, in half sides of the cube: x right, y anterior, z up."""

    x: Field
    y: Field
    z: Field
    voxel: float

    def inside(self, distance: Field) -> Field:
        """Share of each voxel with a negative signed distance."""
        share: Field = np.clip(0.5 - distance / np.float32(self.voxel), 0, 1)
        return share


def phantom(seed: int, size: int = 64) -> Volume:
    """A head: intensities are whole numbers from 0 to 1000 as float32, background 0.

    Args:
        seed: decides everything: size, proportions, tilt, folds, ventricles, lesion. Equal seeds give equal voxels.
        size: voxels along each side; the head has the same shape at any size.

    Returns:
        [size, size, size], RAS axes, a field of view of 240 mm, the origin of the world in the middle.
    """
    draw = np.random.default_rng([seed, 0x4EAD])
    space = _space(draw, size)
    head = _head(draw, space)
    image = _paint(np.zeros((size,) * 3, np.float32), space.inside(head), SCALP)
    image = _paint(image, space.inside(head + SCALP_WIDTH), SKULL)
    brain = head + SCALP_WIDTH + SKULL_WIDTH
    fossa = _fossa(draw, space)
    image = _cerebrum(draw, space, brain, fossa, image)
    image = _hindbrain(draw, space, brain, fossa, image)
    image = _lesion(draw, space, image)
    return Volume(np.rint(image).astype(np.float32), phantom_affine(size))


def phantom_affine(size: int) -> Affine:
    """RAS, 240 mm field of view, world origin in the middle."""
    affine = np.diag([FIELD_MM / size] * 3 + [1.0])
    affine[:3, 3] = -(size - 1) / 2 * FIELD_MM / size
    return affine


def write_phantoms(folder: Path, count: int, size: int = 64, seed: int = 0) -> list[Path]:
    """Write phantoms in the BraTS layout, `phantom_0007/phantom_0007-t1n.nii.gz`, and return their paths.

    Phantom i depends on seed + i only. Files that exist are kept.
    """
    paths = []
    for index in range(count):
        name = f"phantom_{index:04d}"
        path = folder / name / f"{name}-t1n.nii.gz"
        if not path.exists():
            volume = phantom(seed + index, size)
            write_nifti(path, volume.array.astype(np.int16), volume.affine)
        paths.append(path)
    return paths


def _space(draw: np.random.Generator, size: int) -> _Space:
    """A head's frame: turned by a few degrees about each axis and scaled."""
    grid = ((np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1).astype(np.float32)
    pitch, roll, yaw = np.deg2rad(draw.uniform(-1, 1, 3) * (8, 3, 4))
    scale = draw.uniform(0.9, 1.06)
    turn = _rotation(0, pitch) @ _rotation(1, roll) @ _rotation(2, yaw) / scale
    turn = turn.astype(np.float32)
    i, j, k = grid[:, None, None], grid[None, :, None], grid[None, None, :]
    x, y, z = (row[0] * i + row[1] * j + row[2] * k for row in turn)
    return _Space(x, y, z, float(2 / size / scale))


def _rotation(axis: int, angle: float) -> Affine:
    """Rotation about one of the three axes, [3, 3]."""
    turn = np.eye(3)
    a, b = (axis + 1) % 3, (axis + 2) % 3
    turn[a, a] = turn[b, b] = np.cos(angle)
    turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
    return turn


def _head(draw: np.random.Generator, space: _Space) -> Field:
    """Signed distance of the scalp: an ellipsoid, broader behind and flat below."""
    width, length, height = draw.uniform((0.68, 0.80, 0.72), (0.78, 0.90, 0.82)).tolist()
    broad = np.float32(draw.uniform(0.04, 0.14))
    x = space.x * (1 + broad * np.clip(space.y, -0.5, 1))
    z = np.where(space.z < 0, space.z * np.float32(1.3), space.z)
    return _ellipsoid(x, space.y, z, (width, length, height))


def _cerebrum(draw: np.random.Generator, space: _Space, brain: Field, fossa: Field, image: Field) -> Field:
    """Cortex, white matter with broad folds, midline, deep grey matter and lateral ventricles."""
    x, y, z = np.abs(space.x), space.y, space.z
    cerebrum = np.maximum(brain, -fossa)
    image = _paint(image, space.inside(cerebrum), GREY)
    phases, waves = draw.uniform(0, 2 * np.pi, 3).tolist(), draw.uniform(9.0, 12.0, 3).tolist()
    fold_x, fold_y, fold_z = (np.sin(w * axis + p) for w, axis, p in zip(waves, (x, y, z), phases, strict=True))
    white = np.maximum(brain + CORTEX_WIDTH + 0.03 * (fold_x + fold_y + fold_z), 0.06 - fossa)
    image = _paint(image, space.inside(white), WHITE)
    fissure = np.maximum(x - 0.03, -(brain + 0.30))
    image = _paint(image, space.inside(fissure) * space.inside(cerebrum), CSF)
    nuclei = _ellipsoid(x - 0.17, y - 0.02, z + 0.06, (0.11, 0.2, 0.13))
    image = _paint(image, space.inside(nuclei), DEEP_GREY)
    return _paint(image, space.inside(_ventricles(draw, x, y, z)), SKULL)


def _ventricles(draw: np.random.Generator, x: Field, y: Field, z: Field) -> Field:
    """Both lateral ventricles: a tube from frontal horn over body to occipital horn; from above they look like an X."""
    width, length, spread = draw.uniform((0.055, 0.30, 0.13), (0.11, 0.42, 0.2)).tolist()
    front, middle, back = (spread, length, 0.06), (0.05 + width / 2, 0.02, 0.15), (spread * 1.15, -length, 0.04)
    tube: Field = np.minimum(_tube(x, y, z, front, middle), _tube(x, y, z, middle, back))
    tube -= width
    return tube


def _fossa(draw: np.random.Generator, space: _Space) -> Field:
    """Signed distance of the space behind and below, which belongs to the cerebellum."""
    roof, front, slope = draw.uniform((-0.26, -0.2, 0.1), (-0.18, -0.1, 0.3)).tolist()
    below: Field = np.maximum(space.z - roof - slope * (space.y + 0.5), space.y - front)
    return below


def _hindbrain(draw: np.random.Generator, space: _Space, brain: Field, fossa: Field, image: Field) -> Field:
    """Cerebellum and brain stem, within the skull."""
    gap = draw.uniform(0.025, 0.04)
    lobes = _ellipsoid(np.abs(space.x) - 0.2, space.y + 0.42, space.z + 0.36, (0.34, 0.36, 0.28))
    cerebellum = np.maximum(np.maximum(brain, fossa) + gap, lobes)
    image = _paint(image, space.inside(cerebellum), CEREBELLUM)
    stem = np.maximum(_tube(space.x, space.y, space.z, (0.0, -0.04, -0.12), (0.0, -0.16, -0.9)) - 0.1, brain)
    return _paint(image, space.inside(stem), STEM)


def _lesion(draw: np.random.Generator, space: _Space, image: Field) -> Field:
    """In some heads: a bright rim around a dark core, in one hemisphere."""
    present = draw.uniform() < LESION_SHARE
    side = float(draw.choice((-1, 1)))
    x, y, z, radius = draw.uniform((0.26, -0.4, 0.05, 0.12), (0.38, 0.4, 0.3, 0.18)).tolist()
    if not present:
        return image
    sides = (radius * draw.uniform(0.85, 1.2, 3)).tolist()
    distance = _ellipsoid(space.x - side * x, space.y - y, space.z - z, sides)
    image = _paint(image, space.inside(distance), RIM)
    return _paint(image, space.inside(distance + 0.06), CORE)


def _paint(image: Field, share: Field, value: float) -> Field:
    """Cover the share of each voxel with an intensity."""
    return image + share * (np.float32(value) - image)


def _ellipsoid(x: Field, y: Field, z: Field, sides: Sequence[float]) -> Field:
    """Signed distance to an ellipsoid with these half axes, exact to first order near its surface."""
    a, b, c = (np.float32(side) for side in sides)
    u, v, w = x / a, y / b, z / c
    norm = np.sqrt(u * u + v * v + w * w)
    slope = np.sqrt((u / a) ** 2 + (v / b) ** 2 + (w / c) ** 2)
    distance: Field = norm * (norm - 1) / np.maximum(slope, np.float32(1e-6))
    return distance


def _tube(x: Field, y: Field, z: Field, start: tuple[float, ...], end: tuple[float, ...]) -> Field:
    """Distance to the line from `start` to `end`."""
    (ax, ay, az), step = (np.float32(v) for v in start), np.subtract(end, start).astype(np.float32)
    px, py, pz = x - ax, y - ay, z - az
    along = np.clip((px * step[0] + py * step[1] + pz * step[2]) / np.dot(step, step), 0, 1)
    distance: Field = np.sqrt((px - along * step[0]) ** 2 + (py - along * step[1]) ** 2 + (pz - along * step[2]) ** 2)
    return distance
