"""wdm eval: scores of generated volumes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wdm_cli.cli import console
from wdm_cli.cli.evaluate_folders import check_sanity, open_both, open_extractor, open_held_out
from wdm_cli.cli.evaluate_options import (
    ExtractorOption,
    FakeOption,
    GpusOption,
    HeldOutOption,
    IntensityOption,
    NeighbourOption,
    OutOption,
    PairsOption,
    PictureOption,
    QuickOption,
    RawOption,
    RealOption,
    RealToo,
    SeedOption,
    TrustOption,
    WeightsOption,
    WorkersOption,
)
from wdm_cli.cli.evaluate_processes import left_to_the_first, spread
from wdm_cli.cli.evaluate_show import draw_closest, follow, show, show_differences, show_sanity
from wdm_cli.cli.options import DeviceOption, JsonOption, SetOption
from wdm_cli.cli.train_data import cache_folder

if TYPE_CHECKING:
    from wdm_cli.engine.metrics.metric import Metric, Options

__all__ = ["app", "fid", "follow", "msssim", "show"]
app = typer.Typer(help="Score generated volumes, and say how far the scores can be trusted.", no_args_is_help=True)


def options(seed: int, quick: bool = False, workers: int = 1) -> Options:
    from wdm_cli.engine.metrics.metric import Options

    return Options(seed=seed, cache_dir=cache_folder(), uncertainty=not quick, workers=workers)


def metric_by_kind(kind: str) -> Metric:
    from wdm_cli.engine.metrics import METRICS

    return next(metric() for metric in METRICS if metric.kind == kind)


def network_command(kind: str) -> Callable[..., None]:
    """The command of a metric that compares features of a network and has no settings."""

    def command(
        real: RealOption,
        fake: FakeOption,
        weights: WeightsOption = None,
        extractor: ExtractorOption = None,
        trust_code: TrustOption = False,
        device: DeviceOption = "auto",
        workers: WorkersOption = 1,
        gpus: GpusOption = 0,
        intensity: IntensityOption = None,
        preset: RawOption = None,
        sets: SetOption = None,
        seed: SeedOption = 0,
        quick: QuickOption = False,
        out: OutOption = None,
        as_json: JsonOption = False,
    ) -> None:
        from wdm_cli.engine.evaluate import run

        device, workers = spread(device, workers, gpus)
        network = open_extractor(weights, extractor, trust_code, device, seed)
        generated, true = open_both(fake, real, intensity, preset, sets)
        if left_to_the_first([metric_by_kind(kind)], generated, true, network):
            return
        show(follow(run([metric_by_kind(kind)], generated, true, network, options(seed, quick, workers))), out, as_json)

    return command


def image_command(kind: str) -> Callable[..., None]:
    """The command of a metric that compares volumes without a network."""

    def command(
        real: RealOption,
        fake: FakeOption,
        intensity: IntensityOption = None,
        preset: RawOption = None,
        sets: SetOption = None,
        seed: SeedOption = 0,
        quick: QuickOption = False,
        out: OutOption = None,
        as_json: JsonOption = False,
    ) -> None:
        from wdm_cli.engine.evaluate import run

        generated, true = open_both(fake, real, intensity, preset, sets)
        if left_to_the_first([metric_by_kind(kind)], generated, true, None):
            return
        show(follow(run([metric_by_kind(kind)], generated, true, None, options(seed, quick))), out, as_json)

    return command


fid = network_command("fid")
app.command("fid", help="Fréchet distance of real and generated volumes in the features of a network.")(fid)
app.command("kid", help="Kernel inception distance: unbiased, so it may be read at small n.")(network_command("kid"))
app.command("mmd", help="Maximum mean discrepancy of features, Gaussian kernel.")(network_command("mmd"))
app.command("histogram", help="Distance of intensity histograms.")(image_command("histogram"))
app.command("spectrum", help="Distance of wavelet-band energies: missing or invented detail.")(
    image_command("spectrum")
)


@app.command()
def prdc(
    real: RealOption,
    fake: FakeOption,
    weights: WeightsOption = None,
    extractor: ExtractorOption = None,
    trust_code: TrustOption = False,
    device: DeviceOption = "auto",
    workers: WorkersOption = 1,
    gpus: GpusOption = 0,
    intensity: IntensityOption = None,
    preset: RawOption = None,
    sets: SetOption = None,
    k: NeighbourOption = 5,
    seed: SeedOption = 0,
    quick: QuickOption = False,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Precision and recall, density and coverage: fidelity and diversity apart."""
    from wdm_cli.engine.evaluate import run
    from wdm_cli.engine.metrics import PRDC

    device, workers = spread(device, workers, gpus)
    network = open_extractor(weights, extractor, trust_code, device, seed)
    generated, true = open_both(fake, real, intensity, preset, sets)
    if left_to_the_first([PRDC(k=k)], generated, true, network):
        return
    show(follow(run([PRDC(k=k)], generated, true, network, options(seed, quick, workers))), out, as_json)


