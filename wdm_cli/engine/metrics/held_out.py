"""Real volumes on two sides: those that were trained on, and those that were held out.

Both are read alike, and cases have the names that the data set gives them, as `wdm split` wrote them down.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from wdm_cli.engine.data import DATASETS, Brats
from wdm_cli.engine.data.inventory import Inventory, named, walk
from wdm_cli.engine.data.names import index, tidy
from wdm_cli.engine.data.patients import on_both_sides, tell
from wdm_cli.engine.data.split import Split, read_split, sides
from wdm_cli.engine.errors import DataError
from wdm_cli.engine.files import read_text
from wdm_cli.engine.metrics.volumes import Volumes, open_dataset, open_folder

CONTRASTS = ("t1n", "t1c", "t2w", "t2f")


@dataclass(frozen=True)
class Division:
    """train, unseen: volumes of both sides. names: cases of the training side, where the data set names them.

    warnings: what a reader of thresholds from `unseen` should know.
    """

    train: Volumes
    unseen: Volumes
    names: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def divide(real: Volumes, held_out: Path) -> Division:
    """Take what is held out from `real`, or from the rest of its folder where `real` is one part of a split.

    Args:
        held_out: a folder of volumes, a split.json, or a text file with a name a line: a case, its file, or its path.

    Raises:
        DataError: the file is no list, names what is not in the folder, or leaves fewer than two volumes on a side.
    """
    if held_out.is_dir():
        return _another_folder(real, held_out)
    inventories = _inventories(real)
    if held_out.suffix.lower() == ".json":
        drawn = read_split(held_out)
        train, unseen, names, warnings = _by_split(inventories, drawn, held_out)
    else:
        unseen, warnings = _by_list(inventories, real.root, held_out), []
        train = {path for inventory in inventories for case in inventory.cases for path in [case.path]} - unseen
        names = ()
    if real.dataset is not None and real.dataset.part == "train" and (seen := sorted(unseen & set(real.files))):
        warnings.append(f"{len(seen)} held-out volumes are in the training part of the data, e.g. {seen[0].name}")
    if real.dataset is None or real.dataset.part != "val":
        train = set(real.files) - unseen
    if not names:
        warnings += _shared_patients(inventories, unseen)
    return Division(_side(real, train, held_out), _side(real, unseen, held_out), names, tuple(warnings))


def _another_folder(real: Volumes, folder: Path) -> Division:
    """Volumes of a folder; what lies in it is not trained on, also where it is a part of the folder of `real`."""
    if real.dataset is None:
        unseen = open_folder(folder, real.intensity)
    else:
        unseen = open_dataset(folder, dataclasses.replace(real.dataset, part="all"))
    there = {path.resolve() for path in unseen.files}
    train = {path for path in real.files if path.resolve() not in there}
    return Division(_side(real, train, folder), unseen)


def _side(real: Volumes, files: set[Path], held_out: Path) -> Volumes:
    """Volumes of some files, which need not be among `real`'s own; two at least."""
    if len(files) < 2:
        raise DataError(
            f"{held_out}: leaves {len(files)} volumes of {real.root} on one side",
            why="held-out volumes are compared with those that were trained on: both sides need at least two",
            hint="hold out more or fewer of them (`wdm split DIR --val 0.1`), or leave --held-out away",
        )
    return real.with_files(sorted(files))


def _inventories(real: Volumes) -> list[Inventory]:
    """All cases of the folder by name; of finished volumes under the names of every layout that fits some of them."""
    if real.dataset is not None:
        return [dataclasses.replace(real.dataset, part="all").find(real.root)]
    files = walk(real.root).files
    found = []
    for cls in DATASETS:
        for data in [cls(contrast=contrast) for contrast in CONTRASTS] if cls is Brats else [cls()]:  # type: ignore[arg-type]
            pairs = ((data.named_case(path, real.root)[0], path) for path in files if data.recognises(path))
            found.append(Inventory(real.root, named([(name, path) for name, path in pairs if name], real.root)))
    return [inventory for inventory in found if inventory.cases]


def _by_split(
    inventories: list[Inventory], drawn: Split, path: Path
) -> tuple[set[Path], set[Path], tuple[str, ...], list[str]]:
    """Files of both sides, names of the training side, warnings."""
    listed = {*drawn.train, *drawn.val}
    overlap = [sum(case.name in listed for case in inventory.cases) for inventory in inventories]
    if not any(overlap):
        raise DataError(
            f"{path}: none of its {len(listed)} cases is in {inventories[0].root}, e.g. {min(listed, default='')}",
            why="held-out cases are taken from --real by the names that the data set gives them",
            hint="--real is the folder that the split was made of; its data set (data.kind) the same",
        )
    fitting = [item for item, count in zip(inventories, overlap, strict=True) if 2 * count > len(item.cases)]
    fitting = fitting or [inventories[overlap.index(max(overlap))]]
    both = [sides(inventory, drawn, path) for inventory in fitting]
    train, unseen = ({case.path for found in both for case in found[part]} for part in ("train", "val"))
    there = {case.name for found in both for case in found["val"]}
    missing = sorted(set(drawn.val) - there)
    warnings = []
    if missing:
        shown = ", ".join(missing[:3])
        warnings.append(f"{path}: {len(missing)} of {len(drawn.val)} held-out cases are not there, e.g. {shown}")
    if not drawn.patients:
        warnings += _shared_patients(fitting, unseen)
    return train, unseen, tuple(sorted({case.name for found in both for case in found["train"]})), warnings


def _by_list(inventories: list[Inventory], root: Path, path: Path) -> set[Path]:
    """The files that a text file names."""
    try:
        lines = read_text(path, "surrogateescape").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path} as a list of file names: {error}") from error
    known: dict[str, set[Path]] = defaultdict(set)
    several: dict[str, int] = {}
    for inventory in inventories:
        for name, cases in index(inventory).items():
            known[name] |= {case.path for case in cases}
            several[name] = max(several.get(name, 0), len(cases))
    names = {tidy(line, root) for line in lines} - {""}
    hint = "one a line: a case, its file (case_0042.nii.gz) or its path below --real"
    if unknown := sorted(names - known.keys()):
        raise DataError(
            f"{path}: {len(unknown)} names are no files of {root}, e.g. {', '.join(unknown[:5])}", hint=hint
        )
    if unclear := sorted(name for name in names if several[name] > 1):
        raise DataError(f"{path}: {unclear[0]} is the name of {several[unclear[0]]} files of {root}", hint=hint)
    return {path for name in names for path in known[name]}


def _shared_patients(inventories: Iterable[Inventory], unseen: set[Path]) -> list[str]:
    """A warning of patients, as far as names or manifest state them, who have volumes on both sides."""
    shared: set[str] = set()
    for inventory in inventories:
        patients = tell(inventory)
        of = {case: who for case, who in patients.of.items() if case not in patients.guessed}
        held = {case.name for case in inventory.cases if case.path in unseen}
        shared |= set(on_both_sides(of, of.keys() - held, held))
    if not shared:
        return []
    return [f"{len(shared)} patients have volumes on both sides, e.g. {min(shared)}: thresholds come out too low"]
