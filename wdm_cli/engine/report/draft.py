"""A report while it is made."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from wdm_cli.engine.data.volume import Volume
from wdm_cli.engine.metrics.report import Report


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to put into a report.

    show: volumes of each side that are shown. most: volumes of each side that are averaged and scored here.
    neighbours: look for the nearest real volume of the synthetic ones. viewer: put the 3D viewer in.
    most_bytes: of the page; the viewer's volumes have as much detail as fits. cache_dir: where features are kept;
    None keeps nothing.
    """

    show: int = 4
    most: int = 64
    neighbours: bool = True
    viewer: bool = True
    most_bytes: int = 6_000_000
    cache_dir: Path | None = None


@dataclass
class Draft:
    """shown: volumes in [0, 1] for the viewer, with the names that the page gives them. memorization: if looked for."""

    settings: Settings
    sections: list[str] = field(default_factory=list)
    shown: list[tuple[str, Volume]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    memorization: Report | None = None
