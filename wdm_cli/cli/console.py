"""The only place that prints. stdout carries the answer; progress, notes and errors go to stderr."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn, TextIO

import typer

from wdm_cli.cli import streams
from wdm_cli.engine.errors import ConfigError, NonFiniteError, PeerError, ResourceError, Stopped, WdmError

SAID_BY_THE_FIRST = (ConfigError, NonFiniteError, PeerError, Stopped)  # all processes of a training raise these alike
LINE_INTERVAL = 60.0  # seconds between progress lines where there is no terminal


class Verbosity:
    """-q hides notes and progress, -v adds details. Of several processes only that of rank 0 speaks."""

    level = 0
    rank = 0


def answer(text: str) -> None:
    """A line of the answer, to stdout."""
    _write(text, sys.stdout)


def answer_json(value: Any) -> None:
    _write(json.dumps(value, indent=2), sys.stdout)


def _write(text: str, stream: TextIO) -> None:
    print(text, file=stream, flush=True)


def urgent(text: str) -> None:
    """A note from a signal handler: past the buffers, in which the interrupted code may be writing."""
    if Verbosity.level >= 0:
        with contextlib.suppress(OSError):
            os.write(2, f"\n{text}\n".encode(sys.stderr.encoding or "utf-8", streams.PLAIN))


def note(text: str) -> None:
    """What the user should know while waiting; hidden by -q."""
    if Verbosity.level >= 0:
        _write(text, sys.stderr)


def detail(text: str) -> None:
    """Shown with -v only."""
    if Verbosity.level > 0:
        _write(text, sys.stderr)


def warn(text: str) -> None:
    """Always shown, once."""
    if not Verbosity.rank:
        _write(f"warning: {text}", sys.stderr)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "") -> None:
    """A table of the answer: drawn with rich on a terminal, tab-separated elsewhere."""
    if not sys.stdout.isatty():
        _write("\n".join("\t".join(str(cell) for cell in row) for row in [columns, *rows]), sys.stdout)
        return
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    drawn = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left")
    for column in columns:
        drawn.add_column(column, overflow="fold")
    for row in rows:
        drawn.add_row(*(escape(str(cell)) for cell in row))
    Console().print(drawn)


class Progress:
    """Progress of a long job: a bar with ETA on a terminal, a timed line once a minute elsewhere."""

    def __init__(self, what: str, total: int, done: int = 0) -> None:
        self.what, self.total, self.done = what, total, done
        self._first, self._started = done, time.monotonic()
        self._last_line = self._started
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty() and Verbosity.level >= 0:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[info]}", markup=False),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task(self.what, total=self.total, completed=self.done, info="")
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self.done > self._first:
            self._line("")

    def update(self, done: int, info: str = "") -> None:
        """Set the count of finished items; `info` is shown behind the bar."""
        self.done = done
        if self._bar is not None:
            self._bar.update(self._task, completed=done, info=f"{info}  ETA {self.eta()}")
        elif time.monotonic() - self._last_line >= LINE_INTERVAL:
            self._line(info)

    def start_at(self, done: int) -> None:
        """Items that were finished before this run; they do not count for the rate."""
        self.done = self._first = done
        self._started = time.monotonic()

    def eta(self) -> str:
        """Remaining time at the mean rate so far, and for longer jobs when that will be."""
        made = self.done - self._first
        if not made:
            return "?"
        left = (time.monotonic() - self._started) / made * (self.total - self.done)
        if left < 120:
            return duration(left)
        finish = time.localtime(time.time() + left)
        return f"{duration(left)}, done {time.strftime('%H:%M' if left < 43200 else '%a %d %b %H:%M', finish)}"

    def _line(self, info: str) -> None:
        self._last_line = time.monotonic()
        share = 100 * self.done / max(1, self.total)
        tail = f" ETA {self.eta()}" if self.done < self.total else f" in {duration(self._last_line - self._started)}"
        note(f"{self.what} {self.done:,}/{self.total:,} {share:.1f}% {info}".rstrip() + tail)


def duration(seconds: float) -> str:
    """1234.5 -> '20m 34s'; days and hours for long runs."""
    whole = round(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days}d {hours}h"
    if hours:
        return f"{hours}h {minutes:02}m"
    return f"{minutes}m {whole % 60:02}s" if minutes else f"{seconds:.1f}s"


def size(count: float) -> str:
    """Bytes for people: 1.2 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit in ("B", "kB") else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


@contextlib.contextmanager
def errors_shown() -> Iterator[None]:
    """Turn what can go wrong in a command into a message and an exit code."""
    try:
        yield
    except WdmError as error:
        fail(error)
    except typer.TyperException as error:  # a mistake on the command line; without a message its help was shown
        if text := error.format_message():
            command = getattr(getattr(error, "ctx", None), "command_path", "wdm")
            fail(ConfigError(text, hint=f"{command} --help"))
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        note("interrupted")
        raise SystemExit(130) from None


def fail(error: WdmError) -> NoReturn:
    """Print `error: what / why / hint` and exit with the error's code."""
    if os.environ.get("WDM_DEBUG"):
        traceback.print_exception(error)
    if Verbosity.rank and isinstance(error, SAID_BY_THE_FIRST):
        raise SystemExit(error.exit_code)
    _write(f"error{f' in process {Verbosity.rank}' if Verbosity.rank else ''}: {error.what}", sys.stderr)
    if error.why:
        _write(f"  why: {error.why}", sys.stderr)
    if error.hint:
        _write(f"  try: {error.hint}", sys.stderr)
    raise SystemExit(error.exit_code)


def run(command: Callable[[], object]) -> None:
    """Run the whole command line with errors shown; an int it returns is the exit code.

    Where the answer cannot be written the work is done all the same, and said in the end.
    """
    with errors_shown():
        try:
            code = command()
        except (WdmError, typer.TyperException):  # the latter after a help
            if failure := streams.lost():  # the exit code is the error's
                warn(f"cannot write to standard output: {failure.strerror}; the answer is incomplete")
            raise
        if isinstance(code, int) and code:
            raise SystemExit(code)
        if failure := streams.lost():
            raise ResourceError(
                f"cannot write to standard output: {failure.strerror}",
                why="the work is done, but its answer did not arrive",
                hint="the same command with its output sent to a file on a disk with space, or to a terminal",
            )
