"""The names that a list, a table or a pattern may give to a case. No torch, no numpy."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from wdm_cli.engine.data.formats import NIFTI
from wdm_cli.engine.data.inventory import Case, Inventory, stem


def below(case: Case, root: Path) -> str:
    """The case's path below its folder, without the suffix of its format."""
    path = case.path.relative_to(root)
    return path.with_name(stem(path) if path.name.lower().endswith(NIFTI) else path.stem).as_posix()


def index(inventory: Inventory) -> dict[str, list[Case]]:
    """Cases by every name that a list may give them: their own, their path below the folder, their file's name."""
    known: dict[str, list[Case]] = defaultdict(list)
    for case in inventory.cases:
        path, plain = case.path.relative_to(inventory.root).as_posix(), below(case, inventory.root)
        for name in {case.name, path, plain, case.path.name, plain.rpartition("/")[2]}:
            known[name].append(case)
    return known


def tidy(text: str, root: Path) -> str:
    """A name as `index` has it: a path with slashes, below the folder where it was given from another place."""
    name = text.strip().replace("\\", "/")
    path = Path(name)
    if path.is_absolute() or (len(path.parts) > 1 and path.is_file()):
        absolute, home = path.absolute(), root.absolute()
        if absolute.is_relative_to(home):
            return absolute.relative_to(home).as_posix()
    return name.removeprefix("./")
