"""Who is trained on and who is held out: by patient, from a seed, as a file. No torch, no numpy.

SPLIT.json lists case names. Two scans of one patient never stand on both sides, which would let a model be
judged on anatomy it has seen.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from wdm_cli.engine.data.inventory import Inventory, stem
from wdm_cli.engine.errors import ConfigError, DataError
from wdm_cli.engine.files import write_json

SPLIT_FILE = "split.json"
PATIENT = re.compile(
    r"(LIDC-IDRI-\d{4}|sub-[A-Za-z0-9]+|BraTS[-\w]*?-\d{4,5}(?=-\d{3}\b)|(?:ADNI_)?\d{3}_S_\d{4})", re.IGNORECASE
)


@dataclass(frozen=True)
class Split:
    """Case names of both sides, sorted, and how they were drawn."""

    seed: int
    share: float
    train: tuple[str, ...]
    val: tuple[str, ...]


def patient_of(case: str) -> str:
    """The patient in a case's name (LIDC-IDRI, BIDS, BraTS, ADNI), else the whole name."""
    match = PATIENT.match(case)
    return match[1] if match else case


def case_of(path: Path) -> str:
    """The case of a finished file: its folder's name in the LIDC-IDRI layout, else its own without the contrast."""
    name = stem(path)
    if name.lower() in ("preprocessed", "processed"):
        return path.parent.name
    return re.sub(r"-(t1n|t1c|t2w|t2f)$", "", name)


def split(cases: Iterable[str], share: float, seed: int = 0, patients: Mapping[str, str] | None = None) -> Split:
    """Draw patients for validation until about `share` of them is there, at least one.

    A patient's place depends on the seed and its name only, so that adding cases moves nobody across but at the edge.

    Args:
        share: part of the patients that is held out, above 0 and below 1.
        patients: case -> patient where it is known; other cases tell it by their names.

    Raises:
        DataError: fewer than two patients.
        ConfigError: the share is no share.
    """
    if not 0 < share < 1:
        raise ConfigError(f"--val {share:g}: must be above 0 and below 1", hint="0.1 holds out one patient in ten")
    members: dict[str, list[str]] = defaultdict(list)
    for case in cases:
        members[(patients or {}).get(case) or patient_of(case)].append(case)
    if len(members) < 2:
        raise DataError(f"{len(members)} patients cannot be split", why="each side needs at least one")
    drawn = sorted(members, key=lambda patient: hashlib.sha256(f"{seed} {patient}".encode()).digest())
    count = min(max(1, round(share * len(drawn))), len(drawn) - 1)
    val = {case for patient in drawn[:count] for case in members[patient]}
    train = {case for patient in drawn[count:] for case in members[patient]}
    return Split(seed, share, tuple(sorted(train)), tuple(sorted(val)))


def write_split(path: Path, drawn: Split) -> None:
    write_json(path, asdict(drawn))


def read_split(path: Path) -> Split:
    """The split of a file.

    Raises:
        DataError: it is no split, or a case stands on both sides.
    """
    try:
        values = json.loads(path.read_text())
        found = Split(int(values["seed"]), float(values["share"]), tuple(values["train"]), tuple(values["val"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: is no split file", hint="make one with `wdm split DIR --val 0.1`") from error
    both = set(found.train) & set(found.val)
    if both:
        raise DataError(f"{path}: {len(both)} cases stand on both sides, e.g. {min(both)}")
    return found


def part_of(inventory: Inventory, part: Literal["train", "val"]) -> Inventory:
    """The cases that the folder's split.json lists for one part; the others are ignored by that reason.

    Raises:
        DataError: there is no split, or it does not know a case, which could have been held out.
    """
    path = inventory.root / SPLIT_FILE
    if not path.is_file():
        raise DataError(f"{path}: no such file, and data.part is {part}", hint=f"wdm split {inventory.root} --val 0.1")
    found = read_split(path)
    listed, other = (set(found.train), set(found.val)) if part == "train" else (set(found.val), set(found.train))
    unknown = [case.name for case in inventory.cases if case.name not in listed | other]
    if unknown:
        raise DataError(
            f"{path}: {len(unknown)} cases of the folder are in no part, e.g. {unknown[0]}",
            hint="make the split again with `wdm split --overwrite`, before anything is trained on it",
        )
    left_out = [(case.path, "in the other part of the split") for case in inventory.cases if case.name in other]
    cases = tuple(case for case in inventory.cases if case.name in listed)
    if not cases:
        raise DataError(f"{path}: no case of the folder is in the part {part}")
    return Inventory(inventory.root, cases, tuple(sorted([*inventory.ignored, *left_out])))


def patients_of_manifest(folder: Path) -> dict[str, str]:
    """Case -> patient as `wdm preprocess` recorded it; empty where there is no manifest."""
    path = folder / "manifest.jsonl"
    found: dict[str, str] = {}
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # a line that was being written when the machine went down
        if isinstance(entry, dict) and entry.get("case") and entry.get("patient"):
            found[entry["case"]] = entry["patient"]
    return found
