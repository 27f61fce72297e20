"""How volumes look: windows, thumbnails, means and histograms, on volumes in [0, 1]."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wdm_cli.engine.data.volume import Volume
from wdm_cli.engine.metrics.metric import Progress, Steps
from wdm_cli.engine.metrics.volumes import Intensity, Volumes
from wdm_cli.engine.picture import strip

BINS = 64
TILE = 132  # pixels of a plane in a thumbnail
LUNG, SOFT_TISSUE = (-1350.0, 150.0), (-160.0, 240.0)  # HU
FAINTEST, BRIGHTEST = 0.5, 99.5  # percentiles shown as black and white where no unit is known


@dataclass(frozen=True)
class Window:
    """Values shown as black and white, in `unit` (HU, or shares of the volume's range)."""

    name: str
    low: float
    high: float
    unit: str = ""

    @property
    def text(self) -> str:
        return f"{self.name}: {self.low:.4g} … {self.high:.4g} {self.unit}".strip()


@dataclass(frozen=True)
class Summary:
    """Of n volumes: their mean, and the share of voxels in BINS equal steps of [0, 1], [BINS]."""

    n: int
    mean: Volume
    histogram: NDArray[np.float64]


def unit_range(intensity: Intensity) -> tuple[float, float, str]:
    """What 0 and 1 stand for, and the unit."""
    if intensity.scheme == "fixed-window":
        return (*intensity.window, "HU")
    return 0.0, 1.0, ""


def windows(intensity: Intensity, volumes: Sequence[Volume]) -> tuple[Window, ...]:
    """Lung and soft tissue for CT, as far as its stored range goes; else percentiles of the given volumes."""
    low, high, unit = unit_range(intensity)
    if unit:
        found = [
            Window(name, *bounds, unit)
            for name, bounds in (("lung", LUNG), ("soft tissue", SOFT_TISSUE))
            if bounds[1] <= high and (bounds[0] >= low or low <= -900 > bounds[0])
        ]
        return tuple(found) or (Window("stored window", low, high, unit),)
    sampled = np.concatenate([volume.array[::2, ::2, ::2].ravel() for volume in volumes])
    bottom, top = np.percentile(sampled, (FAINTEST, BRIGHTEST)).tolist()
    return (Window(f"percentiles {FAINTEST:g} and {BRIGHTEST:g}", bottom, top if top > bottom else bottom + 1),)


def to_unit(window: Window, intensity: Intensity) -> tuple[float, float]:
    """The window's bounds for volumes in [0, 1]."""
    low, high, _ = unit_range(intensity)
    return (window.low - low) / (high - low), (window.high - low) / (high - low)


def thumbnail(volume: Volume, window: tuple[float, float], tile: int = TILE) -> str:
    """Axial, coronal and sagittal middle planes as a data URI."""
    return data_uri(strip(volume, window, tile))


def data_uri(image: Image.Image) -> str:
    """A picture to stand in a page."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def summarise(volumes: Volumes, side: str) -> Steps[Summary]:
    """Mean and histogram, one volume in memory at a time.

    Args:
        side: what the volumes are, for the progress.
    """
    total = np.zeros(volumes.shape, np.float64)
    counts = np.zeros(BINS, np.float64)
    affine = None
    for index in range(len(volumes)):
        volume = volumes.volume(index)
        affine = volume.affine if affine is None else affine
        total += volume.array
        counts += np.histogram(volume.array, BINS, (0, 1))[0]
        yield Progress(f"looking at {side} volumes", index + 1, len(volumes))
    assert affine is not None
    mean = Volume((total / len(volumes)).astype(np.float32), affine)
    return Summary(len(volumes), mean, counts / counts.sum())
