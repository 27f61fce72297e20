"""Score generated volumes: read folders, extract features once, compute every metric, stamp the protocol.

from wdm_cli.engine import evaluate
from wdm_cli.engine.metrics.extractor import load_extractor

report = evaluate.fid("real/", "samples/", load_extractor("resnet_50_23dataset.pth"))
report["fid"]
"""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from wdm_cli import __version__
from wdm_cli.engine.errors import ConfigError, DataError
from wdm_cli.engine.metrics import FID, MSSSIM
from wdm_cli.engine.metrics.metric import FeatureMetric, Metric, Steps, VolumeMetric
from wdm_cli.engine.metrics.report import Report, Score
from wdm_cli.engine.metrics.volumes import Volumes, open_folder

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wdm_cli.engine.metrics.extractor import Extractor

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to evaluate.

    seed: of every random choice. cache_dir: where features are kept; None keeps nothing.
    """

    seed: int = 0
    cache_dir: Path | None = None


def fid(real: str | Path, fake: str | Path, extractor: Extractor, options: Options = Options()) -> Report:
    """FID of two folders of volumes; intensities as their run.json says, else already in [0, 1]."""
    return finish(run([FID()], open_folder(fake), open_folder(real), extractor, options))


def msssim(fake: str | Path, real: str | Path | None = None, options: Options = Options()) -> Report:
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
    options: Options = Options(),
) -> Steps[Report]:
    """Score `fake`, against `real` where a metric needs it; yields progress, returns the report.

    Raises:
        DataError: the folders are the same, differ in shape or intensity scheme, or a file cannot be used.
        ConfigError: a metric of features without real volumes or an extractor.
    """
    check_pair(real, fake)
    features: tuple[NDArray[Any], NDArray[Any]] | None = None
    scores: list[Score] = []
    for metric in metrics:
        if isinstance(metric, FeatureMetric):
            features = features or (yield from both_features(metric, real, fake, extractor, options))
            values = metric.score(*features, options.seed)
        else:
            assert isinstance(metric, VolumeMetric)
            values = yield from metric.score(real, fake, options.seed)
        scores += [Score(metric.kind, name, value, metric.directions[name]) for name, value in values.items()]
    used = extractor if features else None
    warnings = (*warnings_for(metrics, real, fake, used), *feature_warnings(features))
    comparable = not any(metric.note for metric in metrics) and (used is None or used.comparable)
    return Report(tuple(scores), protocol(metrics, real, fake, used, options), warnings, comparable)


def both_features(
    metric: Metric, real: Volumes | None, fake: Volumes, extractor: Extractor | None, options: Options
) -> Steps[tuple[NDArray[Any], NDArray[Any]]]:
    from wdm_cli.engine.metrics.features import extract

    if real is None or extractor is None:
        raise ConfigError(f"{metric.kind} needs real volumes and an extractor", hint="give --real DIR and --weights")
    of_real = yield from extract(real, extractor, options.cache_dir)
    of_fake = yield from extract(fake, extractor, options.cache_dir)
    return of_real, of_fake


def check_pair(real: Volumes | None, fake: Volumes) -> None:
    """Refuse a comparison that means nothing."""
    if real is None:
        return
    if real.root.resolve() == fake.root.resolve():
        raise DataError(
            f"{fake.root}: real and generated volumes are the same folder",
            why="every distance would be 0",
            hint="give the folder of generated volumes as --fake",
        )
    if real.shape != fake.shape:
        raise DataError(
            f"{fake.files[0]}: {'×'.join(map(str, fake.shape))} voxels, but the real volumes "
            f"({real.files[0]}) have {'×'.join(map(str, real.shape))}",
            why="an evaluation compares volumes of one shape",
            hint="for a raw data set give --preset NAME: its real volumes are then made as for training",
        )
    if real.intensity.describe() != fake.intensity.describe():
        raise DataError(
            f"{real.root} is read as {real.intensity.scheme} {real.intensity.window}, "
            f"{fake.root} as {fake.intensity.scheme} {fake.intensity.window}",
            why="scores of unlike intensity schemes say nothing about the images",
            hint="prepare the real volumes by the preset the generated ones were made with (--preset NAME)",
        )


def warnings_for(
    metrics: Sequence[Metric], real: Volumes | None, fake: Volumes, extractor: Extractor | None
) -> tuple[str, ...]:
    """What a reader must know before believing the numbers."""
    found = [metric.note for metric in metrics if metric.note]
    if extractor is not None and not extractor.comparable:
        found.append(f"not comparable: features of a {extractor.name}; use MedicalNet weights for numbers to report")
    if real is None:
        return tuple(found)
    if len(real) != len(fake):
        found.append(f"{len(real)} real and {len(fake)} generated volumes: FID depends on n, compare at equal n only")
    if real.files_sha256 == fake.files_sha256:
        raise DataError(f"{fake.root}: holds the same files as {real.root}", why="every distance would be 0")
    known = {real.sha256(index) for index in range(len(real))}
    copies = [fake.files[i].name for i in range(len(fake)) if fake.sha256(i) in known]
    if copies:
        found.append(f"{len(copies)} generated files are byte for byte real ones, e.g. {copies[0]}")
    return tuple(found)


def feature_warnings(features: tuple[NDArray[Any], NDArray[Any]] | None) -> list[str]:
    n, width = (min(map(len, features)), features[0].shape[1]) if features else (0, 0)
    if n >= width:
        return []
    return [f"n = {n} is below the {width} feature dimensions: FID is biased upwards, compare at equal n only"]


def protocol(
    metrics: Sequence[Metric], real: Volumes | None, fake: Volumes, extractor: Extractor | None, options: Options
) -> dict[str, Any]:
    """Everything two results must share before their numbers may be compared, and what they were made of."""
    import numpy as np
    import torch

    return {
        "metrics": {metric.kind: dataclasses.asdict(metric) for metric in metrics},
        "real": real.describe() if real else None,
        "fake": fake.describe(),
        "shape": list(fake.shape),
        "intensity": fake.intensity.describe(),
        "extractor": extractor.describe() if extractor else None,
        "seed": options.seed,
        "versions": {
            "wdm": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
    }
