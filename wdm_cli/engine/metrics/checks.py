"""What is refused before anything is computed, and what a reader must know before believing the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wdm_cli.engine.data.volume import times
from wdm_cli.engine.errors import DataError
from wdm_cli.engine.metrics.lay import along
from wdm_cli.engine.metrics.metric import Metric
from wdm_cli.engine.metrics.volumes import Volumes

SAME_SIZE = 1.02  # ratio of voxel sides that pass for equal
SIZES_SHOWN = 3


def paired(real: Volumes, fake: Volumes) -> Volumes:
    """The real volumes with their axes turned to those of the generated ones, which every comparison begins with.

    Raises:
        DataError: the comparison would mean nothing: both are one folder, or unlike (`check_alike`).
    """
    if real.root.resolve() == fake.root.resolve():
        raise DataError(
            f"{fake.root}: real and generated volumes are the same folder",
            why="every distance would be 0",
            hint="name another folder of real volumes: --real DIR",
        )
    return check_alike(real, fake)


def check_alike(real: Volumes, fake: Volumes) -> Volumes:
    """The first with its axes turned to those of the second; DataError if shapes or intensity schemes are unlike."""
    real = real.turned(fake.axes)
    if real.shape != fake.shape:
        told = (f" ({fake.axes})", f" ({real.lays[0].axes}, turned to {fake.axes})")
        here, there = told if real.lays[0].axes != fake.axes else ("", "")
        raise DataError(
            f"{fake.files[0]}: {times(fake.shape)} voxels{here}, but {real.files[0]} has {times(real.shape)}{there}",
            why="an evaluation compares volumes of one shape",
            hint="for a raw data set give --preset NAME: its real volumes are then made as for training",
        )
    if real.intensity.describe() != fake.intensity.describe():
        raise DataError(
            f"{real.root} is read as {real.intensity.describe()}, {fake.root} as {fake.intensity.describe()}",
            why="scores of unlike intensity schemes say nothing about the images",
            hint="prepare the real volumes by the preset the generated ones were made with (--preset NAME)",
        )
    return real


def lay_warnings(real: Volumes | None, fake: Volumes) -> list[str]:
    """What a reader must know of how the volumes lie: what was turned, what training saw, voxels of unlike size."""
    found = []
    for volumes in (fake, real):
        if volumes is None or set(volumes.orientations) == {fake.axes}:
            continue
        others = [f"{count} lie {axes}" for axes, count in volumes.orientations.items() if axes != fake.axes]
        found.append(
            f"{volumes.root}: of {len(volumes)} volumes {', '.join(others)}; they were turned to {fake.axes}, as the "
            "first generated one lies (axes flipped or exchanged, nothing interpolated)"
        )
        if volumes.dataset is not None and len(volumes.orientations) > 1:
            found.append(
                f"{volumes.root}: training takes arrays as they are stored, so a model of these data may make volumes "
                "of every orientation, whatever their affines say"
            )
    sizes = fake.voxel_sizes | (real.voxel_sizes if real else {})
    if len(sizes) > 1 and not are_alike(real, fake):
        told = [f"{', '.join(list(v.voxel_sizes)[:SIZES_SHOWN])} mm in {v.root}" for v in (real, fake) if v is not None]
        found.append(f"voxels of {'; '.join(told)}: volumes of one shape at several scales show unlike anatomy")
    return found


def are_alike(real: Volumes | None, fake: Volumes) -> bool:
    """Whether all voxel sizes, along the same axes, are one to within SAME_SIZE."""
    lays = [*fake.lays, *(real.lays if real else ())]
    sides = zip(*(along(lay.spacing, lay.axes, fake.axes) for lay in lays), strict=True)
    return all(max(side) <= SAME_SIZE * min(side) for side in sides)


def left_out(*folders: Volumes | None) -> list[str]:
    """Warnings of files that are not taken, with the reasons."""
    found = []
    for volumes in folders:
        reasons: dict[str, list[Path]] = {}
        for path, reason in volumes.left_out if volumes else ():
            reasons.setdefault(reason, []).append(path)
        found += [f"{len(paths)} files left out: {reason}, e.g. {paths[0]}" for reason, paths in reasons.items()]
    return found


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
    without = []
    n = min(len(fake), len(real) if real else len(fake))
    for metric in metrics:
        if metric.needs_real and real is None:
            without.append(f"{metric.kind} left out: it needs real volumes (--real DIR)")
        elif problem := metric.unfit(fake.shape, n):
            without.append(f"{metric.kind} left out: {problem[0]}")
        else:
            fitting.append(metric)
    return fitting, without


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
