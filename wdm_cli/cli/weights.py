"""wdm weights: official files in, trained models out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wdm_cli.cli import console
from wdm_cli.cli.options import JsonOption
from wdm_cli.cli.train import cache_folder

app = typer.Typer(help="Weights: official files in, trained models out.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="The name the weights were imported under.")]


def weights_folder() -> Path:
    return cache_folder() / "weights"


def weights_file(name: str) -> Path:
    """The file of imported weights.

    Raises:
        ResourceError: none of that name.
    """
    from wdm_cli.engine.errors import ResourceError

    path = weights_folder() / f"{name}.safetensors"
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in weights_folder().glob("*.safetensors"))) or "none yet"
        raise ResourceError(
            f"no weights named {name!r} (there are: {names})", hint="wdm weights import FILE --preset NAME"
        )
    return path


@app.command("import")
def import_weights(
    file: Annotated[Path, typer.Argument(help="An official .pt file, a checkpoint or a .safetensors file.")],
    preset: Annotated[str | None, typer.Option("--preset", help="The network of an official file.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name to keep it under; default: the file's.")] = None,
) -> None:
    """Check a weights file against its network and keep it under a name for `wdm sample --weights NAME`."""
    from wdm_cli.cli.sample import settings_of
    from wdm_cli.engine.checkpoint import export, read
    from wdm_cli.engine.errors import ConfigError
    from wdm_cli.engine.files import safe_name

    source = read(file)
    settings = settings_of(source, preset, [], {})
    to = weights_folder() / f"{safe_name(name or file.stem)}.safetensors"
    if to.exists():
        raise ConfigError(
            f"weights named {to.stem!r} exist", why="nothing is overwritten", hint="choose another --name"
        )
    export(to, source, settings)
    console.note(f"{file} fits {settings.name}; kept as {to.stem}")
    console.note(f"next: wdm sample -n 1 --out samples/ --weights {to.stem}")


@app.command("export")
def export_weights(
    source: Annotated[Path, typer.Argument(help="A run folder or a checkpoint file.")],
    to: Annotated[Path, typer.Argument(help="The file to write: .pt (official format) or .safetensors.")],
    raw: Annotated[bool, typer.Option("--raw", help="The last weights, not their moving average (EMA).")] = False,
) -> None:
    """Write a model's weights for others: the official format loads in wdm-3d, safetensors anywhere."""
    from wdm_cli.engine.checkpoint import export, read
    from wdm_cli.engine.errors import ConfigError
    from wdm_cli.engine.run import latest_checkpoint

    if to.exists():
        raise ConfigError(f"{to} exists", why="nothing is overwritten", hint="choose another name")
    found = latest_checkpoint(source)[0] if source.is_dir() else read(source)
    if found.preset is None:
        raise ConfigError(f"{source}: bare weights already", hint="copy the file, or `wdm weights import` it first")
    export(to, found, found.preset, ema=not raw)
    console.note(f"wrote {to} ({'raw' if raw or found.ema is None else 'EMA'} weights of step {found.step})")


@app.command("list")
def list_weights(as_json: JsonOption = False) -> None:
    """Imported weights by name."""
    files = sorted(weights_folder().glob("*.safetensors"))
    if as_json:
        console.answer_json([{"name": f.stem, "path": str(f), "bytes": f.stat().st_size} for f in files])
    else:
        console.table(("name", "size", "file"), [(f.stem, console.size(f.stat().st_size), f) for f in files])


@app.command()
def path(name: Name) -> None:
    """The file of imported weights."""
    console.answer(str(weights_file(name)))
