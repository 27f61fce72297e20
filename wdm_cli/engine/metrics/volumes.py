"""The volumes of a folder as arrays in [0, 1], read one at a time.

How stored intensities become [0, 1] is never guessed: it stands in the folder's run.json, or the caller says it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from wdm_cli.engine.data.dataset import Dataset
from wdm_cli.engine.data.volume import Volume, read_nifti
from wdm_cli.engine.errors import ConfigError, DataError
from wdm_cli.engine.files import PARTIAL, sha256_file

Shape = tuple[int, int, int]
Scheme = Literal["paper", "fixed-window"]
ROUNDING = 1e-4  # how far outside [0, 1] a resampled or compressed volume may lie


@dataclass(frozen=True)
class Intensity:
    """How stored values become [0, 1]: `paper` stores them so, `fixed-window` stores HU of a window."""

    scheme: Scheme = "paper"
    window: tuple[float, float] = (-1000.0, 1000.0)

    def __post_init__(self) -> None:
        if self.scheme not in get_args(Scheme):
            raise ConfigError(
                f"unknown intensity scheme {self.scheme!r}", hint=f"choose one of: {', '.join(get_args(Scheme))}"
            )

    def to_unit(self, array: NDArray[np.float32], path: Path) -> NDArray[np.float32]:
        """Values in [0, 1]; DataError if the file cannot have been written under this scheme."""
        low, high = float(array.min()), float(array.max())
        found = f"{path}: values from {low:.6g} to {high:.6g}"
        if self.scheme == "paper":
            if low < -ROUNDING or high > 1 + ROUNDING:
                raise DataError(
                    f"{found} do not lie in [0, 1]",
                    why="the intensity scheme `paper` compares volumes that are already in [0, 1]",
                    hint="CT in HU: --intensity fixed-window; raw images: --preset NAME, which preprocesses them",
                )
            return array.clip(0, 1)
        if high - low <= 2:
            raise DataError(
                f"{found} are no HU",
                why="the intensity scheme `fixed-window` reads Hounsfield units",
                hint="for volumes in [0, 1] use --intensity paper",
            )
        bottom, top = self.window
        return ((array - bottom) / (top - bottom)).clip(0, 1)

    def describe(self) -> dict[str, Any]:
        """What of it belongs into a protocol stamp."""
        return {"scheme": self.scheme} | ({"window": list(self.window)} if self.scheme == "fixed-window" else {})


@dataclass(frozen=True)
class Volumes(Sequence[NDArray[np.float32]]):
    """The volumes of a folder; `volumes[i]` reads file i as [D, H, W] float32 in [0, 1].

    dataset: settings that turn raw files into training volumes; None for files that are volumes already.
    """

    root: Path
    files: tuple[Path, ...]
    shape: Shape
    intensity: Intensity
    dataset: Dataset | None = None
    hashes: dict[int, str] = field(default_factory=dict, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> NDArray[np.float32]:  # type: ignore[override]  # slices have no use here
        return self.volume(index).array

    def volume(self, index: int) -> Volume:
        """Volume `index`, [D, H, W] float32 in [0, 1], with its affine.

        Raises:
            DataError: the file cannot be used, or has another shape than the first.
        """
        path = self.files[index]
        if self.dataset is not None:
            made = self.dataset.load(path)
            return Volume(((made.array + 1) / 2).astype(np.float32, copy=False), made.affine)
        read = read_nifti(path)
        if read.shape != self.shape:
            raise odd_shape(path, read.shape, self.files[0], self.shape)
        return Volume(self.intensity.to_unit(read.array, path), read.affine)

    def subset(self, indices: Sequence[int]) -> Volumes:
        """Some of the volumes, at least two."""
        files = tuple(self.files[index] for index in indices)
        require(self.root, files)
        return dataclasses.replace(self, files=files, hashes={})

    def only(self, index: int) -> Volumes:
        """File `index` alone, its hash known: what a process needs that works on it."""
        return dataclasses.replace(self, files=(self.files[index],), hashes={0: self.sha256(index)})

    def sha256(self, index: int) -> str:
        """Hash of the content of file `index`, read once."""
        if index not in self.hashes:
            self.hashes[index] = sha256_file(self.files[index])
        return self.hashes[index]

    def identity(self, index: int) -> str:
        """Hash of all that `self[index]` depends on."""
        made_by = self.dataset.voxel_settings() if self.dataset else None
        parts = [self.sha256(index), self.intensity.describe(), self.shape, made_by]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @cached_property
    def files_sha256(self) -> str:
        """One hash for the contents of all files, whatever their names and order."""
        return hashlib.sha256("\n".join(sorted(map(self.sha256, range(len(self))))).encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """What of it belongs into a protocol stamp."""
        return {"folder": str(self.root), "n": len(self), "files_sha256": self.files_sha256}


def open_folder(root: str | Path, intensity: Intensity | None = None, least: int = 2) -> Volumes:
    """A folder of finished volumes (samples, or any NIfTI files of one shape).

    Args:
        intensity: how they are stored; None takes it from the folder's run.json, else `paper`.

    Raises:
        DataError: fewer than `least` NIfTI files, or files of different shapes (from their headers).
    """
    root = Path(root)
    files = nifti_files(root, least)
    shape = header_shape(files[0])
    for path in files[1:]:
        if (other := header_shape(path)) != shape:
            raise odd_shape(path, other, files[0], shape)
    return Volumes(root, files, shape, intensity or recorded_intensity(root) or Intensity())


def open_dataset(root: str | Path, dataset: Dataset) -> Volumes:
    """A raw data set, its cases made into training volumes as a preset's `data` table says."""
    root = Path(root)
    inventory = dataset.find(root)
    files = tuple(case.path for case in inventory.cases)
    require(root, files)
    return Volumes(root, files, dataset.shape, Intensity(dataset.intensity, dataset.window), dataset)


