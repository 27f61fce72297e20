"""A folder of samples: NIfTI files by index, run.json, samples.csv, preview.png.

A file under its final name is complete (`files.atomic_publish`), so an interrupted folder is continued by
making what is missing.
"""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wdm_cli.engine.data.transforms import to_window
from wdm_cli.engine.data.volume import Affine, Volume, read_nifti, write_nifti
from wdm_cli.engine.errors import ConfigError
from wdm_cli.engine.files import write_error, write_json, write_text
from wdm_cli.engine.generate import Sample
from wdm_cli.engine.picture import Group, mosaic, save_png
from wdm_cli.engine.preset import Preset

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
    """Writes samples of one model with one protocol.

    Args:
        protocol: what decides the voxels (checkpoint sha256, sampler, steps, seed, …); a folder made
            with another protocol is refused, so that no folder mixes two models.
        affine: [4, 4] of the training volumes.
    """

    def __init__(self, folder: Path, preset: Preset, affine: Affine, protocol: dict[str, Any]) -> None:
        self.folder, self.preset, self.affine, self.protocol = folder, preset, affine, protocol
        self.window = preset.data.window if preset.data.intensity == "fixed-window" else (0.0, 1.0)

    def open(self, about: dict[str, Any]) -> None:
        """Create the folder or check that it goes on with the same protocol; write run.json.

        Raises:
            ConfigError: it holds samples of another protocol, or of an unknown one.
        """
        path = self.folder / "run.json"
        if path.exists():
            try:
                old = json.loads(path.read_text()).get("protocol", {})
            except ValueError:
                old = {}
            changed = [
                f"{key}: {old.get(key)} there, {value} now"
                for key, value in self.protocol.items()
                if old.get(key) != value
            ]
            if changed and self.existing():
                raise ConfigError(
                    f"{self.folder} holds samples of another protocol: {'; '.join(changed)}",
                    why="one folder is one model, sampler and seed",
                    hint="use another --out, or --overwrite to replace them",
                )
        elif self.existing():
            raise ConfigError(
                f"{self.folder} holds {len(self.existing())} samples without a run.json",
                hint="use another --out, or --overwrite to replace them",
            )
        write_json(path, {"protocol": self.protocol, **about, "preset": self.preset.to_dict()})

    def existing(self) -> dict[int, Path]:
        """Finished files by index."""
        if not self.folder.is_dir():
            return {}
        found = ((FILE_NAME.fullmatch(path.name), path) for path in self.folder.iterdir())
        return {int(match[1]): path for match, path in sorted(found, key=lambda f: f[1].name) if match}

    def clear(self) -> None:
        """Remove the samples of an earlier command (`--overwrite`), and nothing else."""
        for path in [*self.existing().values(), self.folder / "samples.csv", self.folder / "preview.png"]:
            path.unlink(missing_ok=True)

    def add(self, sample: Sample) -> Row:
        """Write one sample: float32 in [0, 1] under `paper`, int16 HU under `fixed-window`."""
        if self.preset.data.intensity == "fixed-window":
            array: np.ndarray = to_window(sample.volume, self.preset.data.window)
        else:
            array = (sample.volume + 1) / 2
        path = self.folder / f"sample_{sample.index:06d}.nii.gz"
        write_nifti(path, array, self.affine)
        row = _row(sample.index, sample.seed, path, array, round(sample.seconds, 3))
        self._append(row)
        return row

    def finish(self, seed: int) -> None:
        """Make samples.csv complete and in order, and the preview of the first samples."""
        known = {row["index"]: row for row in self._rows()}
        rows = []
        for index, path in self.existing().items():
            row = known.get(str(index)) or asdict(_row(index, seed + index, path, read_nifti(path).array, None))
            rows.append(row)
        self._write_rows(rows)
        shown = list(self.existing().items())[:PREVIEW_COUNT]
        volumes = [read_nifti(path) for _, path in shown]
        group = Group(f"{self.preset.name}, synthetic", volumes, [path.name for _, path in shown])
        save_png(self.folder / "preview.png", mosaic([group], self.window))

    def _rows(self) -> list[dict[str, Any]]:
        path = self.folder / "samples.csv"
        if not path.exists():
            return []
        with path.open(newline="") as file:
            return [row for row in csv.DictReader(file) if None not in row.values()]

    def _append(self, row: Row) -> None:
        path = self.folder / "samples.csv"
        try:
            new = not path.exists()
            with path.open("a", newline="") as file:
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


def _row(index: int, seed: int, path: Path, array: np.ndarray, seconds: float | None) -> Row:
    low, high, mean = (round(float(value), 6) for value in (array.min(), array.max(), array.mean()))
    return Row(index, seed, path.name, low, high, mean, seconds)


def preview(preset: Preset, volumes: list[np.ndarray], affine: Affine, caption: str) -> Any:
    """A picture of volumes in [−1, 1], as training shows them."""
    group = Group(preset.name, [Volume(volume, affine) for volume in volumes])
    return mosaic([group], (-1.0, 1.0), caption)


def default_affine(shape: tuple[int, int, int], extent: float = 256.0) -> Affine:
    """RAS axes, centred, as if the volume spanned `extent` mm: for weights that do not know their spacing.

    256 mm is the field of the paper's models: 2 mm voxels at 128³, 1 mm at 256³.
    """
    spacing = extent / max(shape)
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = [-spacing * (side - 1) / 2 for side in shape]
    return affine
