"""metrics.csv of a run: losses over the steps, written while training and read for curves."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wdm_cli.engine.errors import DataError, ResourceError
from wdm_cli.engine.files import read_text, write_error, write_text
from wdm_cli.engine.train import TrainStep

BEFORE, AFTER = ("step", "loss"), ("grad_norm", "lr", "seconds", "skipped")


def columns_of(losses: Sequence[str]) -> tuple[str, ...]:
    """The header of a run whose losses have these names."""
    return (*BEFORE, *(f"loss_{name}" for name in losses), *AFTER)


def read_metrics(path: Path) -> dict[str, NDArray[np.float64]]:
    """Columns by name, [n] each; empty ones while nothing is logged yet. Lines that a kill left unfinished are dropped.

    Raises:
        DataError: the file is there but cannot be read.
    """
    try:
        header, lines = _lines(path)
    except FileNotFoundError:
        header, lines = [], []
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    rows = []
    for cells in lines:
        with contextlib.suppress(ValueError):  # half a line
            rows.append([float(cell) for cell in cells])
    header = header or list(columns_of(()))
    table = np.array(rows, np.float64).reshape(-1, len(header))
    return {name: table[:, index] for index, name in enumerate(header)}


def losses_in(metrics: Mapping[str, object]) -> list[str]:
    """The names of a run's losses, from the columns of its metrics.csv."""
    return [name.removeprefix("loss_") for name in metrics if name.startswith("loss_")]


def _lines(path: Path) -> tuple[list[str], list[list[str]]]:
    """The header (empty if there is none) and the whole rows below it."""
    rows = list(csv.reader(read_text(path, "replace").splitlines()))
    header = rows[0] if rows and rows[0][:2] == list(BEFORE) else []
    return header, [row for row in rows if len(row) == len(header) and row[0].isdecimal()]


class MetricsLog:
    """metrics.csv: a row every `log_every` steps, means over the steps since the last row."""

    def __init__(self, path: Path, losses: Sequence[str]) -> None:
        self.path, self.columns = path, columns_of(losses)
        self.records: list[TrainStep] = []

    def __enter__(self) -> MetricsLog:
        try:
            new = not self.path.exists() or not self.path.stat().st_size
            self.file = self.path.open("a", newline="", encoding="utf-8")
        except OSError as error:
            raise write_error(self.path, error) from error
        self.writer = csv.writer(self.file)
        if new:
            self.writer.writerow(self.columns)
        return self

    def __exit__(self, kind: type | None, *exception: object) -> None:
        try:
            self.flush()
        except ResourceError:
            if kind is None:  # else the first error is the one to show
                raise
        finally:
            with contextlib.suppress(OSError):
                self.file.close()

    def add(self, record: TrainStep, every: int) -> None:
        self.records.append(record)
        if record.step % every == 0:
            self.flush()

    def flush(self) -> None:
        if not self.records:
            return
        good = [r for r in self.records if not r.skipped]
        count, last = max(1, len(good)), self.records[-1]
        losses = [sum(r.losses[i] for r in good) / count for i in range(len(last.losses))]
        row = [sum(losses) / len(losses), *losses, sum(r.grad_norm for r in good) / count]
        seconds = sum(r.seconds for r in self.records) / len(self.records)
        cells = [
            last.step,
            *(f"{v:.6g}" for v in row),
            f"{last.lr:.6g}",
            f"{seconds:.4f}",
            len(self.records) - len(good),
        ]
        try:
            if not self.path.exists():  # somebody removed the folder: what follows is kept at least
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self.file.close()
                self.__enter__()
            self.writer.writerow(cells)
            self.file.flush()
        except OSError as error:
            raise write_error(self.path, error) from error
        self.records = []


def truncate_metrics(path: Path, step: int) -> None:
    """Drop the rows beyond `step`, whose steps will be taken again, and what a kill left half written."""
    if not path.exists():
        return
    header, rows = _lines(path)
    text = io.StringIO()
    csv.writer(text).writerows([header, *(row for row in rows if int(row[0]) <= step)] if header else [])
    write_text(path, text.getvalue())
