"""Score generated volumes: read folders once, compute every metric, stamp the protocol.

from wdm_cli.engine import evaluate
from wdm_cli.engine.metrics.extractor import load_extractor

report = evaluate.fid("real/", "samples/", load_extractor("resnet_50_23dataset.pth"))
report["fid"]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from wdm_cli.engine.errors import ConfigError
from wdm_cli.engine.metrics import FID, METRICS, MSSSIM, PRDC
from wdm_cli.engine.metrics.checks import (
    check_alike,
    check_fit,
    copies,
    few_unseen,
    lay_warnings,
    left_out,
    paired,
    size_warnings,
    split_fitting,
)
from wdm_cli.engine.metrics.metric import (
    DEFAULTS,
    DescribingMetric,
    FeatureMetric,
    Metric,
    Options,
    Steps,
    VolumeMetric,
)
from wdm_cli.engine.metrics.msssim import fitting_scales
from wdm_cli.engine.metrics.report import Report, Score
from wdm_cli.engine.metrics.volumes import Volumes, open_folder
from wdm_cli.engine.provenance import versions

if TYPE_CHECKING:
    from wdm_cli.engine.metrics.extractor import Extractor
    from wdm_cli.engine.metrics.features import Rows, Source
    from wdm_cli.engine.metrics.memorization import Memorization, Memorized

T = TypeVar("T")
CLOSEST = 5  # pairs named in a report of memorisation

__all__ = ["Options", "fid", "finish", "memorization", "msssim", "run", "run_all", "share", "without_network"]


def fid(real: str | Path, fake: str | Path, extractor: Extractor, options: Options = DEFAULTS) -> Report:
    """FID of two folders of volumes; intensities as their run.json says, else already in [0, 1]."""
    return finish(run([FID()], open_folder(fake), open_folder(real), extractor, options))


def msssim(fake: str | Path, real: str | Path | None = None, options: Options = DEFAULTS) -> Report:
    """MS-SSIM among the volumes of a folder, and among real ones if they are given."""
    return finish(run([MSSSIM()], open_folder(fake), open_folder(real) if real else None, None, options))


def finish(steps: Steps[T]) -> T:
    """Run work to its end without showing progress."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]


def run(
    metrics: Sequence[Metric],
    fake: Volumes,
    real: Volumes | None = None,
    extractor: Extractor | None = None,
    options: Options = DEFAULTS,
) -> Steps[Report]:
    """Score `fake`, against `real` where a metric needs it; yields progress, returns the report.

    Raises:
        DataError: the folders are the same, differ in shape or intensity scheme, do not suit a metric, or hold a
            file that cannot be used.
        ConfigError: a metric without the real volumes or the extractor that it needs.
    """
    real = check(metrics, real, fake, extractor)
    network = [metric for metric in metrics if uses_network(metric)]
    real_rows, fake_rows = yield from all_rows(metrics, real, fake, extractor, options)
    scores: list[Score] = []
    remarks: list[str] = []
    for metric in metrics:
        comparable = not metric.note and (metric not in network or (extractor is not None and extractor.comparable))
        if isinstance(metric, FeatureMetric):
            name = "network" if metric in network else metric.kind
            scores += feature_scores(metric, real_rows[name], fake_rows[name], options, comparable)
        elif isinstance(metric, VolumeMetric):
            found = yield from metric.score(real, fake, options)
            scores += [
                Score(
                    metric.kind,
                    name,
                    value,
                    metric.directions[name],
                    interval(found.errors.get(name)),
                    comparable=comparable,
                )
                for name, value in found.values.items()
            ]
            remarks += found.remarks
    warnings = [metric.note for metric in metrics if metric.note]
    if network and extractor is not None and not extractor.comparable:
        warnings.append(f"not comparable: features of a {extractor.name}; use MedicalNet weights for numbers to report")
    if real is not None:
        warnings += size_warnings(real, fake, real_rows["network"].shape[1] if network else 0) + copies(real, fake)
    warnings += lay_warnings(real, fake) + left_out(real, fake)
    stamp = protocol(metrics, real, fake, extractor if network else None, options)
    return Report(tuple(scores), stamp, tuple(warnings), tuple(remarks))


