"""Stopping a long job politely: signals and time limits ask, the job finishes its step and saves."""

from __future__ import annotations

import signal
import time
from types import FrameType, TracebackType
from typing import Any

from wdm_cli.cli import console


class StopRequest:
    """Callable that says whether to stop; SIGINT, SIGTERM, SIGUSR1 or `max_hours` set it.

    A second Ctrl-C interrupts at once (exit 130). `then`: what happens next, for the message.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

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
        for number in self.SIGNALS:
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
