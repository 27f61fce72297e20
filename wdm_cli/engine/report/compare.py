"""The sections that look at voxels: synthetic beside real volumes, averages, scores, nearest neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wdm_cli.engine import evaluate
from wdm_cli.engine.chart import Chart, Line, svg
from wdm_cli.engine.data.volume import Volume
from wdm_cli.engine.metrics.checks import lay_warnings, left_out, paired
from wdm_cli.engine.metrics.memorization import BLIND
from wdm_cli.engine.metrics.metric import Options, Steps
from wdm_cli.engine.metrics.report import Report
from wdm_cli.engine.metrics.sanity import inspect
from wdm_cli.engine.metrics.volumes import Volumes
from wdm_cli.engine.report import look, methods, page
from wdm_cli.engine.report.draft import Draft
from wdm_cli.engine.report.look import Window

PAIRS_SHOWN = 4
FINDINGS_SHOWN = 10
FLOORS = (
    "real vs real: half of the real volumes against the other half, where there is nothing to find; at its n: the "
    "synthetic ones at that number of volumes"
)
NO_NETWORK = (
    "No FID, KID or precision here: `wdm eval all --weights medicalnet_resnet50 --out eval.json` beside the samples "
    "computes them, and the report takes them from there."
)
OTHER_VOLUMES = (
    "nearest volumes: the real ones here are not known to be the training data; copies of those are not seen"
)
READ_MEANS = (
    "Read the mean with the single volumes: structure that is fixed in the synthetic mean and blurred in the real one "
    "means that the synthetic volumes vary too little."
)


def compare(
    draft: Draft, made: Volumes, real: Volumes | None, scores: Sequence[Report], held_out: Volumes | None, trained: bool
) -> Steps[list[Report]]:
    """All sections about the samples.

    Args:
        scores: results of `wdm eval`; without any, the scores that need no network are computed here.
        trained: whether `real` is what the model was trained on.

    Returns:
        The scores that are shown.
    """
    settings = draft.settings
    if real is not None:
        real = paired(real, made)
    draft.warnings += [*lay_warnings(real, made), *left_out(made, real)]
    some, some_real = _first(made, settings.most), _first(real, settings.most) if real is not None else None
    if len(some) < len(made):
        draft.warnings.append(f"averages and scores made here are of the first {len(some)} of {len(made):,} volumes")
    else:
        found = yield from inspect(made.root, made.intensity, least=1)
        draft.warnings += [f"{finding.name}: {finding.text}" for finding in found.findings[:FINDINGS_SHOWN]]
        if len(found.findings) > FINDINGS_SHOWN:
            draft.warnings.append(f"{len(found.findings) - FINDINGS_SHOWN} more: wdm eval sanity --fake {made.root}")
    windows = _side_by_side(draft, made, real)
    yield from _averages(draft, some, some_real, windows[0])
    reports = list(scores)
    if len(made) < 2:
        draft.warnings.append("a single volume: scores compare several")
    elif not reports and some_real is not None:
        reports = [(yield from evaluate.without_network(some, some_real, Options(cache_dir=settings.cache_dir)))]
    _scores(draft, reports)
    if real is not None and settings.neighbours:
        yield from _nearest(draft, some, real, held_out, windows[0])
        if not trained:
            draft.warnings.append(OTHER_VOLUMES)
    return reports


def _first(volumes: Volumes, most: int) -> Volumes:
    return volumes if len(volumes) <= most else volumes.subset(range(most))


def _side_by_side(draft: Draft, made: Volumes, real: Volumes | None) -> tuple[Window, ...]:
    """Thumbnails, which open the viewer; returns the windows that they are shown in."""
    sides: dict[str, tuple[Volumes, list[Volume]]] = {}
    for name, volumes in (("synthetic", made), ("real", real)):
        if volumes is not None:
            first = range(min(draft.settings.show, len(volumes)))
            sides[name] = volumes, [volumes.volume(index) for index in first]
    windows = look.windows(made.intensity, next(reversed(sides.values()))[1])
    columns = []
    for side, (volumes, shown) in sides.items():
        figures = [f"<h3>{side.capitalize()}, {len(shown)} of {len(volumes):,}</h3>"]
        for index, volume in enumerate(shown):
            name = f"{side} {volumes.names[index]}"
            draft.shown.append((name, volume))
            data = {"volume": f"volume-{len(draft.shown)}", "name": name}
            for window in windows:
                source = look.thumbnail(volume, look.to_unit(window, volumes.intensity))
                caption = f"{name} · {window.name}" if len(windows) > 1 else name
                figures.append(page.image(source, f"{name}, middle planes, {window.text}", caption, data))
        columns.append(page.box("", figures))
    bounds = "; ".join(window.text for window in windows)
    note = f"Axial, coronal and sagittal middle planes; black … white: {bounds}. Right is on the left (R)."
    panel = _panel(windows) if draft.settings.viewer else ""
    opens = "Click a volume to open it in the viewer." if panel else ""
    draft.sections.append(
        page.section(
            "How the volumes look", page.box("pair", columns), panel, page.paragraph(f"{note} {opens}".strip(), "note")
        )
    )
    return windows


def _panel(windows: Sequence[Window]) -> str:
    """Where the viewer opens; hidden until then, and for good without JavaScript."""
    names = [window.name for window in windows] if len(windows) > 1 else ["reset contrast"]
    buttons = [
        f'<button data-low="{window.low:g}" data-high="{window.high:g}">{name}</button>'
        for name, window in zip(names, windows, strict=True)
    ]
    return "\n".join(
        [
            '<div id="viewer" hidden><div class="bar"><strong id="viewer-title"></strong>',
            '<button id="viewer-back" aria-label="volume before">←</button>',
            '<button id="viewer-next" aria-label="next volume">→</button>',
            *buttons,
            '<span id="viewer-value" class="note"></span><button id="viewer-close">close</button></div>',
            '<div class="canvas"><canvas id="viewer-canvas"></canvas></div>',
            '<div id="viewer-says" class="note"></div></div>',
        ]
    )


def _averages(draft: Draft, made: Volumes, real: Volumes | None, window: Window) -> Steps[None]:
    """Mean volumes and histograms."""
    summaries = {"synthetic": (yield from look.summarise(made, "synthetic"))}
    if real is not None:
        summaries["real"] = yield from look.summarise(real, "real")
    low, high, unit = look.unit_range(made.intensity)
    figures = []
    for name, summary in summaries.items():
        text = f"mean of {summary.n:,} {name} volumes"
        figures.append(page.image(look.thumbnail(summary.mean, look.to_unit(window, made.intensity)), text, text))
    centres = (low + (np.arange(look.BINS) + 0.5) / look.BINS * (high - low)).tolist()
    lines = tuple(Line(name, centres, summary.histogram.tolist()) for name, summary in summaries.items())
    chart = svg(Chart("share of voxels", lines, f"value {unit}".strip(), log=True))
    note = page.paragraph(READ_MEANS if real is not None else "", "note")
    draft.sections.append(page.section("Means and histograms", page.box("pair", [page.box("", figures), chart]), note))


def _scores(draft: Draft, reports: Sequence[Report]) -> None:
    """Every score with its interval, its floor and how to read it, and below the protocol."""
    parts = []
    for report in reports:
        rows = [
            (
                score.name,
                f"{score.value:.5g}",
                f"± {score.half_width:.2g}" if score.half_width is not None else "",
                f"{score.floor:.4g}" if score.floor is not None else "",
                f"{score.at_floor_n:.4g}" if score.at_floor_n is not None else "",
                score.direction + ("" if score.comparable else " [not comparable with published values]"),
            )
            for score in report.scores
        ]
        parts.append(page.table(rows, ("score", "value", "95 %", "real vs real", "at its n", "how to read it")))
        parts.append(page.paragraph(methods.of_scores(report.protocol), "note"))
        parts.append(page.listing(report.remarks, "note"))
        draft.warnings += report.warnings
    if any(score.floor is not None for report in reports for score in report.scores):
        parts.append(page.paragraph(FLOORS, "note"))
    if reports and not any(report.protocol.get("extractor") for report in reports):
        parts.append(page.paragraph(NO_NETWORK, "note"))
    draft.sections.append(page.section("Scores", *parts))


def _nearest(draft: Draft, made: Volumes, real: Volumes, held_out: Volumes | None, window: Window) -> Steps[None]:
    """The synthetic volumes that are nearest to a real one, beside it."""
    options = Options(cache_dir=draft.settings.cache_dir)
    report, found = yield from evaluate.memorization(real, made, held_out, None, options)
    rows = [(score.name, f"{score.value:.4g}", score.direction) for score in report.scores]
    bounds = look.to_unit(window, made.intensity)
    figures = []
    for match in found.matches[:PAIRS_SHOWN]:
        share = match.distance / match.threshold if match.threshold else 0.0
        verdict = "flagged" if match.flagged else "not flagged"
        ours, theirs = made.names[match.fake], real.names[match.train]
        text = f"nearest: {theirs}; distance {share:.2f} times the threshold, {verdict}"
        pair = [
            page.image(look.thumbnail(made.volume(match.fake), bounds), ours, f"synthetic {ours}"),
            page.image(look.thumbnail(real.volume(match.train), bounds), theirs, text),
        ]
        figures.append(page.box("pair", pair))
    draft.warnings += report.warnings
    if found.n_copies > found.expected:
        draft.warnings.append(
            f"{found.n_copies} synthetic volumes are nearer to a real one than unseen ones are "
            f"(chance alone: {found.expected:.1f})"
        )
    note = (
        f"{len(made):,} synthetic against {len(real):,} real volumes by correlation at low resolution; threshold from "
        f"{found.thresholds_from}. {BLIND[0].upper()}{BLIND[1:]}."
    )
    draft.memorization = report
    table = page.table(rows, ("score", "value", "how to read it"))
    draft.sections.append(page.section("Nearest real volumes", table, *figures, page.paragraph(note, "note")))
