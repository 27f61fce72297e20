"""The whole page: sections in their order, a header above them, and volumes for the viewer within the size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from wdm_cli import __version__
from wdm_cli.engine.metrics.metric import Steps
from wdm_cli.engine.metrics.report import Report
from wdm_cli.engine.metrics.volumes import Volumes
from wdm_cli.engine.report import look, methods, origin, page, viewer
from wdm_cli.engine.report.compare import compare
from wdm_cli.engine.report.draft import Draft, Settings
from wdm_cli.engine.report.story import Run, Samples

MARGIN = 20_000  # bytes for what comes after the volumes
DEFAULTS = Settings()
PRIVATE = "this page shows real volumes and the names of their files: pass it on only as the data may be passed on"


@dataclass(frozen=True)
class Page:
    """The HTML, and what was found of copies of the real volumes, if it was looked for."""

    text: str
    memorization: Report | None


def build(
    run: Run | None,
    samples: Samples | None,
    real: Volumes | None = None,
    scores: Sequence[Report] = (),
    steps: dict[str, Any] | None = None,
    held_out: Volumes | None = None,
    settings: Settings = DEFAULTS,
) -> Steps[Page]:
    """The page as one HTML text that needs nothing else.

    Args:
        real: what the samples are set beside; without samples nothing of it is shown.
        scores: results of `wdm eval` of these samples; without any, and with real volumes, the scores that need no
            network are computed.
        steps: the steps.json of benchmarks/steps.py. held_out: real volumes that were not trained on.

    Raises:
        DataError: a volume cannot be read, or samples and real volumes do not fit together.
    """
    draft = Draft(settings)
    if samples is not None:
        trained = run is not None and real is not None and run.trained_on(real.root)
        scores = yield from compare(draft, samples.volumes, real, scores, held_out, trained)
    if run is not None:
        origin.training(draft, run)
    if steps is not None:
        origin.steps_against_quality(draft, steps)
    origin.methods_to_paste(draft, run, samples, scores)
    origin.provenance(draft, run, samples)
    if samples is not None and real is not None:
        draft.warnings.append(PRIVATE)
    return Page(_html(draft, run, samples, real), draft.memorization)


def _html(draft: Draft, run: Run | None, samples: Samples | None, real: Volumes | None) -> str:
    preset = run.preset if run else samples.preset if samples else None
    name = preset.name if preset else samples.volumes.root.name if samples else ""
    head = f'<header><h1>{escape(name)}</h1><div class="badge">{escape(methods.NOT_CLINICAL)}</div></header>'
    warnings = page.section("To be aware of", page.listing(dict.fromkeys(draft.warnings), "warning"))
    body = "\n".join([head, page.table(_facts(run, samples, real)), warnings, *draft.sections])
    tail = ""
    if samples is not None and draft.settings.viewer:
        values = look.unit_range(samples.volumes.intensity)
        note, tail = _viewer(draft, values[:2], taken=len(body.encode(errors="backslashreplace")))
        body += page.paragraph(note, "note")
    return page.document(f"wdm report: {name}", body, viewer.asset("page.css"), tail)


def _facts(run: Run | None, samples: Samples | None, real: Volumes | None) -> list[tuple[str, str]]:
    """The header's lines."""
    rows: list[tuple[str, str]] = []
    preset = run.preset if run else samples.preset if samples else None
    if preset is not None:
        size = "×".join(map(str, preset.data.shape))
        rows.append(("model", f"{preset.name}, {methods.parameters(preset):,} parameters, {size} voxels"))
    if run is not None:
        cases = run.about.get("data", {}).get("cases")
        rows.append(("training", f"{run.step:,} of {run.preset.train.steps:,} steps on {cases} volumes"))
    if samples is not None:
        rows.append(("samples", methods.of_sampling(samples.protocol, len(samples.volumes), samples.seeds)))
    if samples is not None and real is not None:
        how = ", read as the training data are" if real.dataset else ""
        rows.append(("real volumes", f"{len(real):,} of {real.root}{how}"))
    return [*rows, ("report", f"wdm {__version__}")]


def _viewer(draft: Draft, values: tuple[float, float], taken: int) -> tuple[str, str]:
    """What the page says of the viewer's volumes, and the data and scripts behind the page."""
    library = page.data_script("niivue", viewer.library())
    licences = f"<!--\n{viewer.asset('LICENSES.txt').replace('--', '- -')}\n-->"
    script = f"<script>\n{viewer.asset('viewer.js')}</script>"
    room = draft.settings.most_bytes - taken - len(library) - len(licences) - MARGIN
    packed = viewer.pack([volume for _, volume in draft.shown], values, room)
    detail = "in full" if packed.factor == 1 else f"averaged over blocks of {packed.factor}³ voxels"
    volumes = [page.data_script(f"volume-{index}", text) for index, text in enumerate(packed.volumes, start=1)]
    note = f"The viewer shows volumes {detail}, in {packed.levels} grey levels."
    if (packed.factor, packed.levels) != viewer.GRIDS[0]:
        note += " A larger page (--max-mb) or fewer volumes (--show) leave room for more detail."
    return note, "\n".join([library, *volumes, licences, script])
