"""Who is trained on and who is held out: by patient, from a seed, as a file. No torch, no numpy.

SPLIT.json lists names of cases and whose they are. Two scans of one patient never stand on both sides, which would let
a model be judged on anatomy it has seen.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from wdm_cli.engine.data.inventory import Case, Inventory
from wdm_cli.engine.data.patients import MANIFEST, RULE, WAYS, Patients, largest, on_both_sides, tell
from wdm_cli.engine.errors import ConfigError, DataError
from wdm_cli.engine.files import write_json

SPLIT_FILE = "split.json"


@dataclass(frozen=True)
class Split:
    """Case names of both sides, sorted, how they were drawn, and case -> patient with how patients were told.

    Files of earlier versions record no patients.
    """

    seed: int
    share: float
    train: tuple[str, ...]
    val: tuple[str, ...]
    told: Mapping[str, str | int] = field(default_factory=dict)
    patients: Mapping[str, str] = field(default_factory=dict)

    @property
    def counts(self) -> tuple[int, int]:
        """Patients of both sides."""
        train, val = (len({self.patients[c] for c in part if c in self.patients}) for part in (self.train, self.val))
        return train, val


def split(patients: Patients, share: float, seed: int = 0) -> Split:
    """Draw patients for validation until about `share` of them is there, at least one.

    A patient's place depends on the seed and its name only, so that adding cases moves nobody across but at the edge.

    Args:
        share: part of the patients that is held out, above 0 and below 1.

    Raises:
        DataError: fewer than two patients.
        ConfigError: the share is no share.
    """
    if not 0 < share < 1:
        raise ConfigError(f"--val {share:g}: must be above 0 and below 1", hint="0.1 holds out one patient in ten")
    members: dict[str, list[str]] = defaultdict(list)
    for case, patient in patients.of.items():
        members[patient].append(case)
    if len(members) < 2:
        raise _too_few(patients)
    drawn = sorted(
        members, key=lambda patient: hashlib.sha256(f"{seed} {patient}".encode(errors="surrogateescape")).digest()
    )
    count = min(max(1, round(share * len(drawn))), len(drawn) - 1)
    val = {case for patient in drawn[:count] for case in members[patient]}
    train = {case for patient in drawn[count:] for case in members[patient]}
    of = dict(sorted(patients.of.items()))
    return Split(seed, share, tuple(sorted(train)), tuple(sorted(val)), dict(patients.told), of)


def _too_few(patients: Patients) -> DataError:
    """The error of a folder in which nobody can be held out, and what would help."""
    cases = len(patients.of)
    if cases < 2:
        return DataError(
            f"{cases} case cannot be split", why="each side needs at least one", hint="add cases of others"
        )
    name, _ = largest(patients.of)
    how = {
        MANIFEST: f"{MANIFEST} states this one, as it does where an anonymiser gave a whole archive one PatientID",
        RULE: "by their names they are taken for one",
        "pattern": "--patient finds this one in every path",
        "table": "the table of --patients names this one for every case",
    }
    why = next((text for key, text in how.items() if key in patients.told), "their names state this one")
    return DataError(
        f"{cases} cases of 1 patient ({name}) cannot be split",
        why=f"each side needs at least one patient, and {why}",
        hint=f"if they are of several patients, say whose they are: {WAYS}",
    )


def write_split(path: Path, drawn: Split) -> None:
    write_json(path, asdict(drawn))


def read_split(path: Path) -> Split:
    """The split of a file.

    Raises:
        DataError: it is no split, or a case or a patient stands on both sides.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file", hint="`wdm split DIR --val 0.1` makes one")
    try:
        values = json.loads(path.read_bytes())
        train, val = (tuple(map(str, values[part])) for part in ("train", "val"))
        patients = {str(case): str(who) for case, who in values.get("patients", {}).items()}
        found = Split(int(values["seed"]), float(values["share"]), train, val, dict(values.get("told", {})), patients)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: is no split file, or a damaged one",
            why="who was held out is not known without it",
            hint="restore it; a new `wdm split DIR --val 0.1` is for models that are yet to be trained",
        ) from error
    for kind, both in (
        ("cases", sorted(set(found.train) & set(found.val))),
        ("patients", on_both_sides(found.patients, found.train, found.val)),
    ):
        if both:
            raise DataError(
                f"{path}: {len(both)} {kind} stand on both sides, e.g. {both[0]}",
                why="what was trained on would be judged with",
                hint="make the split again with `wdm split DIR --overwrite`, and train anew",
            )
    return found


def sides(inventory: Inventory, drawn: Split, path: Path) -> dict[Literal["train", "val"], tuple[Case, ...]]:
    """The folder's cases on both sides; a case that the split does not list goes to the side of its patient.

    Args:
        path: the split's file, for the error.

    Raises:
        DataError: a case of a patient whom the split does not know, and who could have been held out.
    """
    train, val = set(drawn.train), set(drawn.val)
    listed = train | val
    unknown = [case for case in inventory.cases if case.name not in listed]
    if unknown and drawn.patients and "table" not in drawn.told:
        homes = {patient: case in val for case, patient in drawn.patients.items() if case in listed}
        pattern = str(drawn.told.get("pattern", ""))
        of = tell(Inventory(inventory.root, inventory.cases), pattern).of
        for case in unknown:
            if (held := homes.get(of[case.name])) is not None:
                (val if held else train).add(case.name)
        placed = train | val
        unknown = [case for case in unknown if case.name not in placed]
    if unknown:
        raise DataError(
            f"{path}: {len(unknown)} cases of the folder are in no part, e.g. {unknown[0].name}",
            why="they are of patients whom the split does not know",
            hint="make the split again with `wdm split DIR --overwrite`, before anything is trained on it",
        )
    return {
        "train": tuple(case for case in inventory.cases if case.name in train),
        "val": tuple(case for case in inventory.cases if case.name in val),
    }


def part_of(inventory: Inventory, part: Literal["train", "val"]) -> Inventory:
    """The cases that the folder's split.json lists for one part; the others are ignored by that reason.

    Raises:
        DataError: there is no split, or it does not know a case, which could have been held out.
    """
    path = inventory.root / SPLIT_FILE
    if not path.is_file():
        raise DataError(f"{path}: no such file, and data.part is {part}", hint=f"wdm split {inventory.root} --val 0.1")
    found = sides(inventory, read_split(path), path)
    if not found[part]:
        raise DataError(f"{path}: no case of the folder is in the part {part}")
    other = found["val" if part == "train" else "train"]
    left_out = [(case.path, "in the other part of the split") for case in other]
    return Inventory(inventory.root, found[part], tuple(sorted([*inventory.ignored, *left_out])))