def run_all(
    fake: Volumes,
    real: Volumes | None = None,
    extractor: Extractor | None = None,
    options: Options = DEFAULTS,
    *,
    neighbours: int = 5,
    pairs: int = 0,
) -> Steps[Report]:
    """Every metric that the volumes are many and large enough for; the others are named in the warnings.

    Volumes too small for five scales of MS-SSIM get as many as fit, marked as not comparable.
    """
    scales = max(1, min(5, fitting_scales(fake.shape)))
    chosen = {"prdc": PRDC(k=neighbours), "msssim": MSSSIM(scales=scales, pairs=pairs)}
    if real is not None:
        real = paired(real, fake)
    metrics, without = split_fitting([chosen.get(metric.kind) or metric() for metric in METRICS], real, fake)
    report = yield from run(metrics, fake, real, extractor, options)
    return dataclasses.replace(report, warnings=(*without, *report.warnings))


def without_network(fake: Volumes, real: Volumes, options: Options = DEFAULTS, *, pairs: int = 200) -> Steps[Report]:
    """The scores that need no features of a network: MS-SSIM over at most so many pairs, intensities, spectrum."""
    scales = max(1, min(5, fitting_scales(fake.shape)))
    metrics = [
        MSSSIM(scales=scales, pairs=pairs),
        *(metric() for metric in METRICS if issubclass(metric, DescribingMetric)),
    ]
    fitting, without = split_fitting(metrics, real, fake)
    report = yield from run(fitting, fake, real, None, options)
    return dataclasses.replace(report, warnings=(*without, *report.warnings))


def memorization(
    train: Volumes,
    fake: Volumes,
    held_out: Volumes | None = None,
    extractor: Extractor | None = None,
    options: Options = DEFAULTS,
    settings: Memorization | None = None,
) -> Steps[tuple[Report, Memorized]]:
    """Generated volumes that are nearer to a training volume than unseen ones are; see `metrics.memorization`."""
    from wdm_cli.engine.metrics import memorization as method

    train = paired(train, fake)
    if held_out is not None:
        held_out = held_out.turned(train.axes)
        check_alike(train, held_out)
    settings = settings or method.Memorization()
    found = yield from method.memorization(train, fake, held_out, extractor, options, settings)
    values = {"n_copies": float(found.n_copies), "n_mem": float(found.n_mem), "n_expected": found.expected}
    scores = [Score("memorization", name, value, method.DIRECTIONS[name]) for name, value in values.items()]
    remarks = [f"thresholds from {found.thresholds_from}"]
    for match in found.matches[:CLOSEST]:
        names = f"generated {fake.names[match.fake]}, training {train.names[match.train]}"
        verdict = "flagged" if match.flagged else "not flagged"
        remarks.append(
            f"{names}: {match.embedding} distance {match.distance:.4g}, threshold {match.threshold:.4g}, {verdict}"
        )
    stamp = protocol([], train, fake, extractor, options)
    stamp["metrics"] = {"memorization": dataclasses.asdict(settings)}
    stamp["held_out"] = held_out.describe() if held_out else None
    warnings = (
        *few_unseen(found.n_unseen, settings.false_alarms),
        *lay_warnings(train, fake),
        *left_out(train, fake, held_out),
    )
    return Report(tuple(scores), stamp, warnings, (*remarks, method.BLIND)), found


def uses_network(metric: Metric) -> bool:
    return isinstance(metric, FeatureMetric) and not isinstance(metric, DescribingMetric)


