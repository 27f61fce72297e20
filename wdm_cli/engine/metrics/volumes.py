"""The volumes of a folder as arrays in [0, 1], read one at a time, all in one order of axes.

How stored intensities become [0, 1] is never guessed: it stands in the folder's run.json, or the caller says it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wdm_cli.engine.data.cache import FORMAT
from wdm_cli.engine.data.dataset import Dataset
from wdm_cli.engine.data.formats import NIFTI
from wdm_cli.engine.data.inventory import require_whole
from wdm_cli.engine.data.volume import Volume, read_nifti, times
from wdm_cli.engine.errors import DataError
from wdm_cli.engine.files import sha256_file
from wdm_cli.engine.metrics.folder import names_of, nifti_files, read_told, require
from wdm_cli.engine.metrics.intensity import Intensity
from wdm_cli.engine.metrics.lay import Lay, Shape, along, lay_of, turn

__all__ = ["Intensity", "Volumes", "open_dataset", "open_folder"]
OTHER_WAYS = (
    "real volumes are read as a preset's data table says: name another with --preset NAME (and --set data.KEY=VALUE); "
    "finished volumes are read with --intensity paper ([0, 1]) or fixed-window (HU)"
)


@dataclass(frozen=True)
class Volumes(Sequence[NDArray[np.float32]]):
    """The volumes of a folder; `volumes[i]` reads file i as [D, H, W] float32 in [0, 1].

    shape: sides of every volume, along `axes`. names: what to call each volume, no two alike.
    lays: how each lies by itself; of a raw data set the voxel size is that of the first training volume.
    axes: where the axes of all arrays point; files that lie otherwise are turned (see `lay.turn`).
    dataset: settings that turn raw files into training volumes; None for files that are volumes already.
    left_out: NIfTI files that are not taken, with the reason.
    """

    root: Path
    files: tuple[Path, ...]
    shape: Shape
    intensity: Intensity
    names: tuple[str, ...]
    lays: tuple[Lay, ...]
    axes: str
    dataset: Dataset | None = None
    left_out: tuple[tuple[Path, str], ...] = ()
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
            made = turn(load(self.dataset, path), self.axes)
            return Volume(((made.array + 1) / 2).astype(np.float32, copy=False), made.affine)
        read = turn(read_nifti(path), self.axes)
        if read.shape != self.shape:
            raise odd_shape(path, Lay.of(read.shape, read.affine), self.files[0], self.shape, self.axes)
        return Volume(self.intensity.to_unit(read.array, path), read.affine)

    def subset(self, indices: Sequence[int]) -> Volumes:
        """Some of the volumes, at least two."""
        chosen = self._chosen(indices)
        require(self.root, chosen.files)
        return chosen

    def with_files(self, files: Sequence[Path]) -> Volumes:
        """Other files of the same folder, or some of its own, read and called alike."""
        names, lays = dict(zip(self.files, self.names, strict=True)), dict(zip(self.files, self.lays, strict=True))
        others = [path for path in files if path not in names]
        if others and self.dataset is not None:
            cases = dataclasses.replace(self.dataset, part="all").find(self.root).cases
            names |= {case.path: case.name for case in cases}
        elif others:
            names |= dict(zip(others, names_of(others, self.root), strict=True))
        lays |= {path: data_lay(path, self.lays[0]) if self.dataset else lay_of(path) for path in others}
        told, lie = tuple(names[path] for path in files), tuple(lays[path] for path in files)
        check_shapes(files, lie, self.axes)
        return dataclasses.replace(self, files=tuple(files), names=told, lays=lie, hashes={})

    def only(self, index: int) -> Volumes:
        """File `index` alone, its hash known: what a process needs that works on it."""
        return dataclasses.replace(self._chosen([index]), hashes={0: self.sha256(index)})

    def _chosen(self, indices: Sequence[int]) -> Volumes:
        files = tuple(self.files[index] for index in indices)
        names, lays = tuple(self.names[index] for index in indices), tuple(self.lays[index] for index in indices)
        return dataclasses.replace(self, files=files, names=names, lays=lays, hashes={})

    def turned(self, axes: str) -> Volumes:
        """The same volumes with all arrays along other axes."""
        return dataclasses.replace(self, axes=axes, shape=along(self.shape, self.axes, axes))

    def sha256(self, index: int) -> str:
        """Hash of the content of file `index`, read once."""
        if index not in self.hashes:
            self.hashes[index] = sha256_file(self.files[index])
        return self.hashes[index]

    def identity(self, index: int) -> str:
        """Hash of all that `self[index]` depends on."""
        made_by = [FORMAT, self.dataset.voxel_settings()] if self.dataset else None
        parts = [self.sha256(index), self.intensity.describe(), self.shape, self.axes, made_by]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @cached_property
    def files_sha256(self) -> str:
        """One hash for the contents of all files, whatever their names and order."""
        return hashlib.sha256("\n".join(sorted(map(self.sha256, range(len(self))))).encode()).hexdigest()

    @property
    def orientations(self) -> dict[str, int]:
        """How many volumes lie each way by themselves, most first."""
        return dict(Counter(lay.axes for lay in self.lays).most_common())

    @property
    def voxel_sizes(self) -> dict[str, int]:
        """How many volumes have each voxel size, in mm along `axes`, most first."""
        return dict(Counter(lay.voxels(self.axes) for lay in self.lays).most_common())

    def describe(self) -> dict[str, Any]:
        """What of it belongs into a protocol stamp."""
        lie = {"orientations": self.orientations, "voxel_sizes_mm": self.voxel_sizes}
        return {"folder": str(self.root), "n": len(self), "files_sha256": self.files_sha256, **lie}


def open_folder(root: str | Path, intensity: Intensity | None = None, least: int = 2) -> Volumes:
    """A folder of finished volumes (samples, or any NIfTI files of one shape).

    Args:
        intensity: how they are stored; None takes it from the folder's run.json, else `paper`.

    Raises:
        DataError: fewer than `least` NIfTI files, or files of different shapes (from their headers).
    """
    root = Path(root)
    files, left_out = nifti_files(root, least)
    lays = tuple(map(lay_of, files))
    shape, axes = lays[0].shape, lays[0].axes
    check_shapes(files, lays, axes)
    scheme = intensity or read_told(root).intensity or Intensity()
    return Volumes(root, files, shape, scheme, names_of(files, root), lays, axes, left_out=left_out)


def open_dataset(root: str | Path, dataset: Dataset) -> Volumes:
    """A raw data set, its cases made into training volumes as a preset's `data` table says, called by their names.

    A preset that a run has stored has the voxel size of its training volumes; another takes one for this folder.

    Raises:
        DataError: no case, the first cannot be used, or cases that lie so that they cannot be turned to one order.
    """
    root = Path(root)
    try:
        inventory = dataset.find(root)
        require_whole(inventory)
    except DataError as error:
        raise with_ways(error) from error
    cases = inventory.cases
    files = tuple(case.path for case in cases)
    require(root, files)
    dataset = dataset.settled(inventory)
    made = load(dataset, files[0])
    first = Lay.of(made.shape, made.affine)
    lays = [first, *(data_lay(path, first) for path in files[1:])]
    check_shapes(files, lays, first.axes)
    scheme = Intensity(dataset.intensity, dataset.window)
    names = tuple(case.name for case in cases)
    return Volumes(root, files, first.shape, scheme, names, tuple(lays), first.axes, dataset)


def data_lay(path: Path, first: Lay) -> Lay:
    """How a training volume lies, from its raw file's header and the first training volume."""
    axes = lay_of(path).axes if path.name.lower().endswith(NIFTI) else first.axes
    return Lay(first.shape, along(first.spacing, first.axes, axes), axes)


