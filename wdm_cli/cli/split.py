"""wdm split: which patients are held out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wdm_cli.cli import console
from wdm_cli.cli.options import DatasetOption, JsonOption


def split(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of volumes.")],
    val: Annotated[float, typer.Option("--val", help="Share of the patients that is held out.")] = 0.1,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another seed draws other patients.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", help="The file to write. Default: DIR/split.json.")] = None,
    dataset: DatasetOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Hold out patients, never single scans, so that no patient is trained on and judged with."""
    from dataclasses import asdict

    from wdm_cli.engine.data import guess_kind
    from wdm_cli.engine.data import split as splits
    from wdm_cli.engine.errors import ConfigError
    from wdm_cli.engine.preset import table_class

    path = out or folder / splits.SPLIT_FILE
    if path.exists() and not overwrite:
        raise ConfigError(
            f"{path} exists", why="a new split would mix what was held out with what was not",
            hint="keep it, choose another --out, or --overwrite",
        )  # fmt: skip
    data = table_class("data", dataset or guess_kind(folder))()
    cases = [case.name for case in data.find(folder).cases]
    drawn = splits.split(cases, val, seed, splits.patients_of_manifest(folder))
    splits.write_split(path, drawn)
    if as_json:
        console.answer_json(asdict(drawn))
    else:
        console.table(("part", "cases"), [("train", len(drawn.train)), ("val", len(drawn.val))])
    console.note(f"wrote {path}")
