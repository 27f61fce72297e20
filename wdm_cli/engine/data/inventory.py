"""What lies in a folder: the cases of a data set, and why every other file is none. No torch, no numpy."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wdm_cli.engine.data.formats import (
    COMPANY,
    DICOM,
    NIFTI,
    Format,
    format_of,
    has_header,
    is_company,
    is_own,
    suffix_of,
)
from wdm_cli.engine.data.presence import why_absent
from wdm_cli.engine.errors import DataError
from wdm_cli.engine.files import safe_name

Reasons = tuple[tuple[Path, str], ...]
ICLOUD = ".icloud"
NAMED = 5


@dataclass(frozen=True)
class Case:
    """One volume: a name that is unique in its inventory and safe in a file name, and its file."""

    name: str
    path: Path


@dataclass(frozen=True)
class Inventory:
    """The cases of a folder, sorted by name, and what else is in it.

    Attributes:
        ignored: every other visible file with the reason why it is no case.
        foreign: volumes of formats that the data set does not read.
        closed: folders that cannot be looked into, with the reason: they may hold cases.
        notes: what a user should know of the folder as a whole, in sentences.
    """

    root: Path
    cases: tuple[Case, ...]
    ignored: Reasons = ()
    foreign: tuple[tuple[Path, Format], ...] = ()
    closed: Reasons = ()
    notes: tuple[str, ...] = ()

    def reasons(self) -> dict[str, int]:
        """How many files were ignored for each reason, most frequent first."""
        return dict(Counter(reason for _, reason in self.ignored).most_common())


@dataclass
class Listing:
    """What `walk` found: files of the wanted formats, sorted, and all others (see `Inventory`)."""

    files: list[Path] = field(default_factory=list)
    ignored: list[tuple[Path, str]] = field(default_factory=list)
    foreign: list[tuple[Path, Format]] = field(default_factory=list)
    closed: list[tuple[Path, str]] = field(default_factory=list)

    @property
    def text(self) -> str:
        """What there is, counted by kind."""
        told = [reason for _, reason in self.ignored] + [known.name for _, known in self.foreign]
        return counted(told + [reason for _, reason in self.closed])


def counted(reasons: Iterable[str]) -> str:
    """Equal reasons with their number, most frequent first."""
    return "; ".join(f"{count} {reason}" for reason, count in Counter(reasons).most_common())


def some_of(names: Sequence[str]) -> str:
    """The first names of many."""
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def require_whole(inventory: Inventory) -> None:
    """Raise DataError, naming them, if files of cases are not on this machine or folders cannot be looked into."""
    absent = [f"{case.path}: {reason}" for case in inventory.cases if (reason := why_absent(case.path))]
    absent += [f"{path}: {reason}" for path, reason in inventory.closed]
    if absent:
        listed = "".join(f"\n  {text}" for text in absent[:NAMED]) + ("\n  …" if len(absent) > NAMED else "")
        raise DataError(
            f"{inventory.root}: {len(absent)} files or folders cannot be read:{listed}",
            why="going on with the others would drop them in silence",
            hint=f"fetch them, or move them out of the folder; `wdm verify {inventory.root}` lists them all",
        )


def walk(root: Path, suffixes: tuple[str, ...] = NIFTI) -> Listing:
    """All files of a format below a folder, and what else is there.

    Links are followed, to folders too, but nothing is read twice: neither in loops, nor under two links. A link that
    leads nowhere is a file like others, so that whoever reads it says what is missing. Hidden files and folders,
    `.partial` among them, and what wdm itself writes beside volumes are passed over without a word. Of x.nii and
    x.nii.gz side by side the latter is taken.

    Raises:
        DataError: the folder is missing or not a folder.
    """
    if not root.is_dir():
        raise DataError(f"{root}: {'is a file, not a folder' if root.exists() else 'no such folder'}")
    listing = Listing()
    for folder, names in _folders(root, listing):
        _sort_out(folder, names, suffixes, listing)
    listing.files = _once(listing)
    return listing


def list_files(paths: Sequence[Path], suffixes: tuple[str, ...] = NIFTI) -> Listing:
    """Files that a user named, as `walk` finds those of a folder.

    Raises:
        DataError: one is missing.
    """
    listing = Listing()
    for path in paths:
        if not path.exists() and not path.is_symlink():
            raise DataError(f"{path}: no such file or folder")
        _sort_out(path.parent, [path.name], suffixes, listing)
    return listing


def _folders(root: Path, listing: Listing) -> Iterator[tuple[Path, list[str]]]:
    """Every visible folder once, with the names of its files: first the folder's own, then those behind links."""
    seen: set[tuple[int, int]] = set()
    above = {_identity(folder) for folder in root.resolve().parents}

    def unreadable(error: OSError) -> None:
        listing.closed.append((Path(error.filename), f"cannot be opened ({error.strerror})"))

    waiting = [root]
    while waiting:
        links: list[Path] = []
        for start in waiting:
            identity = _identity(start)
            if start != root and (identity in seen or identity in above):
                where = "above this one" if identity in above else "that is read already"
                listing.ignored.append((start, f"link to a folder {where}"))
                continue
            for folder, folders, names in os.walk(start, onerror=unreadable):
                here = Path(folder)
                visible = sorted(name for name in folders if not name.startswith("."))
                if (identity := _identity(here)) in seen:
                    folders.clear()
                    continue
                seen.add(identity)
                folders[:] = [name for name in visible if not (here / name).is_symlink()]
                links += [here / name for name in visible if name not in folders]
                yield here, sorted(names)
        waiting = sorted(links)