def recorded_intensity(root: Path) -> Intensity | None:
    """The scheme that a folder's run.json states under preset.data; None without that file.

    Raises:
        DataError: the file is there but states no scheme.
    """
    path = root / "run.json"
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_bytes())["preset"]["data"]
        low, high = data.get("window", Intensity.window)
        return Intensity(data["intensity"], (float(low), float(high)))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: does not state preset.data.intensity", hint="give --intensity paper or fixed-window"
        ) from error


def nifti_files(root: Path, least: int = 2) -> tuple[Path, ...]:
    """All NIfTI files below a folder, sorted; temporary files and hidden folders are left out.

    Raises:
        DataError: no such folder, or fewer than two files in it.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    found = (path for path in root.rglob("*") if path.name.lower().endswith((".nii", ".nii.gz")))
    files = tuple(sorted(p for p in found if p.is_file() and not is_hidden(p.relative_to(root))))
    require(root, files, least)
    return files


def is_hidden(path: Path) -> bool:
    return any(part == PARTIAL or part.startswith(".") for part in path.parts)


def require(root: Path, files: Sequence[Path], least: int = 2) -> None:
    """Raise DataError for fewer files; two at least where volumes are compared."""
    if len(files) < least:
        only = f" ({files[0].name})" if files else ""
        raise DataError(
            f"{root}: {len(files)} NIfTI file{'s' * (len(files) != 1)}{only}"
            + (f", an evaluation needs at least {least}" if least > 1 else ""),
            hint="the paper uses 1000; a few hundred give a usable comparison at equal n",
        )


def header_shape(path: Path) -> Shape:
    """Sides of a volume from its header alone; a file that is not NIfTI gets the reader's own error."""
    import nibabel as nib
    from nibabel.filebasedimages import ImageFileError

    try:
        shape = tuple(nib.load(path).shape)  # type: ignore[attr-defined]
    except (OSError, EOFError, ValueError, zlib.error, ImageFileError):
        return read_nifti(path).shape
    return cast("Shape", shape[:3] if shape[3:] == (1,) else shape)


def odd_shape(path: Path, shape: tuple[int, ...], first: Path, expected: Shape) -> DataError:
    """The error of a volume that has another shape than the first one."""
    return DataError(
        f"{path}: {'×'.join(map(str, shape))} voxels, but {first.name} has {'×'.join(map(str, expected))}",
        why="an evaluation compares volumes of one shape",
        hint="keep each size in a folder of its own",
    )
