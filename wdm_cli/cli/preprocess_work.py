"""What every command of `wdm preprocess` does: read its numbers, plan, make every case, report."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wdm_cli.cli import console
from wdm_cli.cli.stop import until_asked

if TYPE_CHECKING:
    from wdm_cli.engine.dicom import OtherFile, Slice
    from wdm_cli.engine.preprocess import Entry, Plan

NEGLIGIBLE_LOSS = 0.001  # share of the body outside the volumes; more is a warning


def sides(text: str | None) -> Any:
    """What `--size` says: one whole number or three."""
    return numbers("--size", text, int)


def millimetres(text: str | None) -> Any:
    """What `--spacing` says: one number or three."""
    return numbers("--spacing", text, float)


def numbers(option: str, text: str | None, kind: type[int] | type[float]) -> Any:
    """One number, or a tuple of three that commas separate; None for None."""
    from wdm_cli.engine.errors import ConfigError

    if text is None:
        return None
    try:
        found = tuple(kind(part) for part in text.split(","))
    except ValueError:
        found = ()
    if len(found) not in (1, 3):
        example = "256 or 256,256,48" if kind is int else "1 or 0.8,0.8,5"
        raise ConfigError(f"{option} {text}: takes one number or three, e.g. {example}")
    return found[0] if len(found) == 1 else found


class Run:
    """The options that every kind of archive shares."""

    def __init__(self, workers: int | None, strict: bool, overwrite: bool, as_json: bool) -> None:
        self.workers = workers or min(len(os.sched_getaffinity(0)), 8)
        self.strict, self.overwrite, self.as_json = strict, overwrite, as_json


def one_thread_a_process() -> None:
    """Parallel cases beat parallel sums; must be said before numpy is loaded, and workers inherit it."""
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")


def headers(folder: Path) -> list[Slice | OtherFile]:
    """What every file of an archive says, with a progress bar."""
    from wdm_cli.engine.dicom import count_files, scan

    found = []
    with console.Progress("headers", count_files(folder)) as progress:
        for item in scan(folder):
            found.append(item)
            progress.update(len(found))
    return found


def execute(make_plan: Callable[[], Plan], source: Path, out: Path, options: Run) -> None:
    """Plan, make every case, report; ends with the exit code the report deserves."""
    from wdm_cli.engine.errors import ConfigError, DataError
    from wdm_cli.engine.preprocess import run, space_for, write_contact_sheet

    if not source.is_dir():
        raise DataError(f"no folder {source}")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: is a file", hint="name a folder")
    if out.resolve().is_relative_to(source.resolve()):
        raise ConfigError(f"--out {out}: lies in {source}", why="the source is never written to")
    plan = make_plan()
    if any(
        folder.resolve().is_relative_to(out.resolve()) for folder in {p.parent for job in plan.jobs for p in job.files}
    ):
        raise ConfigError(f"--out {out}: a link in {source} leads into it", why="what is made would be read again")
    for text in plan.notes:
        console.warn(text)
    console.note(f"{len(plan.jobs)} cases to make, {sum(e.verdict == 'skipped' for e in plan.settled)} skipped so far")
    if short := space_for(plan, out):
        console.warn(f"{short}; those that are finished are kept")
    entries: list[Entry] = []
    with console.Progress("cases", len(plan.jobs)) as progress:
        made = run(plan, out, workers=options.workers, strict=options.strict, overwrite=options.overwrite)
        for entry in until_asked(made):
            entries.append(entry)
            if len(entries) > len(plan.settled):
                console.detail(f"{entry.case}: {entry.verdict} {'; '.join(entry.reasons + entry.repairs)}")
                progress.update(len(entries) - len(plan.settled), entry.case)
    sheet = write_contact_sheet(out, sorted(entry.case for entry in entries if entry.output))
    report(entries, plan.notes, out, sheet, options.as_json)


def report(entries: list[Entry], warnings: Sequence[str], out: Path, sheet: Path | None, as_json: bool) -> None:
    """The table of verdicts, what was skipped and why, and the exit code."""
    from wdm_cli.engine.errors import DataError, PartialError
    from wdm_cli.engine.preprocess import tally

    counts = tally(entries)
    skipped = [entry for entry in entries if entry.verdict == "skipped"]
    usable = counts["accepted"][0] + counts["repaired"][0]
    if as_json:
        verdicts = {verdict: {"cases": cases, "files": files} for verdict, (cases, files) in counts.items()}
        seen = sum(files for _, files in counts.values())
        more = {"files_seen": seen, "warnings": list(warnings), "entries": [entry.to_dict() for entry in entries]}
        console.answer_json({**verdicts, **more})
    else:
        rows = [(verdict, cases, files) for verdict, (cases, files) in counts.items()]
        total = ("seen", sum(row[1] for row in rows), sum(row[2] for row in rows))
        console.table(("verdict", "cases", "files"), [*rows, total], title="Preprocessed")
        show_entries(entries)
        show_kinds(entries)
    show_cropped(entries)
    if like_ct := [entry.case for entry in entries if entry.facts.get("looks_like_hu")]:
        console.warn(
            f"{len(like_ct)} cases (e.g. {like_ct[0]}) hold values that look like HU of CT, but were read as MR: "
            "--modality ct reads them as CT"
        )
    if counts["repaired"][0] and console.Verbosity.level <= 0:
        console.note(f"{counts['repaired'][0]} cases were repaired: manifest.jsonl says how, and so does -v (wdm -v …)")
    if sheet:
        console.note(f"volumes, previews and manifest.jsonl are in {out}; look at {sheet}")
    if not usable:
        raise DataError(f"no usable case: {len(skipped)} skipped", hint="the reasons are listed above")
    if skipped:
        raise PartialError(f"{len(skipped)} cases or groups of files were skipped, {usable} cases are ready in {out}")


def show_entries(entries: list[Entry]) -> None:
    """What was ignored and skipped and why, each with a file to look at; with -v the cases, too."""
    details = console.Verbosity.level > 0
    for verdict in ("ignored", "accepted", "repaired", "skipped") if details else ("ignored", "skipped"):
        listed = []
        for entry in (entry for entry in entries if entry.verdict == verdict):
            why = "; ".join((*entry.reasons, *entry.repairs, *cropped(entry)))
            listed.append(
                (
                    entry.case or entry.where,
                    entry.files,
                    entry.facts.get("description", ""),
                    why,
                    entry.case and entry.where,
                )
            )
        if listed:
            names = (verdict, "files", "series", "why", "where")
            shown = [column for column in range(len(names)) if column < 2 or any(row[column] for row in listed)]
            rows = [[row[column] for column in shown] for row in listed]
            console.table([names[column] for column in shown], rows, title=verdict.capitalize())


def cropped(entry: Entry) -> list[str]:
    """What lies outside the volume of a case, in words."""
    mm = entry.facts.get("cropped_mm", [])
    lost = f", {entry.facts['lost_share']:.1%} of the body" if "lost_share" in entry.facts else ""
    return [f"cropped by {' × '.join(f'{length:g}' for length in mm)} mm{lost}"] if any(mm) else []


def show_kinds(entries: list[Entry]) -> None:
    """What the series are called, if several kinds lie in one folder."""
    kinds = Counter(entry.facts["description"] for entry in entries if entry.output and entry.facts.get("description"))
    if len(kinds) > 1:
        console.table(("series", "cases"), kinds.most_common(), title="Series")


def show_cropped(entries: list[Entry]) -> None:
    """How much of the scans lies outside the volumes, and which --size would hold it."""
    cut = [entry for entry in entries if entry.output and any(entry.facts.get("cropped_mm", []))]
    if not cut:
        return
    among = sum(bool(entry.output) for entry in entries)
    worst = " × ".join(f"{max(entry.facts['cropped_mm'][axis] for entry in cut):g}" for axis in range(3))
    text = f"{len(cut)} of {among} cases are cropped, by up to {worst} mm (x × y × z)"
    lost = [entry.facts["lost_share"] for entry in cut if "lost_share" in entry.facts]
    if lost:
        size = max(entry.facts["size_needed"] for entry in cut if "lost_share" in entry.facts)
        span = f"{max(lost):.1%}" if len(lost) == 1 else f"{min(lost):.1%} to {max(lost):.1%}"
        text += f": {span} of the body lies outside the volume"
        text += f"; --size {size} would hold it, or larger voxels (--spacing)" if max(lost) > 0 else ""
    console.warn(text) if lost and max(lost) > NEGLIGIBLE_LOSS else console.note(text)
