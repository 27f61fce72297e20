"""What an evaluation found, with everything needed to judge whether two results may be compared."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wdm_cli.engine.errors import DataError

FORMAT = "wdm-eval-1"


@dataclass(frozen=True)
class Score:
    """One number and how to read it.

    metric: the metric's kind; name: e.g. `fid_x1000`. half_width: of its 95 % interval. floor: what half of
    the real volumes gives against the other half; at_floor_n: what the generated ones give at that n.
    comparable: False if it compares with nothing published.
    """

    metric: str
    name: str
    value: float
    direction: str
    half_width: float | None = None
    floor: float | None = None
    at_floor_n: float | None = None
    comparable: bool = True


@dataclass(frozen=True)
class Report:
    """All numbers of one evaluation.

    protocol: n, file hashes, extractor, geometry, intensity scheme, metrics' settings, versions and seed.
    remarks: what metrics found in words, naming files.
    """

    scores: tuple[Score, ...]
    protocol: dict[str, Any]
    warnings: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> float:
        """The value of a score by its name."""
        return self.score(name).value

    def score(self, name: str) -> Score:
        return next(score for score in self.scores if score.name == name)

    @property
    def comparable(self) -> bool:
        return all(score.comparable for score in self.scores)

    def with_scores_of(self, other: Report) -> Report:
        """One report of two evaluations of the same folders."""
        stamp = other.protocol | self.protocol | {"metrics": self.protocol["metrics"] | other.protocol["metrics"]}
        warnings = tuple(dict.fromkeys((*self.warnings, *other.warnings)))
        return Report((*self.scores, *other.scores), stamp, warnings, (*self.remarks, *other.remarks))

    def to_dict(self) -> dict[str, Any]:
        """Plain tables for JSON; `read_report` is the inverse."""
        return {"format": FORMAT, "comparable": self.comparable, **json.loads(json.dumps(dataclasses.asdict(self)))}


def read_report(path: Path) -> Report:
    """A report from an eval.json file.

    Raises:
        DataError: there is none, or it is something else.
    """
    try:
        content = json.loads(path.read_bytes())
        if content.get("format") != FORMAT:
            raise DataError(f"{path}: not a result of `wdm eval` (format {content.get('format')!r})")
        scores = tuple(Score(**score) for score in content["scores"])
        numbers = [(s.value, s.half_width or 0.0, s.floor or 0.0, s.at_floor_n or 0.0) for s in scores]
        if not all(isinstance(number, (int, float)) for numbers_of in numbers for number in numbers_of):
            raise TypeError("a score is no number")
        return Report(scores, dict(content["protocol"]), tuple(content["warnings"]), tuple(content["remarks"]))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not a result of `wdm eval --out`, or damaged") from error
