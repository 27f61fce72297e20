"""Two results side by side: refused unless they were measured by one protocol."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from wdm_cli.engine.errors import DataError
from wdm_cli.engine.metrics.report import Report

ALIKE = ("shape", "intensity", "extractor")


@dataclass(frozen=True)
class Difference:
    """b − a of one score; half_width of its 95 % interval, None if a side has none."""

    name: str
    a: float
    b: float
    half_width: float | None
    direction: str

    @property
    def verdict(self) -> str:
        if self.half_width is None:
            return "no interval"
        return "differs" if abs(self.b - self.a) > self.half_width else "no difference shown"


def compare(a: Report, b: Report, *, unequal_n: bool = False) -> tuple[list[Difference], list[str]]:
    """The differences of all scores that both reports have, and warnings.

    Intervals of both sides are added in quadrature; where both used the same real volumes that is cautious.

    Raises:
        DataError: the protocols differ (every difference is named), or they share no score.
    """
    problems, warnings = unlike(a.protocol, b.protocol, unequal_n=unequal_n)
    if problems:
        raise DataError(
            "the two results were not measured alike: " + "; ".join(problems),
            why="their difference would measure the protocols, not the volumes",
            hint="evaluate both again with one protocol"
            + ("" if unequal_n or not any(" n " in p for p in problems) else ", or --unequal-n for unlike n"),
        )
    others = {score.name: score for score in b.scores}
    differences = []
    for score in a.scores:
        if (other := others.get(score.name)) is None:
            continue
        widths = (score.half_width, other.half_width)
        known = None if None in widths else math.hypot(*(w for w in widths if w is not None))
        differences.append(Difference(score.name, score.value, other.value, known, score.direction))
    if not differences:
        raise DataError(
            "the two results have no score in common", hint="evaluate both with the same `wdm eval` command"
        )
    return differences, warnings


def unlike(a: dict[str, Any], b: dict[str, Any], *, unequal_n: bool) -> tuple[list[str], list[str]]:
    """What forbids a comparison, and what only has to be said."""
    problems = [f"{key} {a[key]} and {b[key]}" for key in ALIKE if a[key] != b[key]]
    for kind in a["metrics"].keys() & b["metrics"].keys():
        if a["metrics"][kind] != b["metrics"][kind]:
            problems.append(f"{kind} settings {a['metrics'][kind]} and {b['metrics'][kind]}")
    real_a, real_b = (side["real"] or {} for side in (a, b))
    if real_a.get("files_sha256") != real_b.get("files_sha256"):
        problems.append(f"other real volumes ({real_a.get('folder')}, {real_b.get('folder')})")
    warnings: list[str] = []
    if a["fake"]["n"] != b["fake"]["n"]:
        text = f"unequal n of generated volumes: {a['fake']['n']} and {b['fake']['n']}"
        (warnings if unequal_n else problems).append(text)
    if a.get("axes") != b.get("axes"):
        said = " and ".join(side.get("axes") or "not recorded (arrays as they were stored)" for side in (a, b))
        warnings.append(f"order of axes {said}")
    if a["seed"] != b["seed"]:
        warnings.append(f"seeds {a['seed']} and {b['seed']}")
    changed = [f"{k} {v} and {b['versions'].get(k)}" for k, v in a["versions"].items() if v != b["versions"].get(k)]
    if changed:
        warnings.append("other versions: " + ", ".join(changed))
    return problems, warnings
