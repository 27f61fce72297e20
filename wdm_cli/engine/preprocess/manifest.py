"""manifest.jsonl: one line a case, appended when its files are complete, so an interrupted run can go on."""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wdm_cli.engine.dicom.series import Verdict
from wdm_cli.engine.files import write_error

VERDICTS: tuple[Verdict, ...] = ("accepted", "repaired", "skipped", "ignored")


@dataclass(frozen=True)
class Entry:
    """What became of the files of one case, or of files that are none.

    source: hash that identifies the input. files: how many input files. output: the volume, relative to the folder.
    where: an input file as the user knows it, for the report; never written to the manifest, since
    folder names often hold patients' names.
    """

    case: str
    verdict: Verdict
    source: str
    files: int
    patient: str = ""
    reasons: tuple[str, ...] = ()
    repairs: tuple[str, ...] = ()
    output: str = ""
    sha256: str = ""
    bytes: int = 0
    seconds: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)
    where: str = dataclasses.field(default="", compare=False)

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the manifest: empty fields but the first left out, facts among the others."""
        values = dataclasses.asdict(self)
        facts = values.pop("facts")
        del values["where"]
        return {**{k: v for k, v in values.items() if k == "case" or v not in ("", (), 0)}, **facts}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Entry:
        names = {f.name for f in dataclasses.fields(cls)}
        own: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in names}
        return cls(**own, facts={k: v for k, v in values.items() if k not in names})


class Manifest:
    """The manifest of an output folder; of several lines about one source the last one counts."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "manifest.jsonl"
        self.entries: dict[str, Entry] = {}
        for line in self.path.read_bytes().splitlines() if self.path.exists() else ():
            try:
                entry = Entry.from_dict(json.loads(line))
            except (ValueError, TypeError):
                continue  # the beginning of a line that was being written when the machine went down
            self.entries[entry.source] = entry

    def finished(self, source: str, files: Sequence[Path]) -> Entry | None:
        """The entry of a case that is done: as many input files, none younger than its output, which is there."""
        entry = self.entries.get(source)
        if entry is None or not entry.output or entry.files != len(files):
            return None
        try:
            output = (self.path.parent / entry.output).stat()
            youngest = max(path.stat().st_mtime_ns for path in files)
        except OSError:
            return None
        return entry if output.st_size == entry.bytes and output.st_mtime_ns >= youngest else None

    def record(self, entry: Entry) -> None:
        """Append a line, flushed to disk; nothing if the last line about the source says the same."""
        last = self.entries.get(entry.source)
        if last is not None and last.to_dict() == entry.to_dict():
            return
        line = json.dumps(entry.to_dict()).encode() + b"\n"
        try:
            with self.path.open("ab+") as file:
                if file.tell() and not _ends_line(file):
                    line = b"\n" + line
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise write_error(self.path, error) from error
        self.entries[entry.source] = entry


def _ends_line(file: Any) -> bool:
    file.seek(-1, os.SEEK_END)
    return bool(file.read(1) == b"\n")


def tally(entries: Iterable[Entry]) -> dict[Verdict, tuple[int, int]]:
    """Cases and files of every verdict."""
    cases: Counter[Verdict] = Counter()
    files: Counter[Verdict] = Counter()
    for entry in entries:
        cases[entry.verdict] += 1
        files[entry.verdict] += entry.files
    return {verdict: (cases[verdict], files[verdict]) for verdict in VERDICTS}
