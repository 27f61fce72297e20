"""Which files of a folder are cases of a data set, and what to say of the others. No torch, no numpy."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from wdm_cli.engine.data.formats import NIFTI
from wdm_cli.engine.data.inventory import Case, Inventory, list_files, named, some_of, stem, walk
from wdm_cli.engine.data.labelmaps import BY_NAME, TAKE, by_name
from wdm_cli.engine.data.split import part_of
from wdm_cli.engine.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Layout(ABC):
    """Where volumes lie and which of them are wanted.

    dir: the folder, searched at any depth and never written to.
    part: `all` cases, or those that the folder's split.json (`wdm split`) lists for `train` or `val`.
    label_maps: `leave` them out by name and refuse them by content, or `take` them as volumes like others.
    """

    kind: str
    dir: str
    part: Literal["all", "train", "val"] = "all"
    label_maps: Literal["leave", "take"] = "leave"

    layout: ClassVar[str] = ""
    suffixes: ClassVar[tuple[str, ...]] = NIFTI
    unlike: ClassVar[str] = "not named as in the layout"

    @classmethod
    @abstractmethod
    def recognises(cls, path: Path) -> bool:
        """Whether a file is named as in this layout."""

    @classmethod
    def count(cls, files: Sequence[Path]) -> int:
        """How many of these files follow the layout, cases or not."""
        return sum(map(cls.recognises, files))

    @abstractmethod
    def case(self, path: Path) -> tuple[str, str]:
        """(name, "") if a file is a case of this data set, else ("", the reason why not)."""

    def find(self, root: Path) -> Inventory:
        """All cases below a folder, at any depth, or the wanted part of them.

        Raises:
            DataError: no such folder, or no case in it; says what was expected and what is there. Or the split
                of the folder is missing or does not fit.
        """
        try:
            listing = walk(root, self.suffixes)
        except DataError as error:
            raise DataError(error.what, why="volumes are looked for below a folder", hint="check the path") from None
        found, ignored = [], listing.ignored
        for path in listing.files:
            name, reason = self.named_case(path, root)
            if reason:
                ignored.append((path, reason))
            else:
                found.append((name, path))
        notes = self.notes(listing.files, [path for _, path in found], ignored)
        unread = tuple(listing.foreign), tuple(listing.closed)
        inventory = Inventory(root, named(found, root), tuple(sorted(ignored)), *unread, notes)
        if not found:
            there = f"only: {listing.text}" if listing.text else "nothing in it"
            raise DataError(
                f"{root}: no volume found, taken as {self.kind}; there is {there}",
                why=f"expected {self.layout}",
                hint=self.advice(inventory),
            )
        if self.part == "all":
            return inventory
        part = part_of(inventory, self.part)
        return replace(inventory, cases=part.cases, ignored=part.ignored)

    def pick(self, paths: Sequence[Path]) -> Inventory:
        """Files that a user named: each is a case, whatever its contrast or name, or closed with the reason.

        Raises:
            DataError: one is missing.
        """
        listing = list_files(paths, self.suffixes)
        told = [(path, by_name(path, path.parent)) for path in listing.files]
        wanted = [path for path, reason in told if self.label_maps == "take" or not reason]
        no_image = [(path, reason) for path, reason in told if self.label_maps == "leave" and reason]
        closed = tuple(sorted(listing.ignored + listing.closed + no_image))
        typed = {path.absolute(): path for path in wanted}
        root = Path(os.path.commonpath([path.absolute().parent for path in paths]))
        names = [(path.parent.name if self.kind == "lidc-idri" else stem(path), path) for path in typed]
        cases = [Case(case.name, typed[case.path]) for case in named(names, root)]
        return Inventory(root, tuple(cases), (), tuple(listing.foreign), closed)

    def named_case(self, path: Path, root: Path) -> tuple[str, str]:
        """`case`, but for files that are label maps or masks by their names."""
        told = by_name(path, root) if self.label_maps == "leave" else ""
        return ("", told) if told else self.case(path)

    def notes(
        self, files: Sequence[Path], taken: Sequence[Path], ignored: Sequence[tuple[Path, str]]
    ) -> tuple[str, ...]:
        """What a user should know of a folder with cases: who lacks the wanted file, and whether most is left."""
        told = [text] if (text := self.incomplete(files, taken)) else []
        strange = sum(reason == self.unlike for _, reason in ignored)
        if strange > len(taken):
            others = "--dataset nifti takes NIfTI files of any name" if self.suffixes == NIFTI else "they are left out"
            told.append(
                f"taken as {self.kind}: {len(taken)} of {len(taken) + strange} volumes are cases, "
                f"the others {self.unlike}; {others}"
            )
        return tuple(told)

    def subject(self, path: Path) -> str:
        """Whom a file shows, by its name, whatever it holds; nothing where names do not tell."""
        return ""

    def incomplete(self, files: Sequence[Path], taken: Sequence[Path]) -> str:
        """A sentence that names the subjects of whom there are files, but none of those that are taken; or nothing."""
        lacking = sorted(set(map(self.subject, files)) - set(map(self.subject, taken)) - {""})
        if not lacking:
            return ""
        cases = "1 case has" if len(lacking) == 1 else f"{len(lacking)} cases have"
        return f"{cases} {self.lacks}: {some_of(lacking)}"

    @property
    def lacks(self) -> str:
        """What `incomplete` says of those whom it names, after 'N cases have'."""
        return "other files but none that is taken"

    def advice(self, inventory: Inventory) -> str:
        """What to type when a folder holds no case."""
        if inventory.foreign:
            from wdm_cli.engine.data.remedies import remedies

            return "; ".join(text for text, _ in remedies(inventory.foreign, inventory.root))
        reasons = inventory.reasons()
        if BY_NAME in reasons:
            return f"if they are wanted, or scans of such a name: `wdm train`, `verify` and `split` take --set {TAKE}"
        if self.kind != "nifti" and self.unlike in reasons and self.suffixes == NIFTI:
            return "--dataset nifti takes NIfTI files of any name"
        return ""
