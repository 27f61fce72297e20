"""Every error a user can cause. Each class knows the exit code of the command line.

`raise` one of these for what a user can cause; `assert` is for what only we can cause.
"""

from __future__ import annotations


class WdmError(Exception):
    """An error in three parts: what happened (naming the file or key), why it matters, what to do.

    Args:
        what: the fact, with the file, key or value in it.
        why: the rule that was broken, or the consequence.
        hint: what to type or change.
    """

    exit_code = 1

    def __init__(self, what: str, *, why: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.hint = hint

    def __str__(self) -> str:
        return "\n".join(part for part in (self.what, self.why, self.hint) if part)


class ConfigError(WdmError):
    """A command line, preset or configuration value that cannot work."""

    exit_code = 2


class DataError(WdmError):
    """Input data that cannot be used."""

    exit_code = 3


class CheckpointError(WdmError):
    """A checkpoint or weights file that cannot be used."""

    exit_code = 3


class PartialError(WdmError):
    """Work finished, but some items were skipped; they are listed."""

    exit_code = 4


class ResourceError(WdmError):
    """Something the machine lacks: a device, weights, a checksum match, the network, disk space."""

    exit_code = 5


class PeerError(WdmError):
    """Another process of the same training failed (`code`: its exit code) or was lost; it has said why, if it could."""

    def __init__(self, what: str, *, why: str = "", code: int = 5) -> None:
        super().__init__(what, why=why, hint="the same command continues from the last checkpoint")
        self.exit_code = code


class OutOfMemoryError(WdmError):
    """The device has too little memory for these settings."""

    exit_code = 6


class NonFiniteError(WdmError):
    """Training met non-finite values too often; the last good checkpoint is kept."""

    exit_code = 7


class Stopped(WdmError):
    """Stopped by a signal or time limit after a checkpoint; the same command continues."""

    exit_code = 75


class FieldError(ValueError):
    """A setting with an impossible value; `field` is its name inside its table.

    A ValueError, so that configuration validation can collect it with its full path.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def require(condition: bool, field: str, message: str) -> None:
    """Raise `FieldError` for `field` unless `condition` holds."""
    if not condition:
        raise FieldError(field, message)
