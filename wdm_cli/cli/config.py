"""wdm config: what a run would use, and where each value comes from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from wdm_cli.cli import console
from wdm_cli.cli.options import ConfigOption, JsonOption, SetOption

app = typer.Typer(help="The configuration a run would use.", no_args_is_help=True)


@app.command()
def show(
    preset: Annotated[str, typer.Option("--preset", help="A preset's name or file.")] = "ours_unet_128",
    config: ConfigOption = None,
    sets: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Every key with its value and the layer that set it."""
    from wdm_cli.config import resolve

    resolved = resolve(preset, config_file=config, environment=os.environ, sets=sets or ())
    if as_json:
        console.answer_json({"values": resolved.preset.to_dict(), "sources": resolved.sources})
    else:
        console.table(("key", "value", "source"), resolved.rows(), title=f"Configuration of {resolved.preset.name}")


@app.command()
def validate(file: Annotated[Path, typer.Argument(help="A preset's .toml file.")], sets: SetOption = None) -> None:
    """Check a preset's file; exit 2 and every problem if it cannot work."""
    from wdm_cli.config import resolve

    resolved = resolve(str(file) if file.suffix == ".toml" else f"./{file}", sets=sets or ())
    console.answer(f"{file}: valid ({resolved.preset.name}, sha256 {resolved.preset.sha256[:12]})")
