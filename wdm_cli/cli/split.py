"""wdm split: which patients are held out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from wdm_cli.cli import console
from wdm_cli.cli.options import DatasetOption, JsonOption, SetOption
from wdm_cli.cli.train_data import add_layout, tell_folder

SETTINGS = "tiny"  # only the data table of a preset counts here, and which files are cases is the same in all
PatternOption = Annotated[
    str | None,
    typer.Option(
        "--patient",
        metavar="REGEX",
        help="Where paths below DIR state the patient: group 1, or the whole match. Default: known names, or a guess.",
    ),
]
TableOption = Annotated[
    Path | None,
    typer.Option("--patients", metavar="TABLE", help="CSV or TSV (participants.tsv) of cases or files and patients."),
]


def split(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of volumes.")],
    val: Annotated[float, typer.Option("--val", help="Share of the patients that is held out.")] = 0.1,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another seed draws other patients.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", help="The file to write. Default: DIR/split.json.")] = None,
    dataset: DatasetOption = None,
    patient: PatternOption = None,
    patients: TableOption = None,
    sets: SetOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Hold out patients, never single scans, so that no patient is trained on and judged with."""
    from dataclasses import asdict, replace

    from wdm_cli.config import resolve
    from wdm_cli.engine.data import split as splits
    from wdm_cli.engine.data.inventory import require_whole
    from wdm_cli.engine.data.patients import tell
    from wdm_cli.engine.errors import ConfigError

    path = out or folder / splits.SPLIT_FILE
    if path.exists() and not overwrite:
        raise ConfigError(
            f"{path} exists", why="a new split would mix what was held out with what was not",
            hint="keep it, choose another --out, or --overwrite",
        )  # fmt: skip
    if patient == "":
        raise ConfigError("--patient is empty", hint="e.g. --patient 'P[0-9]+'")
    options = add_layout({"data.kind": dataset, "data.dir": str(folder)}, None, sets)
    resolved = resolve(SETTINGS, environment=os.environ, sets=sets or (), options=options)
    tell_folder(resolved)
    inventory = replace(resolved.preset.data, part="all").find(folder)
    require_whole(replace(inventory, cases=()))  # names are enough: files may be fetched later
    told = tell(inventory, patient or "", patients)
    if doubt := told.doubt():
        console.warn(doubt)
    if told.unused:
        shown = ", ".join(told.unused[:5]) + ", …" * (len(told.unused) > 5)
        console.warn(f"{patients}: {len(told.unused)} of its names are of no case in {folder}: {shown}")
    drawn = splits.split(told, val, seed)
    splits.write_split(path, drawn)
    if as_json:
        console.answer_json(asdict(drawn))
    else:
        rows = zip(("train", "val"), (len(drawn.train), len(drawn.val)), drawn.counts, strict=True)
        console.table(("part", "cases", "patients"), rows)
    console.note(f"patients told by: {', '.join(f'{way} ({value})' for way, value in drawn.told.items())}")
    if len(drawn.val) < 2:
        console.note("one volume is held out; `wdm eval … --held-out` needs two: a larger --val")
    console.note(f"wrote {path}")
