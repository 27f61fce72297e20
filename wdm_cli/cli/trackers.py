"""TensorBoard and Weights & Biases, as optional listeners of a training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from wdm_cli.engine.errors import ResourceError

if TYPE_CHECKING:
    from wdm_cli.engine.train import TrainStep

TRACKERS = ("tb", "wandb")


class Tracker(Protocol):
    """Gets scalars by name and step."""

    def add(self, step: int, scalars: dict[str, float]) -> None: ...
    def close(self) -> None: ...


class TensorBoard:
    """Event files in RUN/tensorboard; look at them with `tensorboard --logdir RUN`."""

    def __init__(self, run: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise _missing("tb") from error
        self.writer = SummaryWriter(str(run / "tensorboard"))

    def add(self, step: int, scalars: dict[str, float]) -> None:
        for name, value in scalars.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class WandB:
    """A run of the project `wdm`, continued under the folder's name."""

    def __init__(self, run: Path, settings: dict[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise _missing("wandb") from error
        self.run = wandb.init(project="wdm", name=run.name, id=run.name, resume="allow", dir=str(run), config=settings)

    def add(self, step: int, scalars: dict[str, float]) -> None:
        self.run.log(scalars, step=step)

    def close(self) -> None:
        self.run.finish()


def open_trackers(names: list[str], run: Path, settings: dict[str, Any]) -> list[Tracker]:
    """The listeners asked for by name (`tb`, `wandb`)."""
    return [TensorBoard(run) if name == "tb" else WandB(run, settings) for name in names]


def scalars(record: TrainStep) -> dict[str, float]:
    """What a listener gets of a step."""
    from wdm_cli.engine.run import BANDS

    bands = {f"loss/{band}": value for band, value in zip(BANDS, record.bands, strict=True)}
    return {
        "loss/mean": record.loss,
        **bands,
        "lr": record.lr,
        "grad_norm": record.grad_norm,
        "seconds": record.seconds,
    }


def _missing(extra: str) -> ResourceError:
    return ResourceError(f"--log {extra}: its library is not installed", hint=f"pip install 'wdm-cli[{extra}]'")
