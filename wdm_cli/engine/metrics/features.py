"""One row a volume, from one pass over a folder: features of a network, histograms, band energies.

Every row is kept in a cache, one small file each, keyed by everything that determines it. So an interrupted
evaluation continues, a folder that grows costs only its new volumes, and several processes may fill it together.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from wdm_cli.engine.errors import DataError
from wdm_cli.engine.files import write_array
from wdm_cli.engine.metrics.extractor import Extractor
from wdm_cli.engine.metrics.metric import DescribingMetric, Progress, Steps
from wdm_cli.engine.metrics.volumes import Volumes

Rows = NDArray[np.float32]
NETWORK = "network"


@dataclass(frozen=True)
class Source:
    """What turns a volume [D, H, W] in [0, 1] into a row [F]; `stamp` names all that the row depends on besides.

    extractor: the network that `describe` uses, if any.
    """

    name: str
    stamp: dict[str, Any]
    describe: Callable[[Rows], Rows]
    extractor: Extractor | None = None


def network_source(extractor: Extractor) -> Source:
    """The features of a network."""

    def describe(volume: Rows) -> Rows:
        row: Rows = extractor(torch.from_numpy(volume)[None, None])[0].numpy()
        return row

    return Source(NETWORK, extractor.describe(), describe, extractor)


def metric_source(metric: DescribingMetric) -> Source:
    """What a metric makes of a volume by itself."""
    return Source(metric.kind, metric.settings(), metric.describe)


def memory_needed(shape: tuple[int, int, int]) -> int:
    """Bytes that a process takes at most for the features of a volume; 0.76 GB were seen at 128³."""
    return int(0.6e9 + 200 * math.prod(shape))


def extract(volumes: Volumes, sources: Sequence[Source], cache_dir: Path | None = None) -> Steps[dict[str, Rows]]:
    """Rows [N, F] of all volumes for every source by its name; each volume is read at most once.

    Args:
        cache_dir: where rows are kept and looked up; None keeps nothing.

    Raises:
        DataError: a file cannot be read, or a row is not finite.
    """
    rows: dict[str, list[Rows]] = {source.name: [] for source in sources}
    for index in range(len(volumes)):
        volume: Rows | None = None
        for source in sources:
            kept = kept_row(cache_dir, volumes, index, source) if cache_dir else None
            row = read_row(kept) if kept else None
            if row is None:
                volume = volumes[index] if volume is None else volume
                row = source.describe(volume)
                if not np.isfinite(row).all():
                    raise DataError(f"{volumes.files[index]}: its features ({source.name}) are not finite")
                if kept:
                    write_array(kept, row)
            rows[source.name].append(row)
        yield Progress(f"features of {volumes.root}", index + 1, len(volumes))
    return {name: np.stack(found) for name, found in rows.items()}


def kept_row(cache_dir: Path, volumes: Volumes, index: int, source: Source) -> Path:
    """Where the cache keeps a row."""
    return cache_dir / "features" / f"{cache_key(volumes.identity(index), source)}.npy"


def cache_key(identity: str, source: Source) -> str:
    """Hash of all that a row depends on."""
    text = json.dumps([identity, source.name, source.stamp], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def read_row(path: Path) -> Rows | None:
    """A kept row, or None if there is none or the file is damaged."""
    try:
        row = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return cast("Rows", row) if row.ndim == 1 and row.dtype == np.float32 else None
