"""Standard output and error that never end the work: whatever their encoding, full, closed, or with the reader gone."""

from __future__ import annotations

import codecs
import io
import os
import select
import sys
from typing import TextIO

PLAIN = "wdm-plain"  # what the stream's encoding lacks is written in other signs
SIGNS = {
    "×": "x", "÷": "/", "…": "...", "·": "-", "—": "-", "–": "-", "−": "-", "→": "->", "≠": "!=", "≤": "<=", "≥": ">=",
    "±": "+-", "²": "^2", "³": "^3", "½": "1/2", "μ": "u", "µ": "u", "°": " degrees", "“": '"', "”": '"', "’": "'",
}  # fmt: skip


def _in_other_signs(error: UnicodeError) -> tuple[str | bytes, int]:
    """Error handler of codecs: signs of SIGNS; the bytes of a file name that is no UTF-8, as they are; else escapes."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    sign = error.object[error.start]
    if "\udc80" <= sign <= "\udcff" and not error.encoding.lower().startswith(("utf-16", "utf-32")):
        return bytes([ord(sign) - 0xDC00]), error.start + 1
    plain = SIGNS.get(sign) or sign.encode("ascii", "backslashreplace").decode()
    return plain, error.start + 1


codecs.register_error(PLAIN, _in_other_signs)


class _Tireless(io.FileIO):
    """A file that takes everything; `failure` is the first reason why something did not arrive."""

    failure: OSError | None = None

    def write(self, data: object) -> int:
        """The bytes that went out, or would have."""
        whole = len(memoryview(data))  # type: ignore[arg-type]
        if self.failure is None:
            try:
                while (written := super().write(data)) is None:  # type: ignore[arg-type]
                    select.select([], [self], [])  # somebody made the terminal non-blocking
                return written
            except OSError as error:
                self.failure = error
        return whole


def harden() -> None:
    """Replace sys.stdout and sys.stderr by streams that fail in silence; `lost` says whether the answer arrived."""
    _occupy()
    sys.stdout = _open(1, sys.stdout)
    sys.stderr = _open(2, sys.stderr)


def lost() -> OSError | None:
    """Why the answer, or a part of it, did not reach standard output. A reader that has left has read enough."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if not isinstance(raw, _Tireless):
        return None
    sys.stdout.flush()
    return None if isinstance(raw.failure, BrokenPipeError) else raw.failure


def _occupy() -> None:
    """Give the numbers 0, 1 and 2 to the null device where they are closed: else the next file opened gets one.

    It is opened for reading, so that what is written to it fails as before.
    """
    while (number := os.open(os.devnull, os.O_RDONLY)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)


def _open(number: int, before: TextIO | None) -> TextIO:
    """A tireless stream in the place of another, which is None where the number was closed when Python started."""
    if before is not None:
        before.flush()
    raw = _Tireless(number, "w", closefd=False)
    encoding = before.encoding if before else "utf-8"
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors=PLAIN, line_buffering=True)
