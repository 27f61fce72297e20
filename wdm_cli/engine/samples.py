"""A folder of samples: NIfTI files by index, run.json, samples.csv, preview.png.

A file under its final name is complete (`files.atomic_publish`), so an interrupted folder is continued by
making what is missing. Several processes may fill one folder (`claims`).
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wdm_cli.engine.claims import Claims
from wdm_cli.engine.data.transforms import to_window
from wdm_cli.engine.data.volume import Affine, Volume, write_nifti
from wdm_cli.engine.errors import ConfigError, DataError, ResourceError
from wdm_cli.engine.files import read_text, remove_partial, require_space, shortage, write_error, write_json, write_text
from wdm_cli.engine.generate import Sample
from wdm_cli.engine.picture import Group, mosaic, save_png
from wdm_cli.engine.preset import Preset, of_version_0_1

PREVIEW_COUNT = 4
FILE_NAME = re.compile(r"sample_(\d{6,})\.nii\.gz")


@dataclass(frozen=True)
class Row:
    """A line of samples.csv; min, max and mean are of the values in the file."""

    index: int
    seed: int
    file: str
    min: float
    max: float
    mean: float
    seconds: float | None


class SampleFolder:
    """Writes samples of one model with one protocol. `open` it first.

    Args:
        protocol: what decides the voxels (checkpoint sha256, sampler, steps, seed, …); a folder made
            with another protocol is refused, so that no folder mixes two models.
        affine: [4, 4] of the training volumes.
    """

    def __init__(self, folder: Path, preset: Preset, affine: Affine, protocol: dict[str, Any]) -> None:
        self.folder, self.preset, self.affine, self.protocol = folder, preset, affine, protocol
        self.window = preset.data.window if preset.data.intensity == "fixed-window" else (0.0, 1.0)

    def open(self, about: dict[str, Any], *, overwrite: bool = False) -> None:
        """Create the folder or check that it goes on with the same protocol; write run.json.

        Args:
            overwrite: remove the samples of an earlier command first, and nothing else.

        Raises:
            ConfigError: it holds samples of another protocol, or of an unknown one.
            ResourceError: the folder cannot be written; with `overwrite` another process is at work in it.
        """
        self.claims = Claims(self.folder)
        with self.claims.shared_files():
            with self.claims.alone() as alone:
                if alone:
                    remove_partial(self.folder)
                if overwrite:
                    self._clear(alone)
            if self.existing() or not alone:
                self._check_protocol()
            write_json(self.folder / "run.json", {"protocol": self.protocol, **about, "preset": self.preset.to_dict()})

    def _check_protocol(self) -> None:
        """Refuse a folder that says of itself that it is made in another way, or that says nothing."""
        path = self.folder / "run.json"
        if not path.exists():
            raise ConfigError(
                f"{self.folder} holds {len(self.existing())} samples without a run.json",
                hint="use another --out, or --overwrite to replace them",
            )
        try:
            old = of_version_0_1(dict(json.loads(path.read_bytes())["protocol"]))
        except (ValueError, KeyError, TypeError):
            old = {}
        changed = [
            f"{key}: {old.get(key)} there, {value} now" for key, value in self.protocol.items() if old.get(key) != value
        ]
        if changed:
            raise ConfigError(
                f"{self.folder} holds samples of another protocol: {'; '.join(changed)}",
                why="one folder is one model, sampler and seed",
                hint="use another --out, or --overwrite to replace them",
            )

    def existing(self) -> dict[int, Path]:
        """Finished files by index."""
        if not self.folder.is_dir():
            return {}
        found = ((FILE_NAME.fullmatch(path.name), path) for path in self.folder.iterdir())
        return {int(match[1]): path for match, path in sorted(found, key=lambda f: f[1].name) if match}

    def space_for(self, number: int) -> str:
        """What should be known of the space for `number` more samples: nothing, or a shortage in words.

        Files are compressed; counted as if they were not.

        Raises:
            ResourceError: not even one has a place.
        """
        voxel = 2 if self.preset.data.intensity == "fixed-window" else 4
        each = math.prod(self.preset.data.shape) * voxel
        if number:
            require_space(self.folder, each, hint="free some space, or choose another --out")
        short = shortage(self.folder, number * each)
        return f"{self.folder}: {number} samples take up to {short}" if short else ""

    def missing(self, number: int) -> list[int]:
        """Which of the samples 0 … number − 1 are not finished."""
        there = self.existing()
        return [index for index in range(number) if index not in there]

    def claim(self, number: int, most: int) -> list[int]:
        """Up to `most` of the samples 0 … number − 1 that are neither finished nor another process's.

        Raises:
            ConfigError: the folder has become one of another protocol.
        """
        mine: list[int] = []
        with self.claims.shared_files():
            self._check_protocol()  # another process may have begun at the same moment, with another model
            for index in self.missing(number):
                if len(mine) < most and self.claims.take(index):
                    if self._path(index).exists():  # finished by another process since we looked
                        self.claims.release(index)
                    else:
                        mine.append(index)
        return mine

    def _clear(self, alone: bool) -> None:
        if not alone:
            raise ResourceError(
                f"{self.folder}: another process is at work in this folder", hint="wait, or use another --out"
            )
        for path in [*self.existing().values(), self.folder / "samples.csv", self.folder / "preview.png"]:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise write_error(path, error) from error

    def _path(self, index: int) -> Path:
        return self.folder / f"sample_{index:06d}.nii.gz"

    def add(self, sample: Sample) -> Row:
        """Write one sample: float32 in [0, 1] under `paper`, int16 HU under `fixed-window`."""
        if self.preset.data.intensity == "fixed-window":
            array: np.ndarray = to_window(sample.volume, self.preset.data.window)
        else:
            array = (sample.volume + 1) / 2
        path = self._path(sample.index)
        write_nifti(path, array, self.affine)
        self.claims.release(sample.index)
        row = _row(sample.index, sample.seed, path, array, round(sample.seconds, 3))
        with self.claims.shared_files():
            self._append(row)
        return row

    def finish(self, seed: int) -> None:
        """Make samples.csv complete and in order, and the preview of the first samples."""
        with self.claims.shared_files():
            files = self.existing()
            known = {row["index"]: row for row in self._rows()}
            rows = [known.get(str(i)) or asdict(_row(i, seed + i, p, _stored(p).array, None)) for i, p in files.items()]
            self._write_rows(rows)
            shown = list(files.values())[:PREVIEW_COUNT]
            volumes = [_stored(path) for path in shown]
            group = Group(f"{self.preset.name}, synthetic", volumes, [path.name for path in shown])
            save_png(self.folder / "preview.png", mosaic([group], self.window))

    def _rows(self) -> list[dict[str, Any]]:
        path = self.folder / "samples.csv"
        if not path.exists():
            return []
        rows = csv.DictReader(read_text(path, "replace").splitlines())
        return [row for row in rows if None not in row.values() and None not in row]

    def _append(self, row: Row) -> None:
        path = self.folder / "samples.csv"
        try:
            new = not path.exists()
            with path.open("a", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(asdict(row)))
                if new:
                    writer.writeheader()
                writer.writerow(asdict(row))
        except OSError as error:
            raise write_error(path, error) from error

    def _write_rows(self, rows: list[dict[str, Any]]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(Row.__dataclass_fields__))
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.folder / "samples.csv", text.getvalue())


def _stored(path: Path) -> Volume:
    """A finished sample; unlike `read_nifti` of foreign files it may be constant."""
    import nibabel as nib

    try:
        image: Any = nib.load(path)
        return Volume(np.asarray(image.dataobj, np.float32), image.affine)
    except (OSError, EOFError, ValueError, zlib.error, nib.filebasedimages.ImageFileError) as error:
        raise DataError(
            f"{path}: damaged since it was written: {error}", hint="remove it; the same command makes it again"
        ) from error


def _row(index: int, seed: int, path: Path, array: np.ndarray, seconds: float | None) -> Row:
    low, high, mean = (round(float(value), 6) for value in (array.min(), array.max(), array.mean()))
    return Row(index, seed, path.name, low, high, mean, seconds)


def preview(preset: Preset, volumes: list[np.ndarray], affine: Affine, caption: str) -> Any:
    """A picture of volumes in [−1, 1], as training shows them."""
    group = Group(preset.name, [Volume(volume, affine) for volume in volumes])
    return mosaic([group], (-1.0, 1.0), caption)
