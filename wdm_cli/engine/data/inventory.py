"""What lies in a folder: the cases of a data set, and why every other file is none. No torch, no numpy."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from wdm_cli.engine.errors import DataError
from wdm_cli.engine.files import safe_name

NIFTI = (".nii.gz", ".nii")
NOT_NIFTI = "not NIfTI"


@dataclass(frozen=True)
class Case:
    """One volume: a name that is unique in its inventory and safe in a file name, and its file."""

    name: str
    path: Path


@dataclass(frozen=True)
class Inventory:
    """The cases of a folder, sorted by name, and every other visible file with the reason it is none."""

    root: Path
    cases: tuple[Case, ...]
    ignored: tuple[tuple[Path, str], ...] = ()

    def reasons(self) -> dict[str, int]:
        """How many files were ignored for each reason, most frequent first."""
        return dict(Counter(reason for _, reason in self.ignored).most_common())


def walk(root: Path, suffixes: tuple[str, ...] = NIFTI) -> tuple[list[Path], list[tuple[Path, str]]]:
    """All files of a format below a folder, and what else is there with the reason to ignore it.

    Links to folders are not followed (they may form loops); links to files are. Hidden files and folders, `.partial`
    among them, are passed over without a word. Of x.nii and x.nii.gz side by side the latter is taken.

    Raises:
        DataError: the folder is missing or not a folder.
    """
    if not root.is_dir():
        raise DataError(f"{root}: {'is a file, not a folder' if root.exists() else 'no such folder'}")
    files: list[Path] = []
    ignored: list[tuple[Path, str]] = []

    def unreadable(error: OSError) -> None:
        ignored.append((Path(error.filename), f"cannot be opened ({error.strerror})"))

    for folder, folders, names in os.walk(root, onerror=unreadable):
        here = Path(folder)
        visible = sorted(name for name in folders if not name.startswith("."))
        folders[:] = [name for name in visible if not (here / name).is_symlink()]
        ignored += [(here / name, "link to a folder") for name in visible if name not in folders]
        for name in sorted(name for name in names if not name.startswith(".")):
            path, lower = here / name, name.lower()
            if not lower.endswith(suffixes):
                other = NOT_NIFTI if suffixes == NIFTI else f"not {suffixes[0]}"
                ignored.append((path, f"{other} ({path.suffix.lower() or 'no suffix'})"))
            elif not path.exists():
                ignored.append((path, "broken link"))
            elif lower.endswith(".nii") and f"{name}.gz" in names:
                ignored.append((path, "the same name exists as .nii.gz"))
            else:
                files.append(path)
    return files, ignored


def named(found: Iterable[tuple[str, Path]], root: Path) -> tuple[Case, ...]:
    """Cases with unique safe names, sorted: names that would be equal take their path below `root` instead."""
    pairs = [(safe_name(text), path) for text, path in found]
    count = Counter(name.lower() for name, _ in pairs)  # some file systems do not tell case
    cases = [
        Case(name if count[name.lower()] == 1 else safe_name(f"{path.relative_to(root)} "), path)
        for name, path in pairs
    ]
    assert len({case.name for case in cases}) == len(cases)
    return tuple(sorted(cases, key=lambda case: case.name))


def stem(path: Path) -> str:
    """The file's name without .nii or .nii.gz."""
    lower = path.name.lower()
    return path.name[: -7 if lower.endswith(".nii.gz") else -4]
