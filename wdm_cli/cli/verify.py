"""wdm verify: what a folder holds and what is wrong with it, before hours are spent on it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wdm_cli.cli import console
from wdm_cli.cli.options import ConfigOption, JsonOption, SetOption
from wdm_cli.cli.train_data import add_layout, tell_folder

if TYPE_CHECKING:
    from wdm_cli.engine.data.inventory import Inventory
    from wdm_cli.engine.data.survey import CaseReport
    from wdm_cli.engine.preset import Preset


def verify(
    paths: Annotated[
        list[Path], typer.Argument(metavar="DIR|FILES", help="A folder of volumes, or one or more files.")
    ],
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset", help="brats, lidc-idri, adni, mrnet, fastmri or nifti. Default: told by the files' names."
        ),
    ] = None,
    preset: Annotated[str, typer.Option("--preset", help="Whose image size and intensities.")] = "ours_unet_128",
    config: ConfigOption = None,
    sets: SetOption = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes that read files.")] = 2,
    fingerprint: Annotated[
        Path | None, typer.Option("--fingerprint", help="Write what the folder is like to this file (JSON).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the volumes of a folder, the files that are none, and every file that training could not use.

    Also named: copies under two names, nearly empty volumes, and volumes that seem flipped against the others.

    Exit code 0: all volumes can be used; 4: some cannot; 3: none can.
    """
    from wdm_cli.cli.train_data import settle
    from wdm_cli.config import resolve
    from wdm_cli.engine.data.facts import oddities
    from wdm_cli.engine.data.fingerprint import doubts, suggestions
    from wdm_cli.engine.data.survey import known, survey

    options = _layout(paths, dataset, config, sets)
    resolved = resolve(preset, config_file=config, environment=os.environ, sets=sets or (), options=options)
    data = resolved.preset.data
    tell_folder(resolved)
    inventory = data.pick(paths) if _are_files(paths) else data.find(paths[0])
    data = settle(data, inventory)
    reports: list[CaseReport] = []
    with console.Progress("reading", len(inventory.cases)) as progress:
        for report in survey(data, inventory, workers):
            reports.append(report)
            progress.update(len(reports), report.name)
    reports.sort(key=lambda report: report.name)
    facts = known(reports)
    notes = [*inventory.notes, *oddities(facts), *doubts(reports)]
    advice = suggestions(list(facts.values()))
    if as_json:
        console.answer_json(_as_json(data.kind, data.shape, inventory, reports, notes) | {"suggestions": advice})
    else:
        _show(data.kind, inventory, reports)
        for text in notes:
            console.warn(text)
        for text in advice:
            console.note(f"hint: {text}")
    if fingerprint is not None:
        _write_fingerprint(fingerprint, data.kind, resolved.preset, reports)
    _raise_if_bad(inventory, reports)


def _are_files(paths: list[Path]) -> bool:
    return len(paths) > 1 or paths[0].is_file() or (paths[0].is_symlink() and not paths[0].exists())


def _layout(paths: list[Path], dataset: str | None, config: Path | None, sets: list[str] | None) -> dict[str, Any]:
    """The named options of the data: what was chosen, else what the folder states or the names of the files say."""
    from wdm_cli.engine.data.prepared import stated
    from wdm_cli.engine.errors import ConfigError

    if not _are_files(paths):
        return add_layout({"data.kind": dataset, "data.dir": str(paths[0])}, config, sets)
    if folders := [path for path in paths if path.is_dir()]:
        raise ConfigError(f"{folders[0]}: is a folder, one of several", hint="name one folder, or files only")
    common = Path(os.path.commonpath([path.absolute().parent for path in paths]))
    folder = next(
        (one for one in (common, common.parent) if stated(one)), common
    )  # a case may have a folder of its own
    return add_layout({"data.kind": dataset, "data.dir": str(folder)}, config, sets, paths)


