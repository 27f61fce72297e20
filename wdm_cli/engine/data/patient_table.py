"""A table that says whose the cases are: CSV or TSV with a header, such as participants.tsv of BIDS."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from pathlib import Path

from wdm_cli.engine.data.inventory import Inventory
from wdm_cli.engine.data.names import below, index, tidy
from wdm_cli.engine.errors import DataError
from wdm_cli.engine.files import read_text

PATIENT_COLUMNS = ("participant_id", "patient_id", "patient", "participant", "subject_id", "subject", "ptid", "sub")
CASE_COLUMNS = ("case", "case_id", "file", "filename", "file_name", "path", "filepath", "image", "image_id", "scan",
                "scan_id", "volume", "name")  # fmt: skip
Row = tuple[str, str]


def by_table(inventory: Inventory, path: Path) -> tuple[dict[str, str], tuple[str, ...]]:
    """Case -> patient, and what the table names that is no case of the folder.

    The columns are found by name, whatever their case: the patient is PATIENT_COLUMNS, the case or file is
    CASE_COLUMNS (a case's name, its file, or its path below the folder). A table without the latter (participants.tsv)
    lists patients: a case is of the one whose name stands in its path.

    Raises:
        DataError: no such table, no column of patients, a case of two patients, or one without a patient; named.
    """
    rows, has_cases = read_table(path)
    if has_cases:
        found, unused = _by_case(inventory, rows, path)
    else:
        found, unused = _by_mention(inventory, [patient for _, patient in rows])
    if missing := [case for case in inventory.cases if case.name not in found]:
        raise DataError(
            f"{path}: names no patient for {len(missing)} of {len(inventory.cases)} cases, e.g. {missing[0].name}",
            why="every case needs a patient",
            hint="add a row with the case's name, file or path below DIR; for names with a rule: --patient REGEX",
        )
    return found, unused


def read_table(path: Path) -> tuple[list[Row], bool]:
    """(case or "", patient) of every row, and whether the table has a column of cases; raises as `by_table` does."""
    try:
        lines = read_text(path, "surrogateescape").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--patients {path}: cannot be read as a table: {error}") from error
    header = lines[0] if lines else ""
    delimiter = max("\t;,", key=header.count)
    table = list(csv.reader(lines, delimiter=delimiter))
    columns = [_plain(cell) for cell in table[0]] if table else []
    patient, case = (_column(columns, names) for names in (PATIENT_COLUMNS, CASE_COLUMNS))
    if patient is None:
        raise DataError(
            f"--patients {path}: has no column of patients; its header is: {header[:200]}",
            why=f"the column is found by its name: {', '.join(PATIENT_COLUMNS)}",
            hint=f"name the columns patient and case (or {', '.join(CASE_COLUMNS[2:5])}, …)",
        )
    rows = []
    for number, cells in enumerate(table[1:], start=2):
        if not any(cell.strip() for cell in cells):
            continue
        least = max(patient, case if case is not None else 0)
        row = (
            (cells[case].strip() if case is not None else "", cells[patient].strip())
            if len(cells) > least
            else ("", "")
        )
        if not row[1] or (case is not None and not row[0]):
            raise DataError(f"--patients {path}: line {number} names no {'patient' if not row[1] else 'case'}")
        rows.append(row)
    return rows, case is not None


def _by_case(inventory: Inventory, rows: Iterable[Row], table: Path) -> tuple[dict[str, str], tuple[str, ...]]:
    known, found, unused = index(inventory), dict[str, str](), []
    for text, patient in rows:
        cases = known.get(tidy(text, inventory.root), [])
        if len(cases) > 1:
            raise DataError(
                f"--patients {table}: {text} is the name of {len(cases)} files",
                hint="give their paths below DIR instead",
            )
        if not cases:
            unused.append(text)
        for case in cases:
            if found.setdefault(case.name, patient) != patient:
                raise DataError(f"--patients {table}: {text} is of two patients, {found[case.name]} and {patient}")
    return found, tuple(unused)


def _by_mention(inventory: Inventory, patients: Iterable[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """The longest of the patients whose name stands in a case's path, not as a part of a longer word or number."""
    longest = sorted(set(patients), key=len, reverse=True)
    wanted = [(patient, re.compile(rf"(?<![A-Za-z0-9]){re.escape(patient)}(?![A-Za-z0-9])")) for patient in longest]
    found: dict[str, str] = {}
    for case in inventory.cases:
        text = f"{below(case, inventory.root)} {case.name}"
        patient = next((patient for patient, pattern in wanted if pattern.search(text)), None)
        if patient is not None:
            found[case.name] = patient
    return found, tuple(sorted(set(longest) - set(found.values())))


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.casefold())


def _column(columns: list[str], names: Iterable[str]) -> int | None:
    return next((columns.index(_plain(name)) for name in names if _plain(name) in columns), None)
