"""What every metric is: frozen settings with a `kind`, and a method that scores. No torch.

There are two sorts. A FeatureMetric compares two arrays of features and is cheap; a VolumeMetric reads the
volumes themselves, so it reports its progress. `directions` names every value and says how to read it.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeVar

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
class Metric:
    """Common ground of both sorts."""

    kind: str
    directions: ClassVar[dict[str, str]]

    @property
    def note(self) -> str:
        """What else a reader of the values must know, e.g. why they compare with nothing published."""
        return ""


class FeatureMetric(Metric):
    """Compares features of real and generated volumes."""

    def score(self, real: NDArray[np.floating], fake: NDArray[np.floating], seed: int) -> dict[str, float]:
        """Values by the names of `directions`.

        Args:
            real, fake: features [n, d] and [m, d] of any float type.
            seed: of any random choice the metric makes.
        """
        raise NotImplementedError


class VolumeMetric(Metric):
    """Looks at the volumes themselves."""

    needs_real: ClassVar[bool] = False

    def score(self, real: Volumes | None, fake: Volumes, seed: int) -> Steps[dict[str, float]]:
        """Values by the names of `directions`, while yielding progress."""
        raise NotImplementedError
