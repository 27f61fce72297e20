"""wdm report: one HTML file that tells the story of a run and its samples."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wdm_cli.cli import console
from wdm_cli.cli.evaluate_options import HeldOutOption, IntensityOption, RawOption
from wdm_cli.cli.evaluate_show import follow
from wdm_cli.cli.options import SetOption

if TYPE_CHECKING:
    from wdm_cli.engine.data.dataset import Dataset
    from wdm_cli.engine.metrics.report import Report
    from wdm_cli.engine.metrics.volumes import Volumes
    from wdm_cli.engine.report import Run, Samples

NAME = "report.html"
SCORES = "eval.json"

FoldersArgument = Annotated[
    list[Path], typer.Argument(help="A run folder, a folder of samples, or both.", show_default=False)
]
BesideOption = Annotated[
    Path | None, typer.Option("--real", help="Real volumes to set beside. Default: the run's training data.")
]
NoRealOption = Annotated[bool, typer.Option("--no-real", help="Show no real volumes, as for a page to give away.")]
ScoresOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--eval", help="Result of `wdm eval all --out`. Repeatable. Default: eval.json in or beside the samples."
    ),
]
StepsOption = Annotated[
    Path | None, typer.Option("--steps", help="steps.json of benchmarks/steps.py: quality over sampling steps.")
]
ShowOption = Annotated[int, typer.Option("--show", min=1, max=24, help="Volumes of each side to show.")]
MostOption = Annotated[
    int, typer.Option("--most", min=2, help="Volumes of each side that are averaged and scored here.")
]
NeighboursOption = Annotated[
    bool,
    typer.Option("--neighbours/--no-neighbours", help="Find the nearest real volumes (reads all of them once)."),
]
ViewerOption = Annotated[bool, typer.Option("--viewer/--no-viewer", help="Put a 3D viewer into the page (1.1 MB).")]
SizeOption = Annotated[
    float, typer.Option("--max-mb", min=2, help="Size of the page; the viewer's volumes get the detail that fits.")
]
PageOption = Annotated[
    Path | None, typer.Option("--out", help=f"The file to write. Default: {NAME} in the first folder.")
]


def report(
    folders: FoldersArgument,
    real: BesideOption = None,
    no_real: NoRealOption = False,
    scores: ScoresOption = None,
    steps: StepsOption = None,
    held_out: HeldOutOption = None,
    intensity: IntensityOption = None,
    preset: RawOption = None,
    sets: SetOption = None,
    show: ShowOption = 4,
    most: MostOption = 64,
    neighbours: NeighboursOption = True,
    viewer: ViewerOption = True,
    max_mb: SizeOption = 6,
    out: PageOption = None,
) -> None:
    """One HTML file that shows how a model was trained, how its samples look and score. It opens without a network."""
    from wdm_cli.cli.evaluate_folders import data_settings
    from wdm_cli.cli.train_data import cache_folder
    from wdm_cli.engine.curves import read_steps
    from wdm_cli.engine.errors import ConfigError
    from wdm_cli.engine.files import write_text
    from wdm_cli.engine.report import Settings, build

    if real and no_real:
        raise ConfigError("--real and --no-real exclude each other")
    path = out or folders[0] / NAME
    refuse_foreign(path)
    run, samples = open_folders(folders, intensity)
    data = data_settings(preset, sets, real)
    beside = None if no_real or samples is None else open_real(real, run, samples, data, intensity)
    if beside is None and held_out is not None:
        raise ConfigError("--held-out says which real volumes were not trained on, and there are none here")
    train, unseen = divided(held_out, beside, samples)
    found = find_scores(scores, samples)
    settings = Settings(
        show=show,
        most=most,
        neighbours=neighbours,
        viewer=viewer,
        most_bytes=int(max_mb * 1e6),
        cache_dir=cache_folder(),
    )
    measured = read_steps(steps) if steps else None
    page = follow(build(run, samples, train, found, measured, unseen, settings))
    write_text(path, page.text)
    if run is not None and page.memorization is not None and beside is not None and run.trained_on(beside.root):
        tell_card(run.folder, page.memorization, samples.about.get("step") if samples else None)
    console.note(f"{path.stat().st_size / 1e6:.1f} MB; open it in a browser, it needs no network")
    console.answer(str(path))


def refuse_foreign(path: Path) -> None:
    """A page of wdm is written anew; another file of that name is not."""
    from wdm_cli.engine.errors import ConfigError

    if path.is_dir():
        raise ConfigError(f"--out {path}: is a folder", hint=f"--out {path / NAME}")
    if path.is_file():
        with path.open("rb") as file:
            if b"<title>wdm report" not in file.read(2000):
                raise ConfigError(f"{path}: is there already and no report of wdm", hint="give another --out")


def open_folders(folders: list[Path], intensity: str | None) -> tuple[Run | None, Samples | None]:
    """What the folders are: a run, samples, or both; the run of samples is found by itself."""
    from wdm_cli.engine.errors import ConfigError, DataError
    from wdm_cli.engine.report import is_run, read_run, read_samples

    runs = [folder for folder in folders if is_run(folder)]
    others = [folder for folder in folders if folder not in runs]
    if len(runs) > 1 or len(others) > 1:
        raise ConfigError(
            f"{len(folders)} folders: a report is of one run and one folder of samples",
            hint="write a report for each, and compare scores with `wdm eval compare`",
        )
    for folder in others:
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder")
    samples = read_samples(others[0], intensity) if others else None
    if not runs and samples is not None and samples.run is not None:
        console.note(f"made by the run {samples.run}")
        runs = [samples.run]
    run = read_run(runs[0]) if runs else None
    if samples is None:
        console.note("no samples given, so the report is of the training alone: wdm report RUN SAMPLES shows both")
    return run, samples


def open_real(
    real: Path | None, run: Run | None, samples: Samples, data: Dataset | None, intensity: str | None
) -> Volumes | None:
    """Real volumes: the named ones, or the training data."""
    from wdm_cli.cli.evaluate_folders import open_beside
    from wdm_cli.engine.errors import DataError

    chosen = real or (run.data if run else None)
    if chosen is None:
        told = f" ({run.preset.data.dir} is not there)" if run and run.preset.data.dir else ""
        console.note(f"no real volumes beside{told}: --real DIR names them")
        return None
    if real is None:
        console.note(f"real volumes: the training data, {chosen} (--real DIR takes others, --no-real none)")
    try:
        return open_beside(chosen, samples.volumes, data, intensity)
    except DataError as error:
        if real is not None:
            raise
        console.warn(f"no real volumes shown: {error.what}")
        return None


def tell_card(run: Path, found: Report, step: int | None) -> None:
    """What was found of copies among samples of this training step belongs into the model card, too."""
    from wdm_cli.engine.errors import ResourceError
    from wdm_cli.engine.files import write_json
    from wdm_cli.engine.model_card import MEMORIZATION, NAME, write_card

    try:
        stamped = dataclasses.replace(found, protocol=found.protocol | {"training_step": step})
        write_json(run / MEMORIZATION, stamped.to_dict())
        if not write_card(run):
            console.note(f"{run / NAME} was changed by hand and is left as it is; the result is in {MEMORIZATION}")
    except ResourceError as error:
        console.warn(f"{NAME} is not brought up to date: {error.what}")


def divided(
    held_out: Path | None, real: Volumes | None, samples: Samples | None
) -> tuple[Volumes | None, Volumes | None]:
    """Real volumes that were trained on, and those that were not."""
    from wdm_cli.cli.evaluate_folders import open_held_out

    return (
        open_held_out(held_out, real, samples.volumes.root if samples else None) if real is not None else (None, None)
    )


def find_scores(named: list[Path] | None, samples: Samples | None) -> list[Report]:
    """Results of `wdm eval` of these very samples."""
    from wdm_cli.engine.errors import ConfigError, DataError
    from wdm_cli.engine.metrics.report import read_report

    if samples is None:
        if named:
            raise ConfigError("--eval holds scores of samples, and no samples are given", hint="wdm report RUN SAMPLES")
        return []
    root = samples.volumes.root
    paths = named or [path for path in (root / SCORES, root.parent / SCORES) if path.is_file()][:1]
    found = []
    for path in paths:
        report = read_report(path)
        if (report.protocol.get("fake") or {}).get("files_sha256") == samples.volumes.files_sha256:
            found.append(report)
        elif named:
            raise DataError(f"{path}: scores of other files than those in {root}", hint="evaluate these samples again")
        else:
            console.warn(f"{path}: scores of other files than those in {root}; left out")
    return found
