"""Several processes of one training, forked, with gloo between them."""

from __future__ import annotations

import json
import os
import socket
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from wdm_cli.engine.distributed import Place, Ranks, joined
from wdm_cli.engine.errors import WdmError

CPU = torch.device("cpu")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def together(world: int, folder: Path, work: Callable[[Ranks], Any]) -> list[Any]:
    """What `work` returns (as JSON) in each process; for one that failed [class, message, exit code]."""
    port, pids = free_port(), []
    for rank in range(world):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside threads; there are none
            pids.append(os.fork())
        if pids[-1] == 0:
            try:
                torch.set_num_threads(1)
                result: Any
                try:
                    with joined(Place(rank, world, rank, f"127.0.0.1:{port}"), CPU) as ranks:
                        result = work(ranks)
                except WdmError as error:
                    result = [type(error).__name__, str(error), error.exit_code]
                except BaseException:  # noqa: BLE001
                    result = ["bug", traceback.format_exc(), 1]
                (folder / f"result_{rank}").write_text(json.dumps(result))
            finally:
                os._exit(0)
    for pid in pids:
        os.waitpid(pid, 0)
    files = [folder / f"result_{rank}" for rank in range(world)]
    return [json.loads(path.read_text()) if path.exists() else None for path in files]
