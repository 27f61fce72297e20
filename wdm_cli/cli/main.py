"""The `wdm` command: every command file is imported here; none imports torch at its head."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from wdm_cli import __version__
from wdm_cli.cli import (
    about,
    bench,
    config,
    console,
    demo,
    evaluate,
    preprocess,
    presets,
    report,
    sample,
    split,
    streams,
    train,
    verify,
    weights,
)
from wdm_cli.cli.train_data import cache_folder
from wdm_cli.config import expand_home
from wdm_cli.engine import native
from wdm_cli.engine.errors import ConfigError

app = typer.Typer(
    name="wdm",
    help="Make, and judge, synthetic 3D medical volumes with wavelet diffusion models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(demo.demo)
app.command()(train.train)
app.command()(sample.sample)
app.add_typer(preprocess.app, name="preprocess")
app.command()(split.split)
app.command()(verify.verify)
app.add_typer(presets.app, name="presets")
app.add_typer(config.app, name="config")
app.add_typer(evaluate.app, name="eval")
app.command()(report.report)
app.add_typer(weights.app, name="weights")
app.command()(bench.bench)
app.command()(about.doctor)
app.command()(about.cite)
app.command("fid", hidden=True)(evaluate.fid)
app.command("msssim", hidden=True)(evaluate.msssim)


def _expand_homes(app: typer.Typer) -> None:
    """Let every path among the parameters of every command begin with ~, which shells leave alone in --out=~/x."""
    for command in app.registered_commands:
        assert command.callback is not None
        command.callback = _with_homes(command.callback)
    for group in app.registered_groups:
        assert group.typer_instance is not None
        _expand_homes(group.typer_instance)


def _with_homes(command: Callable[..., Any]) -> Callable[..., Any]:
    def at_home(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [at_home(item) for item in value]
        return Path(expand_home(str(value))) if isinstance(value, Path) else value

    @wraps(command)
    def run(**parameters: Any) -> Any:
        return command(**{name: at_home(value) for name, value in parameters.items()})

    return run


_expand_homes(app)


def _show_version(wanted: bool) -> None:
    if wanted:
        console.answer(f"wdm {__version__}")
        raise typer.Exit


@app.callback()
def options(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Warnings and errors only.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options of every command."""
    console.Verbosity.level = int(verbose) - int(quiet)
    native.keep_in(lambda: cache_folder() / "kernels")
    native.switch(_native_wanted(os.environ.get("WDM_NATIVE", "on")))


def _native_wanted(word: str) -> bool:
    """What WDM_NATIVE says."""
    if word.lower() not in ("on", "off"):
        raise ConfigError(f"WDM_NATIVE={word}: unknown", hint="on or off")
    return word.lower() == "on"


def main() -> None:
    """Entry point of the `wdm` script."""
    streams.harden()
    console.run(lambda: app(standalone_mode=False))
