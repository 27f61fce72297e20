"""Who makes which sample, when several processes fill one folder.

Sample i is claimed by a POSIX record lock on byte i + 1 of OUT/.lock; byte 0 guards what they all write to.
The kernel drops the locks of a process the moment it ends, however it ends, so there are no stale claims and
nothing to clean up. Where a file system has no locks every claim is granted: work may then be done twice, but
equal samples are equal files.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import weakref
from collections.abc import Iterator
from pathlib import Path

from wdm_cli.engine.files import write_error

TO_THE_END = 0  # as a length: all bytes from the start on


class Claims:
    """The claims of this process on a folder. Needs to be opened once a process and folder."""

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.file = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise write_error(folder, error) from error
        weakref.finalize(self, os.close, self.file)

    def take(self, index: int) -> bool:
        """Claim a sample; False if another process has it."""
        return self._lock(1 + index, 1)

    def release(self, index: int) -> None:
        self._unlock(1 + index, 1)

    @contextlib.contextmanager
    def shared_files(self) -> Iterator[None]:
        """Wait for the turn to write what all processes write to."""
        with contextlib.suppress(OSError):
            fcntl.lockf(self.file, fcntl.LOCK_EX, 1, 0)
        try:
            yield
        finally:
            self._unlock(0, 1)

    @contextlib.contextmanager
    def alone(self) -> Iterator[bool]:
        """Whether no other process has a claim; as long as it lasts none can get one."""
        granted = self._lock(1, TO_THE_END)
        try:
            yield granted
        finally:
            if granted:
                self._unlock(1, TO_THE_END)

    def _lock(self, start: int, length: int) -> bool:
        try:
            fcntl.lockf(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
        except (BlockingIOError, PermissionError):  # POSIX allows either for "taken"
            return False
        except OSError:
            pass  # a file system without locks
        return True

    def _unlock(self, start: int, length: int) -> None:
        with contextlib.suppress(OSError):
            fcntl.lockf(self.file, fcntl.LOCK_UN, length, start)
