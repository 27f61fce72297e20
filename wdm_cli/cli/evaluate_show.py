"""What `wdm eval` prints: scores with their meaning, the protocol stamp, findings and differences."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from wdm_cli.cli import console
from wdm_cli.cli.stop import until_asked

if TYPE_CHECKING:
    from wdm_cli.engine.metrics.compare import Difference
    from wdm_cli.engine.metrics.memorization import Memorized
    from wdm_cli.engine.metrics.metric import Steps
    from wdm_cli.engine.metrics.report import Report, Score
    from wdm_cli.engine.metrics.sanity import Sanity
    from wdm_cli.engine.metrics.volumes import Volumes

T = TypeVar("T")
PAIRS_SHOWN = 4


def follow(steps: Steps[T]) -> T:
    """Run an evaluation, showing the progress of each of its stages."""
    stage: console.Progress | None = None
    steps = until_asked(steps)
    try:
        while True:
            try:
                record = next(steps)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
            if stage is None or stage.what != record.stage:
                if stage is not None:
                    stage.__exit__()
                stage = console.Progress(record.stage, record.total).__enter__()
            stage.update(record.done)
    finally:
        if stage is not None:
            stage.__exit__()


def show(report: Report, out: Path | None, as_json: bool) -> None:
    """Warnings to stderr, the answer to stdout, and to a file if one is named."""
    from wdm_cli.engine.files import write_json

    for text in report.warnings:
        console.warn(text)
    if out is not None:
        write_json(out, report.to_dict())
        console.note(f"wrote {out}")
    if as_json:
        console.answer_json(report.to_dict())
        return
    title = "Scores" if report.comparable else "Scores (some not comparable with published ones)"
    columns = ("score", "value", "95 % ±", "real vs real", "at its n", "how to read it")
    rows = [score_row(score) for score in report.scores]
    used = [i for i, _ in enumerate(columns) if i in (0, 1, 5) or any(row[i] for row in rows)]
    console.table([columns[i] for i in used], [[row[i] for i in used] for row in rows], title=title)
    if any(score.floor is not None for score in report.scores):
        console.note(
            "real vs real: half of the real volumes against the other half, where there is nothing to find; "
            "at its n: the generated ones at that number of volumes"
        )
    if report.remarks:
        console.table(("remark",), [(remark,) for remark in report.remarks])
    console.table(("protocol", "value"), protocol_rows(report), title="Protocol")


def score_row(score: Score) -> tuple[str, ...]:
    label = "" if score.comparable else " [not comparable]"
    numbers = (score.half_width, score.floor, score.at_floor_n)
    cells = ("" if value is None else f"{value:.3g}" for value in numbers)
    return (score.name, f"{score.value:.6g}", *cells, score.direction + label)


def protocol_rows(report: Report) -> list[tuple[str, str]]:
    """The protocol stamp as lines; the JSON has the same in full."""
    stamp = report.protocol
    rows = []
    for side in ("real", "fake", "held_out"):
        if folder := stamp.get(side):
            lie = ", ".join([*folder.get("orientations", ()), *(f"{mm} mm" for mm in folder.get("voxel_sizes_mm", ()))])
            text = f"n = {folder['n']}, files sha256 {folder['files_sha256'][:16]}, {folder['folder']}"
            rows.append((side, f"{text}; {lie}" if lie else text))
    if extractor := stamp["extractor"]:
        text = f"{extractor['name']}, sha256 {extractor['sha256'][:16]}"
        rows.append(("extractor", text))
    rows.append(("shape", "×".join(map(str, stamp["shape"]))))
    if axes := stamp.get("axes"):
        rows.append(("axes of the arrays", axes))
    rows.append(("intensity", " ".join(map(str, stamp["intensity"].values()))))
    for kind, settings in stamp["metrics"].items():
        shown = {key: "all" if (key, value) == ("pairs", 0) else value for key, value in settings.items()}
        if text := ", ".join(f"{key} {value}" for key, value in shown.items() if key != "kind"):
            rows.append((kind, text))
    rows.append(("seed", str(stamp["seed"])))
    rows.append(("versions", ", ".join(f"{name} {stamp['versions'][name]}" for name in ("wdm", "torch", "numpy"))))
    return rows


def show_sanity(result: Sanity, as_json: bool) -> None:
    if as_json:
        console.answer_json(result.to_dict())
        return
    rows = [(finding.name, finding.level, finding.text) for finding in result.findings]
    console.table(("file", "level", "finding"), rows or [("", "", "nothing wrong found")], title=str(result.root))
    sides = (("shape", result.shapes), ("spacing in mm", result.spacings), ("orientation", result.orientations))
    console.table(("of all", "value", "volumes"), [(name, key, n) for name, c in sides for key, n in c.items()])


def show_differences(differences: list[Difference], as_json: bool) -> None:
    if as_json:
        fields = ("name", "a", "b", "half_width", "verdict", "direction")
        console.answer_json([{field: getattr(d, field) for field in fields} for d in differences])
        return
    rows = [
        (
            d.name,
            f"{d.a:.6g}",
            f"{d.b:.6g}",
            f"{d.b - d.a:+.4g}",
            "" if d.half_width is None else f"{d.half_width:.3g}",
            d.verdict,
            d.direction,
        )
        for d in differences
    ]
    console.table(("score", "A", "B", "B − A", "95 % ±", "verdict", "how to read it"), rows, title="Differences")


def draw_closest(path: Path, found: Memorized, train: Volumes, fake: Volumes) -> None:
    """The closest pairs, generated beside training volume, as three planes each."""
    from wdm_cli.engine.picture import Group, mosaic, save_png

    groups = []
    shown: set[tuple[int, int]] = set()
    for match in found.matches:
        if (match.fake, match.train) in shown or len(shown) == PAIRS_SHOWN:
            continue
        shown.add((match.fake, match.train))
        ratio = match.distance / match.threshold if match.threshold else 0.0
        title = f"generated | training: {ratio:.2f} of threshold"
        names = [fake.names[match.fake], train.names[match.train]]
        groups.append(Group(title, [fake.volume(match.fake), train.volume(match.train)], names))
    save_png(path, mosaic(groups, (0.0, 1.0), "the closest generated and training volumes; below 1 = flagged"))
    console.note(f"wrote {path}")
