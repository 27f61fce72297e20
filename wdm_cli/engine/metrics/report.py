"""What an evaluation found, with everything needed to judge whether two results may be compared."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Score:
    """One number.

    metric: the metric's kind; name: e.g. `fid_x1000`; direction: how to read it.
    """

    metric: str
    name: str
    value: float
    direction: str


@dataclass(frozen=True)
class Report:
    """All numbers of one evaluation.

    protocol: n, file hashes, extractor, geometry, intensity scheme, versions and seed.
    comparable: False if the numbers compare with nothing outside this machine (see `warnings`).
    """

    scores: tuple[Score, ...]
    protocol: dict[str, Any]
    warnings: tuple[str, ...] = ()
    comparable: bool = True

    def __getitem__(self, name: str) -> float:
        """The value of a score by its name."""
        return next(score.value for score in self.scores if score.name == name)

    def to_dict(self) -> dict[str, Any]:
        """Plain tables for JSON."""
        return dataclasses.asdict(self)