def load(dataset: Dataset, path: Path) -> Volume:
    """A training volume; raises as `Dataset.load` does, with hints for an evaluation."""
    try:
        return dataset.load(path)
    except DataError as error:
        raise with_ways(error) from error


def with_ways(error: DataError) -> DataError:
    """The error of a data set; hints at options of training become those that an evaluation has."""
    of_training = "--dataset" in error.hint or "--set" in error.hint
    return DataError(error.what, why=error.why, hint=OTHER_WAYS if of_training else error.hint)


def check_shapes(files: Sequence[Path], lays: Sequence[Lay], axes: str) -> None:
    """Raise DataError for the first volume that has another shape than the first file's, along the same axes."""
    shape = along(lays[0].shape, lays[0].axes, axes)
    for path, lay in zip(files, lays, strict=True):
        if along(lay.shape, lay.axes, axes) != shape:
            raise odd_shape(path, lay, files[0], shape, axes)


def odd_shape(path: Path, lay: Lay, first: Path, expected: Shape, axes: str) -> DataError:
    """The error of a volume that has another shape than the first one."""
    here, there = (f" ({lay.axes})", f" ({axes})") if lay.axes != axes else ("", "")
    other = first if first.name == path.name else first.name
    return DataError(
        f"{path}: {times(lay.shape)} voxels{here}, but {other} has {times(expected)}{there}",
        why="an evaluation compares volumes of one shape" + " in one order of axes" * bool(here),
        hint="keep each size in a folder of its own"
        + "; `wdm preprocess nifti` brings volumes to one order of axes" * bool(here),
    )
