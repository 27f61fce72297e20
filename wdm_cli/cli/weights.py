"""wdm weights: released files and official checkpoints in, trained models out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wdm_cli.cli import console
from wdm_cli.cli.options import JsonOption
from wdm_cli.cli.train_data import cache_folder

if TYPE_CHECKING:
    from wdm_cli.engine.weights import Release

app = typer.Typer(help="Weights: released files in, trained models out.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="The name the weights were released or imported under.")]


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
        hint = "wdm weights get NAME (`wdm weights list` shows the names), or wdm weights import FILE --preset NAME"
        if Path(name).is_file():
            hint = f"a file is given as --checkpoint {name}"
        raise ResourceError(f"no weights named {name!r} (there are: {names})", hint=hint)
    return path


@app.command("get")
def get_weights(name: Name) -> None:
    """Download released weights, checksum and all; the same command goes on where it stopped.

    With the hub extra installed, a copy in the Hugging Face cache is taken instead.
    """
    from wdm_cli.cli.evaluate_show import follow
    from wdm_cli.engine import weights as released

    release = released.find(name)
    warn_if_idle(release)
    here = released.path_of(release, weights_folder()).is_file()
    if not here and (copy := released.in_hub_cache(release)):
        console.note(f"taking {copy}")
        keep(release, released.adopt(copy, release, weights_folder()))
        return
    if not here and os.environ.get("WDM_OFFLINE"):
        raise released.offline(release)
    file = follow(released.download(release, weights_folder()))
    if release.sha256 is None and not here:
        console.warn(f"no published sha256 of {release.file} is known; it is pinned to what came now")
    keep(release, file)


def warn_if_idle(release: Release) -> None:
    """Before a file comes that no command runs."""
    if not release.run_by:
        console.warn(
            f"nothing in wdm runs {release.name}: no preset has its network yet; it is fetched and checked only"
        )


def keep(release: Release, file: Path) -> None:
    """Make a downloaded file usable: a model under its name, an extractor checked."""
    if release.preset is not None:
        if not (weights_folder() / f"{release.name}.safetensors").exists():
            import_model(file, release.preset, release.name)
        console.note(f"next: wdm sample -n 1 --out samples/ --weights {release.name}")
    elif release.run_by == "wdm eval":
        from wdm_cli.engine.metrics.extractor import read_medicalnet

        read_medicalnet(file)
        console.note(f"next: wdm eval fid --real DIR --fake DIR --weights {release.name}")
    console.answer(str(file))


@app.command("import")
def import_weights(
    file: Annotated[Path, typer.Argument(help="A released file, an official .pt file, a checkpoint or .safetensors.")],
    preset: Annotated[str | None, typer.Option("--preset", help="The network of an official file.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name to keep it under; default: the file's.")] = None,
) -> None:
    """Check a weights file against its network and keep it under a name for `wdm sample --weights NAME`.

    A released file fetched by hand is known by its file name and checked against its published checksum.
    """
    from wdm_cli.engine import weights as released
    from wdm_cli.engine.files import safe_name

    release = {r.file: r for r in released.registry().values()}.get(file.name)
    if release is not None and preset is None and name is None and file.is_file():
        warn_if_idle(release)
        keep(release, released.adopt(file, release, weights_folder()))
        return
    kept = import_model(file, preset, safe_name(name or file.stem))
    console.note(f"next: wdm sample -n 1 --out samples/ --weights {kept.stem}")


def import_model(file: Path, preset: str | None, name: str) -> Path:
    """Check a model's weights against its network and keep them as safetensors under a name."""
    from wdm_cli.cli.sample import settings_of, warn_of_differing_names
    from wdm_cli.engine.checkpoint import export, read
    from wdm_cli.engine.errors import ConfigError

    source = read(file)
    settings = settings_of(source, preset, [], {})
    to = weights_folder() / f"{name}.safetensors"
    if to.exists():
        raise ConfigError(
            f"weights named {to.stem!r} exist", why="nothing is overwritten", hint="choose another --name"
        )
    export(to, source, settings)
    warn_of_differing_names(source, settings)
    console.note(f"{file} fits {settings.name}; kept as {to.stem}")
    return to


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
    """Released weights, and what is here."""
    from wdm_cli.engine.weights import path_of, registry

    rows = []
    for release in registry().values():
        file = path_of(release, weights_folder())
        here = file if file.is_file() else None
        rows.append((release.name, here, release.licence, release.run_by, release.about, release.page))
    for file in sorted(weights_folder().glob("*.safetensors")):
        rows.append((file.stem, file, "", "wdm sample", "imported", ""))
    if as_json:
        fields = ("name", "path", "licence", "run_by", "about", "source")
        console.answer_json([dict(zip(fields, (r[0], r[1] and str(r[1]), *r[2:]), strict=True)) for r in rows])
        return
    shown = [
        (name, console.size(f.stat().st_size) if f else "not here", licence, use or "no preset yet", *more)
        for name, f, licence, use, *more in rows
    ]
    console.table(("name", "here", "licence", "run by", "about", "source"), shown)


@app.command()
def verify(name: Annotated[str | None, typer.Argument(help="Default: everything that was downloaded.")] = None) -> None:
    """Check downloaded files against their checksums."""
    from wdm_cli.engine import weights as released

    chosen = [released.find(name)] if name else list(released.registry().values())
    for release in chosen:
        if name or released.path_of(release, weights_folder()).is_file():
            digest = released.verify(release, weights_folder())
            known = "as published" if release.sha256 else "as it first came (no published sha256 is known)"
            console.answer(f"{release.name}: {digest}, {known}")


@app.command()
def path(name: Name) -> None:
    """The file of weights that are here."""
    from wdm_cli.engine.weights import path_of, registry

    release = registry().get(name)
    if release is not None and (file := path_of(release, weights_folder())).is_file():
        console.answer(str(file))
    else:
        console.answer(str(weights_file(name)))
