"""One function over many files, in several processes; a bad file does not stop the others."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from wdm_cli.engine.errors import DataError, ResourceError

ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGXCPU)
"""Signals that ask for an end: Ctrl-C, schedulers (any of four) and a terminal that closes."""
Job = TypeVar("Job")
Result = TypeVar("Result")


def run(
    function: Callable[[Job], Result], jobs: Sequence[Job], workers: int
) -> Iterator[tuple[int, Result | DataError]]:
    """Yield (index of the job, its result or DataError) as jobs finish.

    Args:
        function: at the top level of a module, because workers are fresh processes (spawn is safe beside threads).
        workers: processes; 1 or less works in this one.

    Raises:
        Whatever else the function raises, at once; ResourceError if a worker is killed.
    """
    if min(workers, len(jobs)) <= 1:
        for index, job in enumerate(jobs):
            yield index, _guarded(function, job)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context, initializer=_start_worker)
    try:
        futures = {pool.submit(_guarded, function, job): index for index, job in enumerate(jobs)}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise ResourceError(
            "a worker process ended without a word, most often for lack of memory",
            hint="use fewer workers; what is finished is kept, the same command continues",
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _guarded(function: Callable[[Job], Result], job: Job) -> Result | DataError:
    try:
        return function(job)
    except DataError as error:
        return error


def _start_worker() -> None:
    """Leave what asks for an end to the parent, which stops the workers (with SIGTERM, if it must).

    End at once when the parent was killed.
    """
    for number in set(ASKING) - {signal.SIGTERM}:
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
