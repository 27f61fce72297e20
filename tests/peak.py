"""Peak memory of this process that can be started anew.

Not ru_maxrss: that one never falls, and a child inherits it from the process that started it, so a test that
compares it before and after proves nothing in a process that was large once.
"""

from pathlib import Path


def reset() -> int:
    """Forget the peak so far; returns the memory held now, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> int:
    """The largest resident memory since the last reset, in bytes."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) * 1024
