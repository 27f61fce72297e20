"""The sections about where a model and its samples come from: training, methods, commands and hashes."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wdm_cli import __version__
from wdm_cli.engine import curves
from wdm_cli.engine.chart import svg
from wdm_cli.engine.citation import BIBTEX
from wdm_cli.engine.metrics.report import Report
from wdm_cli.engine.report import methods, page, viewer
from wdm_cli.engine.report.draft import Draft
from wdm_cli.engine.report.story import Run, Samples

PREVIEW_BYTES = 400_000  # a larger picture would take the room of the volumes


def training(draft: Draft, run: Run) -> None:
    """Curves, and the newest picture that training drew."""
    counts = run.metrics["skipped"]
    if skipped := int(counts[np.isfinite(counts)].sum()):
        draft.warnings.append(f"{skipped} training steps were skipped because of values that are not finite")
    if run.step < run.preset.train.steps:
        draft.warnings.append(f"the training stands at step {run.step:,} of {run.preset.train.steps:,}")
    parts = []
    if len(run.metrics["step"]):
        parts.append(page.box("charts", map(svg, curves.of_training(run.metrics))))
        every = run.preset.train.log_every
        parts.append(page.paragraph(f"Means over {every} steps; metrics.csv has the gradient norm too.", "note"))
    if run.preview is not None and run.preview.stat().st_size > PREVIEW_BYTES:
        parts.append(page.paragraph(f"{run.preview} is too large for this page.", "note"))
    elif run.preview is not None:
        encoded = base64.b64encode(run.preview.read_bytes()).decode()
        text = f"samples while training: {run.preview.name}"
        parts.append(page.image(f"data:image/png;base64,{encoded}", text, text))
    draft.sections.append(page.section("Training", *parts))


def steps_against_quality(draft: Draft, results: dict[str, Any]) -> None:
    """What fewer sampling steps cost, as benchmarks/steps.py measured it."""
    charts = map(svg, curves.of_steps(curves.scored_cells(results)))
    of = results["of"]
    note = f"Measured by benchmarks/steps.py on {of['preset']['name']}, training step {of['training_step']}."
    draft.sections.append(
        page.section("Steps against quality", page.box("charts", charts), page.paragraph(note, "note"))
    )


def methods_to_paste(draft: Draft, run: Run | None, samples: Samples | None, scores: Sequence[Report]) -> None:
    """A paragraph for a paper, and the citation."""
    texts = []
    preset = run.preset if run else samples.preset if samples else None
    if preset is not None:
        step = int((samples.about.get("step") if samples else None) or (run.step if run else 0))
        about = run.about if run else samples.about if samples else {}
        cases = run.about.get("data", {}).get("cases") if run else None
        version = (about.get("versions") or {}).get("wdm", __version__)
        texts.append(methods.of_training(preset, step, cases, version))
    if samples is not None:
        texts.append(methods.of_sampling(samples.protocol, len(samples.volumes), samples.seeds))
    texts += [methods.of_scores(report.protocol) for report in scores]
    draft.sections.append(page.section("Methods, to paste", page.paragraph(" ".join(texts)), page.code(BIBTEX)))


def provenance(draft: Draft, run: Run | None, samples: Samples | None) -> None:
    """Commands, versions and hashes."""
    rows: list[tuple[str, str]] = []
    for name, about in (("training", run.about if run else {}), ("sampling", samples.about if samples else {})):
        if not about:
            continue
        argv = [str(part) for part in about.get("argv") or []]
        rows += [
            (f"{name} command", shlex.join([Path(argv[0]).name, *argv[1:]]) if argv else "not recorded"),
            (
                f"{name} on",
                ", ".join(f"{key} {about.get(key)}" for key in ("device", "started", "commit") if about.get(key)),
            ),
            (f"{name} with", ", ".join(f"{key} {value}" for key, value in (about.get("versions") or {}).items())),
        ]
    if samples is not None:
        volumes = samples.volumes
        rows.append(("samples", f"{volumes.root}: {len(volumes):,} files, sha256 {volumes.files_sha256}"))
        if checkpoint := samples.protocol.get("checkpoint_sha256"):
            rows.append(("checkpoint", f"sha256 {checkpoint}"))
    facts, notice = viewer.facts(), ""
    if draft.shown and draft.settings.viewer:
        notice = f"Viewer: {facts['name']} {facts['version']}, {facts['licence']}, sha256 {facts['sha256']}."
    draft.sections.append(page.section("Where it comes from", page.table(rows), page.paragraph(notice, "note")))