def _show(kind: str, inventory: Inventory, reports: list[CaseReport]) -> None:
    """Tables: volumes by shape, unusable files, cropped anatomy, ignored files by reason."""
    from collections import Counter

    from wdm_cli.engine.data.survey import known

    usable = known(reports)
    cropped = [(name, facts.warning) for name, facts in usable.items() if facts.warning]
    kinds = Counter(f"{facts.text}  {facts.averaged}" for facts in usable.values())
    rows = [(count, *text.split("  ")) for text, count in kinds.most_common()]
    console.table(
        ("volumes", "voxels", "voxel size", "axes", "averaged"), rows, title=f"{len(usable)} usable volumes ({kind})"
    )
    if broken := _unusable(inventory, reports):
        console.table(("unusable file", "reason"), broken, title=f"{len(broken)} unusable files")
    if cropped:
        console.table(("case", "warning"), cropped, title=f"{len(cropped)} volumes lose anatomy")
    if inventory.ignored:
        examples = {reason: path for path, reason in reversed(inventory.ignored)}
        rows_ignored = [(count, reason, examples[reason]) for reason, count in inventory.reasons().items()]
        console.table(("ignored", "reason", "example"), rows_ignored, title=f"{len(inventory.ignored)} files ignored")


def _unusable(inventory: Inventory, reports: list[CaseReport]) -> list[tuple[str, str]]:
    """What cannot be used, with the reason: files, closed folders and, in a row each, volumes of other formats."""
    from wdm_cli.engine.data.remedies import remedies

    files = [(str(report.path), report.problem) for report in reports if report.problem]
    closed = [(str(path), reason) for path, reason in inventory.closed]
    return files + closed + [(f"{count} files", text) for text, count in remedies(inventory.foreign, inventory.root)]


def _as_json(
    kind: str, shape: tuple[int, int, int], inventory: Inventory, reports: list[CaseReport], notes: list[str]
) -> dict[str, Any]:
    return {
        "dir": str(inventory.root),
        "dataset": kind,
        "image_size": list(shape),
        "usable": sum(not report.problem for report in reports),
        "unusable": sum(bool(report.problem) for report in reports),
        "cases": [report.to_dict() for report in reports],
        "unread": [{"path": path, "reason": reason} for path, reason in _unusable(inventory, [])],
        "ignored": [{"path": str(path), "reason": reason} for path, reason in inventory.ignored],
        "notes": notes,
    }


def _write_fingerprint(path: Path, kind: str, preset: Preset, reports: list[CaseReport]) -> None:
    """What the folder is like, what that suggests, and the memory that training with the preset takes."""
    from wdm_cli.engine import native
    from wdm_cli.engine.data.fingerprint import fingerprint, suggestions
    from wdm_cli.engine.data.survey import known
    from wdm_cli.engine.device import choose_device
    from wdm_cli.engine.estimate import estimate
    from wdm_cli.engine.files import write_json

    costs = estimate(preset, loops=native.at_work(choose_device("auto")))
    found = fingerprint(kind, reports) | {
        "suggestions": suggestions(list(known(reports).values())),
        "preset": preset.name,
        "image_size": list(preset.data.shape),
        "training_bytes": costs.training,
        "parameters": costs.parameters,
    }
    write_json(path, found)
    console.note(f"wrote {path}; training {preset.name} takes about {console.size(costs.training)}")


def _raise_if_bad(inventory: Inventory, reports: list[CaseReport]) -> None:
    from wdm_cli.engine.errors import DataError, PartialError

    usable = sum(not report.problem for report in reports)
    broken = len(reports) - usable + len(inventory.closed) + len(inventory.foreign)
    if not usable:
        raise DataError(f"{inventory.root}: none of {broken} files can be used", hint="the reasons are listed above")
    if broken:
        raise PartialError(
            f"{inventory.root}: {broken} of {usable + broken} files cannot be used",
            why="training refuses files that it cannot read, and leaves out formats that it does not know",
            hint="mend, convert or fetch them, or move them out of the folder",
        )
