"""The real command line in this process: what it prints, and its exit code."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from wdm_cli.cli import console
from wdm_cli.cli.main import app


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


def wdm(*arguments: Any) -> Result:
    """Run `wdm ARGUMENTS` as the script does, errors shown and all."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            console.run(lambda: app(args=[str(a) for a in arguments], standalone_mode=False))
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            console.Verbosity.level = 0
    return Result(code, out.getvalue(), err.getvalue())


def start(*arguments: Any, group: bool = False) -> subprocess.Popen[str]:
    """`wdm ARGUMENTS` as a process of its own, or as the leader of a group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "wdm_cli", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=group,
    )


def sets(*pairs: str) -> list[str]:
    return [word for pair in pairs for word in ("--set", pair)]
