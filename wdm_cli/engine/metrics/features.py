"""Features of a folder of volumes: extracted one volume at a time, each kept in a cache.

The cache holds one small file a volume, keyed by everything that determines it, so an interrupted evaluation
continues, a folder that grows costs only its new volumes, and several processes may fill it together.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from wdm_cli.engine.errors import DataError
from wdm_cli.engine.files import atomic_publish
from wdm_cli.engine.metrics.extractor import Extractor
from wdm_cli.engine.metrics.metric import Progress, Steps
from wdm_cli.engine.metrics.volumes import Volumes

Features = NDArray[np.float32]


def extract(volumes: Volumes, extractor: Extractor, cache_dir: Path | None = None) -> Steps[Features]:
    """Features [N, F] of all volumes, in the order of their files.

    Args:
        cache_dir: where features are kept and looked up; None keeps nothing.

    Raises:
        DataError: a file cannot be read, or its features are not finite.
    """
    rows: list[Features] = []
    for index in range(len(volumes)):
        kept = cache_dir and cache_dir / "features" / f"{cache_key(volumes, extractor, index)}.npy"
        row = read_row(kept) if kept else None
        if row is None:
            row = extractor(torch.from_numpy(volumes[index])[None, None])[0].numpy()
            if not np.isfinite(row).all():
                raise DataError(f"{volumes.files[index]}: its features are not finite", why="the extractor overflowed")
            if kept:
                with atomic_publish(kept) as temporary:
                    np.save(temporary, row, allow_pickle=False)
        rows.append(row)
        yield Progress(f"features of {volumes.root}", len(rows), len(volumes))
    return np.stack(rows)


def cache_key(volumes: Volumes, extractor: Extractor, index: int) -> str:
    """Hash of all that a volume's features depend on."""
    parts = {
        "file": volumes.sha256(index),
        "extractor": extractor.describe(),
        "intensity": volumes.intensity.describe(),
        "shape": volumes.shape,
        "dataset": volumes.dataset.voxel_settings() if volumes.dataset else None,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def read_row(path: Path) -> Features | None:
    """Kept features, or None if there are none or the file is damaged."""
    try:
        row = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return cast("Features", row) if row.ndim == 1 and row.dtype == np.float32 else None
