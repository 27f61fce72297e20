"""What every metric is: frozen settings with a `kind`, and a method that scores. No torch.

There are two sorts. A FeatureMetric compares two arrays with one row a volume (features of a network, or, of a
DescribingMetric, what it makes of a volume itself); it is cheap, so it can be repeated for a floor and intervals. A
VolumeMetric looks at the volumes themselves and reports progress. `directions` names every value and says how
to read it.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from wdm_cli.engine.metrics.volumes import Volumes

T = TypeVar("T")


@dataclass(frozen=True)
class Progress:
    """`done` of `total` items of a stage are finished."""

    stage: str
    done: int
    total: int


Steps = Generator[Progress, None, T]
"""Work that yields its progress and returns a T."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to evaluate, whatever the metric.

    seed: of every random choice. cache_dir: where features and finished pairs are kept; None keeps nothing.
    uncertainty: also measure the real-against-real floor and 95 % intervals. workers: processes for features.
    """

    seed: int = 0
    cache_dir: Path | None = None
    uncertainty: bool = True
    workers: int = 1


DEFAULTS = Options()


@dataclass(frozen=True, kw_only=True)
class Metric(ABC):
    """Common ground of both sorts."""

    kind: str
    directions: ClassVar[dict[str, str]]
    needs_real: ClassVar[bool] = True

    @property
    def note(self) -> str:
        """Why the values compare with nothing published; empty if they do."""
        return ""

    def settings(self) -> dict[str, Any]:
        """Plain values for the protocol stamp."""
        return dataclasses.asdict(self)

    def unfit(self, shape: tuple[int, int, int], n: int) -> tuple[str, str] | None:
        """(the rule, what to do) if volumes of this shape, n in the smaller folder, cannot be scored."""
        return None


class FeatureMetric(Metric):
    """Compares one row a volume: features of a network, but for a DescribingMetric. minimum: fewest volumes a side."""

    @property
    def minimum(self) -> int:
        return 2

    def unfit(self, shape: tuple[int, int, int], n: int) -> tuple[str, str] | None:
        if n >= self.minimum:
            return None
        return f"{self.kind} needs at least {self.minimum} volumes in each folder, there are {n}", "add volumes"

    @abstractmethod
    def score(self, real: NDArray[np.floating], fake: NDArray[np.floating], seed: int) -> dict[str, float]:
        """Values by the names of `directions`.

        Args:
            real, fake: rows [n, F] and [m, F] of any float type.
            seed: of any random choice the metric makes.
        """


class DescribingMetric(FeatureMetric):
    """Compares rows that it makes of the volumes itself, without a network."""

    @abstractmethod
    def describe(self, volume: NDArray[np.float32]) -> NDArray[np.float32]:
        """A volume [D, H, W] in [0, 1] as a row [F]."""


class VolumeMetric(Metric):
    """Looks at the volumes themselves."""

    @abstractmethod
    def score(self, real: Volumes | None, fake: Volumes, options: Options) -> Steps[Found]:
        """Values and remarks, while yielding progress."""


@dataclass(frozen=True)
class Found:
    """What a VolumeMetric found: values by the names of `directions`, their standard errors, remarks in words."""

    values: dict[str, float]
    errors: dict[str, float] = dataclasses.field(default_factory=dict)
    remarks: tuple[str, ...] = ()
