"""What a folder of volumes says of itself, and which of its files are volumes.

run.json tells samples (`wdm sample`), run folders (`wdm train`) and prepared data (`wdm preprocess`) apart; without one
the folder is foreign, and how its files are to be read is for the caller to say.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from wdm_cli.engine.data.inventory import Inventory, require_whole, stem, walk
from wdm_cli.engine.data.labelmaps import by_name
from wdm_cli.engine.data.lidc import STEMS
from wdm_cli.engine.errors import ConfigError, DataError
from wdm_cli.engine.metrics.intensity import Intensity

Kind = Literal["samples", "run", "prepared", "foreign"]


@dataclass(frozen=True)
class Told:
    """kind: what wrote the folder; about: its run.json; intensity: how its files are stored, None if not said."""

    kind: Kind = "foreign"
    about: dict[str, Any] = field(default_factory=dict)
    intensity: Intensity | None = None


def read_told(root: Path) -> Told:
    """What a folder's run.json tells; a foreign folder has none.

    Raises:
        DataError: the file is there but states no intensity scheme.
    """
    path = root / "run.json"
    if not path.is_file():
        return Told()
    try:
        about = dict(json.loads(path.read_bytes()))
        if "preset" in about:
            data = about["preset"]["data"]
            kind: Kind = "run" if is_run(root) else "samples"
        else:
            data, kind = about["protocol"], "prepared"
        low, high = data.get("window", Intensity.window)
        return Told(kind, about, Intensity(data["intensity"], (float(low), float(high))))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
        raise DataError(
            f"{path}: does not state how intensities are stored (preset.data.intensity, or protocol.intensity)",
            why="it is damaged, or no file of `wdm sample` or `wdm preprocess`",
            hint="give --intensity paper or fixed-window",
        ) from error


def is_run(folder: Path) -> bool:
    """Whether a folder was written by `wdm train`."""
    return (folder / "run.json").is_file() and ((folder / "checkpoints").is_dir() or (folder / "metrics.csv").is_file())


class Found(NamedTuple):
    """The files that are volumes, sorted, and those that are not taken, with the reason."""

    files: tuple[Path, ...]
    left_out: tuple[tuple[Path, str], ...]


def nifti_files(root: Path, least: int = 2) -> Found:
    """All volumes below a folder; temporary files and hidden folders are passed over, label maps and masks left out.

    Raises:
        DataError: no such folder, fewer than `least` volumes in it, or folders that cannot be looked into.
    """
    listing = walk(root)
    reasons = [(path, by_name(path, root)) for path in listing.files]
    left_out = tuple((path, reason) for path, reason in reasons if reason)
    files = tuple(path for path, reason in reasons if not reason)
    require(root, files, least, len(left_out))
    require_whole(Inventory(root, (), closed=tuple(listing.closed)))  # a file that is not here is named by its reader
    return Found(files, left_out)


def names_of(files: Sequence[Path], root: Path) -> tuple[str, ...]:
    """What to call finished volumes: by file, in the LIDC-IDRI layout by folder; by path where several are alike."""
    cases = [path.parent.name if stem(path).lower() in STEMS else stem(path) for path in files]
    count = Counter(cases)
    return tuple(
        case if count[case] == 1 else str(path.relative_to(root)) for case, path in zip(cases, files, strict=True)
    )


def require(root: Path, files: Sequence[Path], least: int = 2, left_out: int = 0) -> None:
    """Raise DataError for fewer files; two at least where volumes are compared."""
    if len(files) < least:
        only = f" ({files[0].name})" if files else ""
        others = f" besides {left_out} label maps or masks (by their names)" if left_out else ""
        raise DataError(
            f"{root}: {len(files)} NIfTI file{'s' * (len(files) != 1)}{only}{others}"
            + (f", an evaluation needs at least {least}" if least > 1 else ""),
            hint="the paper uses 1000; a few hundred give a usable comparison at equal n",
        )
