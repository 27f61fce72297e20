"""Stopping a long job politely: signals and time limits ask, the job finishes its step and saves."""

from __future__ import annotations

import signal
import time
from collections.abc import Generator
from types import FrameType, TracebackType
from typing import Any, TypeVar

from wdm_cli.cli import console
from wdm_cli.engine.data.parallel import ASKING
from wdm_cli.engine.errors import ResourceError, Stopped

Record = TypeVar("Record")
Result = TypeVar("Result")


def asking() -> tuple[signal.Signals, ...]:
    """The signals that ask for an end; not a hangup that is ignored from the start on, as under nohup."""
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return tuple(number for number in ASKING if not (ignored and number == signal.SIGHUP))


class StopRequest:
    """Callable that says whether to stop; a signal that asks for it or `max_hours` set it.

    A second Ctrl-C interrupts at once (exit 130). `then`: what happens next, for the message.
    """

    def __init__(self, then: str, max_hours: float | None = None) -> None:
        self.then = then
        self.reason = ""
        self.deadline = time.monotonic() + max_hours * 3600 if max_hours else None
        self._before: dict[signal.Signals, Any] = {}

    def __call__(self) -> bool:
        if not self.reason and self.deadline is not None and time.monotonic() >= self.deadline:
            self.reason = "time limit"
        return bool(self.reason)

    def __enter__(self) -> StopRequest:
        for number in asking():
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.reason and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.reason = signal.Signals(number).name
        console.urgent(f"{self.reason}: {self.then}")


def until_asked(steps: Generator[Record, None, Result]) -> Generator[Record, None, Result]:
    """The records of a job that keeps what it has finished, until a signal asks for its end.

    Raises:
        Stopped: a signal asked.
    """
    with StopRequest("stopping after what is in work") as stop:
        try:
            while not stop():
                try:
                    record = next(steps)
                except StopIteration as end:
                    return end.value  # type: ignore[no-any-return]
                yield record
        except ResourceError:  # a signal to the whole group ends the workers too
            if not stop():
                raise
        finally:
            steps.close()
    raise Stopped(
        f"stopped by {stop.reason}; what is finished is kept", hint="run the same command again to make the rest"
    )
