"""TensorBoard and Weights & Biases, as optional listeners of a training."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from wdm_cli.engine.errors import ConfigError, ResourceError

if TYPE_CHECKING:
    from wdm_cli.engine.train import TrainStep

TRACKERS = {"tb": "tensorboard", "wandb": "wandb"}


class Tracker(Protocol):
    """Gets scalars by name and step."""

    def add(self, step: int, scalars: dict[str, float]) -> None: ...
    def close(self) -> None: ...


class TensorBoard:
    """Event files in RUN/tensorboard; look at them with `tensorboard --logdir RUN`."""

    def __init__(self, run: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # what an earlier process wrote beyond this step is taken back
        self.writer = SummaryWriter(str(run / "tensorboard"), purge_step=step)

    def add(self, step: int, scalars: dict[str, float]) -> None:
        for name, value in scalars.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class WandB:
    """A run of the project `wdm`, continued under the folder's name."""

    def __init__(self, run: Path, settings: dict[str, Any]) -> None:
        import wandb

        self.run = wandb.init(project="wdm", name=run.name, id=run.name, resume="allow", dir=str(run), config=settings)

    def add(self, step: int, scalars: dict[str, float]) -> None:
        self.run.log(scalars, step=step)

    def close(self) -> None:
        self.run.finish()


def check_trackers(names: list[str]) -> None:
    """Refuse unknown listeners and those whose library is not installed, before any work is done."""
    for name in names:
        if name not in TRACKERS:
            raise ConfigError(f"--log {name}: unknown", hint=f"choose of {', '.join(TRACKERS)}")
        if importlib.util.find_spec(TRACKERS[name]) is None:
            raise ResourceError(
                f"--log {name}: {TRACKERS[name]} is not installed", hint=f"pip install 'wdm-cli[{name}]'"
            )


def open_trackers(names: list[str], run: Path, settings: dict[str, Any], step: int) -> list[Tracker]:
    """The listeners asked for by name (`tb`, `wandb`), from this step on."""
    return [TensorBoard(run, step) if name == "tb" else WandB(run, settings) for name in names]


def scalars(record: TrainStep, losses: Sequence[str]) -> dict[str, float]:
    """What a listener gets of a step; losses: their names."""
    named = {f"loss/{name}": value for name, value in zip(losses, record.losses, strict=True)}
    return {
        "loss/mean": record.loss,
        **named,
        "lr": record.lr,
        "grad_norm": record.grad_norm,
        "seconds": record.seconds,
    }