def check(
    metrics: Sequence[Metric], real: Volumes | None, fake: Volumes, extractor: Extractor | None
) -> Volumes | None:
    """The real volumes in the generated ones' order of axes; refuses what cannot be computed or would mean nothing.

    Raises:
        ConfigError: a metric lacks its real volumes or its network.
        DataError: the folders are the same or unlike, or too few or too small for a metric.
    """
    if real is not None:
        real = paired(real, fake)
    for metric in metrics:
        if metric.needs_real and real is None:
            raise ConfigError(f"{metric.kind} needs real volumes", hint="give --real DIR")
        if uses_network(metric) and extractor is None:
            raise ConfigError(f"{metric.kind} needs the features of a network", hint="give --weights FILE or random")
        check_fit(metric, real, fake)
    return real


def share(
    metrics: Sequence[Metric],
    fake: Volumes,
    real: Volumes,
    extractor: Extractor | None,
    cache_dir: Path,
    rank: int,
    world: int,
) -> Steps[None]:
    """One process's part of the rows that `run` needs, put into the cache; see `metrics.crew.share`."""
    from wdm_cli.engine.metrics import crew

    yield from crew.share((paired(real, fake), fake), row_sources(metrics, extractor), cache_dir, rank, world)


def row_sources(metrics: Sequence[Metric], extractor: Extractor | None) -> list[Source]:
    """What makes the rows of these metrics: their own descriptions, and the network's features once for all."""
    from wdm_cli.engine.metrics.features import metric_source, network_source

    sources = [metric_source(metric) for metric in metrics if isinstance(metric, DescribingMetric)]
    if extractor is not None and any(map(uses_network, metrics)):
        sources.append(network_source(extractor))
    return sources


def all_rows(
    metrics: Sequence[Metric], real: Volumes | None, fake: Volumes, extractor: Extractor | None, options: Options
) -> Steps[tuple[dict[str, Rows], dict[str, Rows]]]:
    """Rows of both folders for every metric of rows, by one pass over each folder."""
    from wdm_cli.engine.metrics.crew import fill
    from wdm_cli.engine.metrics.features import extract

    sources = row_sources(metrics, extractor)
    if not sources or real is None:
        return {}, {}
    if options.workers > 1 and options.cache_dir:
        yield from fill((real, fake), sources, options.cache_dir, options.workers)
    of_real = yield from extract(real, sources, options.cache_dir)
    of_fake = yield from extract(fake, sources, options.cache_dir)
    return of_real, of_fake


def feature_scores(metric: FeatureMetric, real: Rows, fake: Rows, options: Options, comparable: bool) -> list[Score]:
    """A metric's values, each with its interval and floor if there are enough volumes."""
    from wdm_cli.engine.metrics.uncertainty import floor, half_widths

    values = metric.score(real, fake, options.seed)
    base = floor(metric, real, fake, options.seed) if options.uncertainty else None
    widths = half_widths(metric, real, fake, options.seed) if options.uncertainty else {}
    return [
        Score(
            metric.kind,
            name,
            value,
            metric.directions[name],
            half_width=widths.get(name),
            floor=base.real[name] if base else None,
            at_floor_n=base.fake[name] if base else None,
            comparable=comparable,
        )
        for name, value in values.items()
    ]


def interval(standard_error: float | None) -> float | None:
    """Half width of the 95 % interval of a normal value."""
    return None if standard_error is None else 1.96 * standard_error


def protocol(
    metrics: Sequence[Metric], real: Volumes | None, fake: Volumes, extractor: Extractor | None, options: Options
) -> dict[str, Any]:
    """Everything two results must share before their numbers may be compared, and what they were made of."""
    return {
        "metrics": {metric.kind: metric.settings() for metric in metrics},
        "real": real.describe() if real else None,
        "fake": fake.describe(),
        "shape": list(fake.shape),
        "axes": fake.axes,
        "intensity": fake.intensity.describe(),
        "extractor": extractor.describe() if extractor else None,
        "seed": options.seed,
        "versions": versions(),
    }
