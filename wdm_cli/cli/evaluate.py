"""wdm eval: scores of generated volumes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wdm_cli.cli import console
from wdm_cli.cli.options import ConfigOption, DeviceOption, JsonOption, SetOption

if TYPE_CHECKING:
    from wdm_cli.engine.metrics.metric import Steps
    from wdm_cli.engine.metrics.report import Report
    from wdm_cli.engine.metrics.volumes import Volumes

app = typer.Typer(help="Score generated volumes.", no_args_is_help=True)

FakeOption = Annotated[Path, typer.Option("--fake", help="Folder of generated NIfTI volumes.")]
RealOption = Annotated[Path, typer.Option("--real", help="Folder of real volumes of the same shape.")]
RealToo = Annotated[Path | None, typer.Option("--real", help="Folder of real volumes, for their value beside it.")]
WeightsOption = Annotated[
    str, typer.Option("--weights", help="MedicalNet weights file (resnet_50_23dataset.pth), or random to try out.")
]
IntensityOption = Annotated[
    str | None,
    typer.Option(
        "--intensity",
        help="How volumes are stored: paper ([0, 1]) or fixed-window (HU). Else from run.json, else paper.",
    ),
]
RawOption = Annotated[
    str | None, typer.Option("--preset", help="--real is a raw data set: prepare it as this preset does.")
]
OutOption = Annotated[Path | None, typer.Option("--out", help="Also write the result to this JSON file.")]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of random choices.")]


@app.command()
def fid(
    real: RealOption,
    fake: FakeOption,
    weights: WeightsOption,
    device: DeviceOption = "auto",
    precision: Annotated[
        str, typer.Option("--precision", help="float32, or bf16 (faster, other features).")
    ] = "float32",
    intensity: IntensityOption = None,
    preset: RawOption = None,
    config: ConfigOption = None,
    sets: SetOption = None,
    seed: SeedOption = 0,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fréchet distance of real and generated volumes in the features of MedicalNet's ResNet-50."""
    from wdm_cli.engine import evaluate
    from wdm_cli.engine.metrics import FID
    from wdm_cli.engine.metrics.extractor import load_extractor

    generated, true = open_both(fake, real, intensity, preset, config, sets)
    extractor = load_extractor(weights, device=device, seed=seed, precision=precision)
    options = evaluate.Options(seed=seed, cache_dir=cache_dir())
    show(follow(evaluate.run([FID()], generated, true, extractor, options)), out, as_json)


@app.command()
def msssim(
    fake: FakeOption,
    real: RealToo = None,
    pairs: Annotated[int, typer.Option("--pairs", min=0, help="Draw this many pairs; 0 takes all.")] = 0,
    scales: Annotated[int, typer.Option("--scales", min=1, max=5, help="Fewer than 5 for small volumes.")] = 5,
    intensity: IntensityOption = None,
    preset: RawOption = None,
    config: ConfigOption = None,
    sets: SetOption = None,
    seed: SeedOption = 0,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """MS-SSIM over pairs of generated volumes: lower is more diverse, and so is noise."""
    from wdm_cli.engine import evaluate
    from wdm_cli.engine.metrics import MSSSIM

    generated, true = open_both(fake, real, intensity, preset, config, sets)
    metrics = [MSSSIM(scales=scales, pairs=pairs)]
    show(follow(evaluate.run(metrics, generated, true, None, evaluate.Options(seed=seed))), out, as_json)


def open_both(
    fake: Path,
    real: Path | None,
    intensity: str | None,
    preset: str | None,
    config: Path | None = None,
    sets: list[str] | None = None,
) -> tuple[Volumes, Volumes | None]:
    """The two folders, under one intensity scheme unless their run.json files say otherwise."""
    from wdm_cli.config import resolve
    from wdm_cli.engine.errors import ConfigError
    from wdm_cli.engine.metrics.volumes import Intensity, open_dataset, open_folder, recorded_intensity

    if (config or sets) and preset is None:
        raise ConfigError("--config and --set change a preset, and none is given", hint="add --preset NAME")
    if preset is not None and real is None:
        raise ConfigError("--preset says how to prepare --real, which is not given", hint="add --real DIR")
    asked = Intensity(intensity) if intensity else None  # type: ignore[arg-type]  # checked by Intensity
    generated = open_folder(fake, asked)
    if real is None:
        return generated, None
    if preset is not None:
        dataset = resolve(preset, config_file=config, environment=os.environ, sets=sets or ()).preset.data
        return generated, open_dataset(real, dataset)
    return generated, open_folder(real, asked or recorded_intensity(real) or generated.intensity)


def cache_dir() -> Path:
    """Where features are kept between runs."""
    return Path(os.environ.get("WDM_CACHE_DIR") or Path.home() / ".cache" / "wdm")


def follow(steps: Steps[Report]) -> Report:
    """Run an evaluation, showing the progress of each of its stages."""
    stage: Any = None
    try:
        while True:
            try:
                record = next(steps)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
            if stage is None or stage.what != record.stage:
                if stage is not None:
                    stage.__exit__(None, None, None)
                stage = console.Progress(record.stage, record.total).__enter__()
            stage.update(record.done)
    finally:
        if stage is not None:
            stage.__exit__(None, None, None)


def show(report: Report, out: Path | None, as_json: bool) -> None:
    """Warnings to stderr, the answer to stdout, and to a file if one is named."""
    from wdm_cli.engine.files import write_json

    for text in report.warnings:
        console.warn(text)
    if out is not None:
        write_json(out, report.to_dict())
        console.note(f"wrote {out}")
    if as_json:
        console.answer_json(report.to_dict())
        return
    title = "Scores" if report.comparable else "Scores (not comparable with published ones)"
    console.table(("score", "value", "how to read it"), score_rows(report), title=title)
    console.table(("protocol", "value"), protocol_rows(report), title="Protocol")


def score_rows(report: Report) -> list[tuple[str, str, str]]:
    label = "" if report.comparable else " [not comparable]"
    return [(s.name, f"{s.value:.6g}", s.direction + label) for s in report.scores]


def protocol_rows(report: Report) -> list[tuple[str, str]]:
    """The protocol stamp as lines; the JSON has the same in full."""
    stamp = report.protocol
    rows = []
    for side in ("real", "fake"):
        if folder := stamp[side]:
            rows.append((side, f"n = {folder['n']}, files sha256 {folder['files_sha256'][:16]}, {folder['folder']}"))
    if extractor := stamp["extractor"]:
        text = f"{extractor['name']}, sha256 {extractor['sha256'][:16]}, {extractor['precision']}"
        rows.append(("extractor", text))
    rows.append(("shape", "×".join(map(str, stamp["shape"]))))
    rows.append(("intensity", " ".join(map(str, stamp["intensity"].values()))))
    rows.append(("seed", str(stamp["seed"])))
    rows.append(("versions", ", ".join(f"{name} {version}" for name, version in stamp["versions"].items())))
    return rows
