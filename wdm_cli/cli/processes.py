"""Several processes of one command: started here (--gpus N), by torchrun, or by a cluster's own launcher.

A process learns its place from the variables that torchrun sets: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and
MASTER_PORT. Only the first speaks.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from wdm_cli.cli import console
from wdm_cli.cli.stop import asking
from wdm_cli.engine.errors import ConfigError, ResourceError

if TYPE_CHECKING:
    import torch

    from wdm_cli.engine.distributed import Place

LEASH = "WDM_LEASH"  # set for processes whose standard input closes when the one that started them ends
PAUSE = 0.05  # seconds between two looks at the processes
PATIENCE = 15.0, 120.0  # seconds after one failed until the others get SIGTERM, and until SIGKILL


def place(environment: Mapping[str, str]) -> Place | None:
    """Where among several processes this one stands; None if it is the only one. The others fall silent.

    Raises:
        ConfigError: a variable is missing or no number.
    """
    if int_of(environment, "WORLD_SIZE", 1) == 1:
        return None
    from wdm_cli.engine.distributed import Place

    world, rank = int_of(environment, "WORLD_SIZE"), int_of(environment, "RANK")
    local, port = int_of(environment, "LOCAL_RANK", rank), int_of(environment, "MASTER_PORT", 29500)
    if not 0 <= rank < world or local < 0 or not 0 < port < 65536:
        raise ConfigError(f"RANK={rank} WORLD_SIZE={world} LOCAL_RANK={local} MASTER_PORT={port}: no such process")
    if rank:
        console.Verbosity.level, console.Verbosity.rank = -1, rank
    if environment.get(LEASH):
        threading.Thread(target=_end_with_launcher, daemon=True).start()
    host = environment.get("MASTER_ADDR", "127.0.0.1")
    attempt = int_of(environment, "TORCHELASTIC_RESTART_COUNT", 0)
    return Place(rank, world, local, f"[{host}]:{port}" if ":" in host else f"{host}:{port}", attempt)


def int_of(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    """A number from the environment."""
    text = environment.get(name, default)
    if text is None:
        raise ConfigError(
            f"WORLD_SIZE says that this is one of several processes, but {name} is not set",
            hint="torchrun and --gpus set both; unset WORLD_SIZE to work alone",
        )
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"{name}={text}: must be a whole number") from None


def own_device(name: str, place: Place | None) -> torch.device:
    """The device of this process: with several, the GPU with its number on the machine."""
    import torch

    from wdm_cli.engine.device import choose_device

    if place is None or name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return choose_device(name)
    if name not in ("auto", "cuda"):
        raise ConfigError(f"--device {name}: each of {place.world} processes takes a GPU of its own", hint="leave it")
    # a cluster may show every process its own GPU only
    return choose_device(f"cuda:{0 if torch.cuda.device_count() == 1 else place.local}")


def check_gpus(count: int, device: str, environment: Mapping[str, str]) -> None:
    """Refuse a --gpus that cannot be had.

    Raises:
        ConfigError: on the CPU, or inside torchrun. ResourceError: there are fewer GPUs.
    """
    if int_of(environment, "WORLD_SIZE", 1) > 1:
        raise ConfigError("--gpus starts processes, but this is one of several already", hint="leave --gpus away")
    if device not in ("auto", "cuda"):
        raise ConfigError(
            f"--gpus {count} with --device {device}: every process takes a GPU of its own",
            hint="leave --device away; on CPUs: torchrun --nproc_per_node N -m -- wdm_cli … --device cpu",
        )
    import torch

    if count > (found := torch.cuda.device_count()):
        raise ResourceError(f"--gpus {count}: this machine has {found}", hint="`wdm doctor` lists the devices")


def without_option(arguments: Sequence[str], *names: str) -> list[str]:
    """A command line without these options; those that end in = take a value."""
    kept, skip = [], False
    for argument in arguments:
        option, equals, _ = argument.partition("=")
        if skip:
            skip = False
        elif f"{option}=" in names:
            skip = not equals
        elif option not in names:
            kept.append(argument)
    return kept


def start_together(count: int, arguments: Sequence[str], *, needed: bool = True) -> int:
    """Run `wdm ARGUMENTS` in `count` processes on this machine; the exit code of the first that failed.

    Signals are passed on to all of them. They end, politely, when this process ends.

    Args:
        needed: when one fails the others are ended too (a training); else they go on (sampling).
    """
    # a torchrun of one process around this one keeps the meeting point of its own, not that of the processes here
    outer = {name: value for name, value in os.environ.items() if not name.startswith("TORCHELASTIC_")}
    environment = outer | {
        LEASH: "1",
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count))),
    }
    if Path("/sys/class/net/lo").exists():  # the machine's own name may lead anywhere
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
    command = [sys.executable, "-m", "wdm_cli", *arguments]
    children: list[subprocess.Popen[bytes]] = []
    with _passing_signals_on(children):
        for rank in range(count):
            own = environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            # in sessions of their own: Ctrl-C reaches them through this process alone
            children.append(subprocess.Popen(command, stdin=subprocess.PIPE, env=own, start_new_session=True))
        try:
            return _wait(children, needed)
        finally:
            for child in children:
                child.kill()
                if child.stdin:
                    child.stdin.close()


def _wait(children: Sequence[subprocess.Popen[bytes]], needed: bool) -> int:
    """Until all have ended; the exit code of the first failure, 128 + the number of a signal as shells say it."""
    failed, since, asked = 0, 0.0, False
    running = dict(enumerate(children))
    while running:
        for rank, child in list(running.items()):
            code = child.poll()
            if code is None:
                continue
            del running[rank]
            if code < 0:
                console.warn(f"process {rank} was ended by {signal.Signals(-code).name}")
            if code and not failed:
                failed, since = (code if code > 0 else 128 - code), time.monotonic()
        waited = time.monotonic() - since if failed and needed else 0.0
        if waited > PATIENCE[0] and not asked:
            asked = True
            for child in running.values():
                child.terminate()
        if waited > PATIENCE[1]:
            for child in running.values():
                child.kill()
        time.sleep(PAUSE)
    return failed


@contextlib.contextmanager
def _passing_signals_on(children: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    def pass_on(number: int, frame: FrameType | None) -> None:
        for child in children:
            with contextlib.suppress(OSError):
                child.send_signal(number)

    numbers = asking()
    before = [signal.signal(number, pass_on) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _end_with_launcher() -> None:
    """Ask this process to stop when the other end of its standard input has gone."""
    with contextlib.suppress(OSError):
        while os.read(0, 1):
            pass
    os.kill(os.getpid(), signal.SIGTERM)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