@app.command()
def msssim(
    fake: FakeOption,
    real: RealToo = None,
    pairs: PairsOption = 0,
    scales: Annotated[int, typer.Option("--scales", min=1, max=5, help="Fewer than 5 for small volumes.")] = 5,
    intensity: IntensityOption = None,
    preset: RawOption = None,
    sets: SetOption = None,
    seed: SeedOption = 0,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """MS-SSIM over pairs of generated volumes: lower is more diverse, and so is noise."""
    from wdm_cli.engine.evaluate import run
    from wdm_cli.engine.metrics import MSSSIM

    generated, true = open_both(fake, real, intensity, preset, sets)
    if left_to_the_first([], generated, true, None):
        return
    metric = MSSSIM(scales=scales, pairs=pairs)
    show(follow(run([metric], generated, true, None, options(seed))), out, as_json)


@app.command()
def memorization(
    real: Annotated[Path, typer.Option("--real", help="Folder of the training volumes.")],
    fake: FakeOption,
    held_out: HeldOutOption = None,
    weights: WeightsOption = None,
    extractor: ExtractorOption = None,
    trust_code: TrustOption = False,
    device: DeviceOption = "auto",
    intensity: IntensityOption = None,
    preset: RawOption = None,
    sets: SetOption = None,
    seed: SeedOption = 0,
    picture: PictureOption = None,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Copies of training volumes: whatever is nearer to one than volumes are that were never trained on."""
    from wdm_cli.engine import evaluate

    generated, true = open_both(fake, real, intensity, preset, sets)
    assert true is not None
    if left_to_the_first([], generated, true, None):
        return
    network = None
    if weights is not None or extractor is not None or trust_code:
        network = open_extractor(weights, extractor, trust_code, device, seed)
    train, unseen = open_held_out(held_out, true, fake)
    report, found = follow(evaluate.memorization(train, generated, unseen, network, options(seed)))
    if picture is not None:
        draw_closest(picture, found, train, generated)
    show(report, out, as_json)


@app.command("all")
def all_scores(
    real: RealOption,
    fake: FakeOption,
    weights: WeightsOption = None,
    extractor: ExtractorOption = None,
    trust_code: TrustOption = False,
    device: DeviceOption = "auto",
    workers: WorkersOption = 1,
    gpus: GpusOption = 0,
    intensity: IntensityOption = None,
    preset: RawOption = None,
    sets: SetOption = None,
    k: NeighbourOption = 5,
    pairs: PairsOption = 0,
    held_out: HeldOutOption = None,
    seed: SeedOption = 0,
    quick: QuickOption = False,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Every score from one pass; what the volumes are too few or too small for is left out and named."""
    from wdm_cli.engine import evaluate
    from wdm_cli.engine.metrics import METRICS

    device, workers = spread(device, workers, gpus)
    network = open_extractor(weights, extractor, trust_code, device, seed)
    generated, true = open_both(fake, real, intensity, preset, sets)
    assert true is not None
    if left_to_the_first([metric() for metric in METRICS], generated, true, network):
        return
    check_sanity(generated)
    settings = options(seed, quick, workers)
    train, unseen = open_held_out(held_out, true, fake)  # refused before the scores are computed, not after
    report = follow(evaluate.run_all(generated, true, network, settings, neighbours=k, pairs=pairs))
    copies, _ = follow(evaluate.memorization(train, generated, unseen, network, settings))
    show(report.with_scores_of(copies), out, as_json)


@app.command()
def sanity(
    fake: Annotated[Path, typer.Option("--fake", "--dir", help="Folder of NIfTI volumes, generated or real.")],
    intensity: IntensityOption = None,
    as_json: JsonOption = False,
) -> None:
    """What is wrong with a folder of volumes, file by file; exit 3 if a file cannot be used at all."""
    from wdm_cli.engine.errors import DataError
    from wdm_cli.engine.metrics.sanity import inspect
    from wdm_cli.engine.metrics.volumes import Intensity

    result = follow(inspect(fake, Intensity(intensity) if intensity else None))  # type: ignore[arg-type]
    show_sanity(result, as_json)
    if result.unusable:
        raise DataError(f"{fake}: {len(result.unusable)} of {result.n} files cannot be used", hint="see the table")


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(help="Result of an earlier evaluation (--out A.json).")],
    b: Annotated[Path, typer.Argument(help="Result to compare with it.")],
    unequal_n: Annotated[bool, typer.Option("--unequal-n", help="Compare although n differs.")] = False,
    as_json: JsonOption = False,
) -> None:
    """The difference of two results with its interval; refused if they were not measured alike."""
    from wdm_cli.engine.metrics.compare import compare as differences_of
    from wdm_cli.engine.metrics.report import read_report

    differences, warnings = differences_of(read_report(a), read_report(b), unequal_n=unequal_n)
    for text in warnings:
        console.warn(text)
    show_differences(differences, as_json)