def _identity(path: Path) -> tuple[int, int]:
    facts = path.stat()
    return facts.st_dev, facts.st_ino


def _sort_out(folder: Path, names: list[str], suffixes: tuple[str, ...], listing: Listing) -> None:
    """Put every file of a folder where it belongs."""
    visible = [name for name in map(_waiting, names) if not name.startswith(".")]
    beside, present, dicom = {name.lower() for name in visible}, set(names), None
    for name in visible:
        path, suffix, known = folder / name, suffix_of(name), format_of(name)
        if is_own(path):
            continue
        if suffix in suffixes:
            if suffix == ".nii" and f"{name}.gz" in present:
                listing.ignored.append((path, "the same name exists as .nii.gz"))
            else:
                listing.files.append(path)
        elif has_header(name, beside):
            listing.ignored.append((path, "voxels of the header beside them"))
        elif known:
            if known.sure:
                listing.foreign.append((path, known))
            else:
                listing.ignored.append((path, f"{known.name} ({suffix}): {known.remedy}"))
        elif is_company(name):
            listing.ignored.append((path, COMPANY))
        elif path.is_symlink() and not path.exists():
            listing.closed.append((path, f"link to {path.readlink()}, which is not there"))
        else:
            dicom = _is_dicom(path) if dicom is None else dicom  # one file of a folder is asked: archives are large
            if dicom:
                listing.foreign.append((path, DICOM))
            else:
                listing.ignored.append((path, f"not {_called(suffixes)} ({suffix or 'no suffix'})"))


def _called(suffixes: tuple[str, ...]) -> str:
    return "NIfTI" if suffixes[0] in NIFTI else suffixes[0]


def _waiting(name: str) -> str:
    """The name that a file will have once iCloud has brought it."""
    return name[1 : -len(ICLOUD)] if name.startswith(".") and name.endswith(ICLOUD) else name


def _is_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _once(listing: Listing) -> list[Path]:
    """The files found, sorted, without those that are found under another name too: links give way to files."""
    seen: set[tuple[int, int]] = set()
    taken: list[Path] = []
    for path in sorted(listing.files, key=lambda path: (path.is_symlink(), path)):
        with contextlib.suppress(OSError):  # whoever reads it says what is missing
            facts = path.stat()
            identity = facts.st_dev, facts.st_ino
            if identity in seen and (facts.st_nlink > 1 or path.is_symlink()):
                listing.ignored.append((path, "another name of a file that is read already"))
                continue
            seen.add(identity)
        taken.append(path)
    return sorted(taken)


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
    """The file's name without the ending that tells its format."""
    return path.name[: len(path.name) - len(suffix_of(path.name))]
