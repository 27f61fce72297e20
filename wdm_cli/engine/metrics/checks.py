"""What is refused before anything is computed, and what a reader must know before believing the numbers."""

from __future__ import annotations

from collections.abc import Sequence

from wdm_cli.engine.errors import DataError
from wdm_cli.engine.metrics.metric import Metric
from wdm_cli.engine.metrics.volumes import Volumes


def check_pair(real: Volumes, fake: Volumes) -> None:
    """Refuse a comparison that means nothing: DataError if both are one folder, or unlike (`check_alike`)."""
    if real.root.resolve() == fake.root.resolve():
        raise DataError(
            f"{fake.root}: real and generated volumes are the same folder",
            why="every distance would be 0",
            hint="give the folder of generated volumes as --fake",
        )
    check_alike(real, fake)


def check_alike(real: Volumes, fake: Volumes) -> None:
    """Refuse folders of unlike shapes or intensity schemes with a DataError."""
    if real.shape != fake.shape:
        raise DataError(
            f"{fake.files[0]}: {'×'.join(map(str, fake.shape))} voxels, but "
            f"{real.files[0]} has {'×'.join(map(str, real.shape))}",
            why="an evaluation compares volumes of one shape",
            hint="for a raw data set give --preset NAME: its real volumes are then made as for training",
        )
    if real.intensity.describe() != fake.intensity.describe():
        raise DataError(
            f"{real.root} is read as {real.intensity.describe()}, {fake.root} as {fake.intensity.describe()}",
            why="scores of unlike intensity schemes say nothing about the images",
            hint="prepare the real volumes by the preset the generated ones were made with (--preset NAME)",
        )


def check_fit(metric: Metric, real: Volumes | None, fake: Volumes) -> None:
    """Refuse a metric that these volumes are too small or too few for, with a DataError that states the rule."""
    if problem := metric.unfit(fake.shape, min(len(fake), len(real) if real else len(fake))):
        rule, hint = problem
        size = f"{len(fake)} volumes of {'×'.join(map(str, fake.shape))} voxels"
        what = f"{fake.files[0].parent}: no {metric.kind} of {size} ({fake.files[0].name} …)"
        raise DataError(what, why=rule, hint=hint)


def split_fitting(metrics: Sequence[Metric], real: Volumes | None, fake: Volumes) -> tuple[list[Metric], list[str]]:
    """The metrics that can be computed, and why the others are left out."""
    fitting: list[Metric] = []
    left_out = []
    n = min(len(fake), len(real) if real else len(fake))
    for metric in metrics:
        if metric.needs_real and real is None:
            left_out.append(f"{metric.kind} left out: it needs real volumes (--real DIR)")
        elif problem := metric.unfit(fake.shape, n):
            left_out.append(f"{metric.kind} left out: {problem[0]}")
        else:
            fitting.append(metric)
    return fitting, left_out


def copies(real: Volumes, fake: Volumes) -> list[str]:
    """Warnings of generated files that are real ones, byte for byte; DataError if all of them are."""
    if real.files_sha256 == fake.files_sha256:
        raise DataError(f"{fake.root}: holds the same files as {real.root}", why="every distance would be 0")
    known = {real.sha256(index) for index in range(len(real))}
    found = [fake.files[i].name for i in range(len(fake)) if fake.sha256(i) in known]
    return [f"{len(found)} generated files are byte for byte real ones, e.g. {found[0]}"] if found else []


def size_warnings(real: Volumes | None, fake: Volumes, width: int) -> list[str]:
    """Warnings about n; width is the number of the network's features, 0 if none is used."""
    if real is None:
        return []
    found = []
    if len(real) != len(fake):
        depends = "FID depends on n, " if width else ""
        found.append(f"{len(real)} real and {len(fake)} generated volumes: {depends}compare at equal n only")
    n = min(len(real), len(fake))
    if n < width:
        found.append(f"n = {n} is below the {width} feature dimensions: FID is biased upwards, compare at equal n only")
    return found


def few_unseen(n: int, share: float) -> tuple[str, ...]:
    """Warning if n volumes are too few to find the distance that only `share` of unseen volumes fall below."""
    needed = round(1 / share)
    if n >= needed:
        return ()
    return (
        f"memorization: thresholds from {n} volumes, at least {needed} are needed: most of what is flagged is chance",
    )
