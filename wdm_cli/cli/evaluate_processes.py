"""Several processes for one evaluation: started here (--workers, --gpus) or by torchrun."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from wdm_cli.cli.evaluate_show import follow
from wdm_cli.cli.processes import check_gpus, own_device, place
from wdm_cli.cli.train_data import cache_folder

if TYPE_CHECKING:
    from wdm_cli.engine.metrics.extractor import Extractor
    from wdm_cli.engine.metrics.metric import Metric
    from wdm_cli.engine.metrics.volumes import Volumes


def spread(device: str, workers: int, gpus: int) -> tuple[str, int]:
    """Device and number of processes for features: --gpus N is N processes on the first N GPUs.

    Among processes that torchrun started, each has a device of its own and starts no others.
    """
    from wdm_cli.engine.errors import ConfigError

    mine = place(os.environ)
    if gpus:
        check_gpus(gpus, device, os.environ)
        if workers > 1:
            raise ConfigError("--gpus and --workers both say how many processes", hint="give one of them")
        return "cuda", gpus
    if mine is None:
        return device, workers
    if workers > 1:
        raise ConfigError("--workers starts processes, but this is one of several already", hint="leave it away")
    return str(own_device(device, mine)), 1


def left_to_the_first(
    metrics: Sequence[Metric], fake: Volumes, real: Volumes | None, network: Extractor | None
) -> bool:
    """Among several processes (torchrun): True in all but the first, when their share of the features is made."""
    from wdm_cli.engine import evaluate

    mine = place(os.environ)
    if mine is None:
        return False
    if real is not None and evaluate.row_sources(metrics, network):
        follow(evaluate.share(metrics, fake, real, network, cache_folder(), mine.rank, mine.world))
    return mine.rank > 0
