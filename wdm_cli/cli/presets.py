"""wdm presets: list, show, copy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wdm_cli.cli import console
from wdm_cli.cli.options import JsonOption

app = typer.Typer(help="The models that come with wdm.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="A preset's name, or the path of a .toml file.")]


@app.command("list")
def list_presets(as_json: JsonOption = False) -> None:
    """Name, network, image size and description of every preset."""
    from wdm_cli.config import preset_names, resolve

    presets = [resolve(name).preset for name in preset_names()]
    if as_json:
        console.answer_json([preset.to_dict() for preset in presets])
        return
    rows = [(p.name, p.model.kind, "×".join(map(str, p.data.shape)), p.description) for p in presets]  # type: ignore[attr-defined]
    console.table(("preset", "network", "size", "description"), rows, title="Presets")


@app.command()
def show(name: Name) -> None:
    """A preset's file, as TOML."""
    from wdm_cli.config import preset_path
    from wdm_cli.engine.files import read_text

    console.answer(read_text(preset_path(name)).rstrip())


@app.command()
def copy(
    name: Name,
    to: Annotated[Path, typer.Argument(help="The file to write, e.g. mine.toml; `--preset mine.toml` uses it.")],
) -> None:
    """Copy a preset to a file of your own, to change it."""
    from wdm_cli.config import preset_path
    from wdm_cli.engine.errors import ConfigError
    from wdm_cli.engine.files import write_bytes

    source = preset_path(name)
    if to.is_dir():
        to = to / source.name
    if to.exists():
        raise ConfigError(f"{to} exists", why="nothing is overwritten", hint="choose another name")
    write_bytes(to, source.read_bytes())
    console.note(f"wrote {to}; use it with --preset {to}")
