"""One training by several processes: who takes which part of a batch, and how they agree.

`Ranks` is what a training asks of its neighbours; by itself it is the one process that has none. `Group` asks
over torch.distributed: gradients over NCCL or gloo, everything else over gloo on the CPU, so that no question
waits for a GPU.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from wdm_cli.engine.errors import ConfigError, PeerError, WdmError

Result = TypeVar("Result")

STEP_LIMIT = timedelta(minutes=30)  # the longest that one process waits for another within a step
TURN_LIMIT = timedelta(days=7)  # … while another fills the cache
TURNS = 3  # the main process, the first of each machine, all others
PAUSE = 0.02  # seconds between two looks at a long wait; signals are handled in between


@dataclass(frozen=True)
class Place:
    """A process among `world`: its rank, its number on its machine, and host:port where the first listens.

    attempt: how often they were started before; what a lost attempt said there is not listened to.
    """

    rank: int
    world: int
    local: int
    address: str
    attempt: int = 0


class Ranks:
    """The place of a process in a training, and what it asks the others; here there are none."""

    rank, world = 0, 1

    @property
    def main(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def share(self, batch_size: int, accumulate: int) -> range:
        """This process's rows of the batch.

        Raises:
            ConfigError: the batch cannot be divided evenly.
        """
        size = divide(batch_size, self.world, accumulate)
        return range(self.rank * size, (self.rank + 1) * size)

    def parallel(self, network: nn.Module, accumulate: int) -> nn.Module:
        """The network as it is to be called in training, so that `backward` averages gradients over processes."""
        return network

    def averaging(self, network: nn.Module, last: bool) -> contextlib.AbstractContextManager[None]:
        """Around a forward and backward pass: gradients are exchanged in the last part of a batch only."""
        return contextlib.nullcontext()

    def mean(self, values: Tensor) -> Tensor:
        """The mean over processes, the same bits in all of them."""
        return values

    def any(self, asked: object) -> bool:
        """Whether any process says so."""
        return bool(asked)

    def from_main(self, number: int) -> int:
        """The number that the main process has."""
        return number

    def in_turns(self, work: Callable[[], Result]) -> Result:
        """Do the work in the main process first, then in one process a machine, then in the others.

        Raises:
            PeerError: it failed in another process; nobody goes on.
        """
        return work()


ALONE = Ranks()


class Group(Ranks):
    """A process among others. Make it with `joined`."""

    def __init__(self, place: Place, device: torch.device) -> None:
        self.rank, self.world, self.device = place.rank, place.world, device
        self.turn = 0 if place.rank == 0 else 1 if place.local == 0 else 2
        if device.type == "cuda":
            torch.cuda.set_device(device)
        with lost_peers():
            store, _, _ = next(rendezvous(f"tcp://{place.address}", place.rank, place.world, timeout=STEP_LIMIT))
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
                store=PrefixStore(str(place.attempt), store),
                rank=place.rank,
                world_size=place.world,
                timeout=STEP_LIMIT,
            )
            self.patient = dist.new_group(backend="gloo", timeout=TURN_LIMIT)

    def parallel(self, network: nn.Module, accumulate: int) -> nn.Module:
        # a static graph cannot hold back its gradients (`no_sync` ends in an assertion of torch 2.13)
        with lost_peers():
            return DistributedDataParallel(
                network,
                device_ids=[self.device.index] if self.device.type == "cuda" else None,
                gradient_as_bucket_view=True,
                static_graph=accumulate == 1,
            )

    def averaging(self, network: nn.Module, last: bool) -> contextlib.AbstractContextManager[None]:
        assert isinstance(network, DistributedDataParallel)
        return contextlib.nullcontext() if last else network.no_sync()

    def mean(self, values: Tensor) -> Tensor:
        total = values.detach().to("cpu", copy=True)
        with lost_peers():
            dist.all_reduce(total)
        return total / self.world

    def any(self, asked: object) -> bool:
        return bool(self.mean(torch.tensor(float(bool(asked)))) > 0)

    def from_main(self, number: int) -> int:
        value = torch.tensor(number)
        with lost_peers():
            dist.broadcast(value, 0)
        return int(value)

    def in_turns(self, work: Callable[[], Result]) -> Result:
        failed: WdmError | None = None
        for turn in range(TURNS):
            if turn == self.turn:
                try:
                    result = work()
                except WdmError as error:
                    failed = error
            if code := self.highest(failed.exit_code if failed else 0):
                raise failed or PeerError(f"another of the {self.world} processes failed", code=code)
        return result

    def highest(self, number: int) -> int:
        """The highest of all processes' numbers, however long they take; signals are handled meanwhile."""
        value = torch.tensor(number)
        with lost_peers():
            work = dist.all_reduce(value, dist.ReduceOp.MAX, group=self.patient, async_op=True)
            while not work.is_completed():
                time.sleep(PAUSE)
            work.wait()
        return int(value)


@contextlib.contextmanager
def joined(place: Place | None, device: torch.device) -> Iterator[Ranks]:
    """This process's place in a training; with others, all leave together when the work was done.

    Raises:
        PeerError: the others did not come.
    """
    if place is None:
        yield ALONE
        return
    group = Group(place, device)
    yield group  # after an error the group is left as it is: to take leave could wait for ever
    group.highest(0)
    dist.destroy_process_group()


@contextlib.contextmanager
def lost_peers() -> Iterator[None]:
    """Turn the failure to reach another process into a PeerError."""
    try:
        yield
    except RuntimeError as error:
        # gloo's own errors have no class
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            reason = next(iter(str(error).splitlines()), "")
            raise PeerError("another process of this training ended or cannot be reached", why=reason) from error
        raise


def divide(batch_size: int, processes: int, accumulate: int) -> int:
    """Rows of a batch for each process.

    Raises:
        ConfigError: they cannot be divided evenly; with what could be typed instead, the batch untouched.
    """
    if batch_size % (processes * accumulate) == 0:
        return batch_size // processes
    ways = []
    if batch_size % processes == 0:
        fitting = max(n for n in range(1, accumulate + 1) if batch_size % (processes * n) == 0)
        ways.append(f"--set train.accumulate={fitting}")
    fitting = max(n for n in range(1, processes + 1) if batch_size % (n * accumulate) == 0)
    ways.append(f"{fitting} process{'es' * (fitting > 1)}")
    raise ConfigError(
        f"train.batch_size {batch_size} cannot be divided among {processes} processes "
        f"with train.accumulate {accumulate}",
        why="the batch is the preset's, however many processes share it, so it must be a multiple of "
        f"{processes} × {accumulate}",
        hint=", or ".join(ways),
    )
