"""The smallest models and data that still have every part, for tests of training, sampling and runs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from wdm_cli.engine.data.phantom import phantom
from wdm_cli.engine.preset import Preset, from_dict
from wdm_cli.engine.train import Trainer

TABLES: dict[str, Any] = {
    "name": "small",
    "model": {
        "kind": "unet",
        "base_channels": 8,
        "channel_multipliers": [1, 2],
        "res_blocks": 1,
        "groups": 4,
        "dropout": 0.2,
    },
    "data": {"kind": "brats", "image_size": 8},
    "train": {"steps": 40, "batch_size": 2, "lr": 1e-3, "ema": 0.9, "save_every": 5, "log_every": 5},
    "sample": {"kind": "ddpm", "steps": 4},
}
SETS = [
    f"{table}.{key}={value}"
    for table in ("model", "data", "sample")
    for key, value in TABLES[table].items()
    if key != "kind"
]  # the same on a command line, over the preset tiny


def small(**changes: Any) -> Preset:
    """The preset; changes are named table__key, e.g. train__steps=3."""
    tables: dict[str, Any] = {k: dict(v) if isinstance(v, dict) else v for k, v in TABLES.items()}
    for name, value in changes.items():
        table, _, key = name.partition("__")
        tables[table][key] = value
    return from_dict(tables)


class Heads:
    """Five phantoms in memory, as training reads them."""

    names = tuple(f"head_{i}" for i in range(5))
    affine = np.diag([3.0, 3.0, 3.0, 1.0])

    def __init__(self, size: int = 8) -> None:
        self.arrays = [phantom(i, size).array / np.float32(500) - 1 for i in range(len(self.names))]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.arrays[index]


HEADS = Heads()


def trainer(preset: Preset | None = None, volumes: Any = HEADS) -> Trainer:
    return Trainer(preset or small(), volumes, torch.device("cpu"))


def digest(trained: Trainer) -> str:
    """sha256 over every number of model, EMA and optimizer."""
    hashed = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, Mapping):
            for key in sorted(value, key=str):
                hashed.update(str(key).encode())
                add(value[key])
        elif isinstance(value, torch.Tensor):
            hashed.update(value.detach().contiguous().numpy().tobytes())
        elif isinstance(value, list | tuple):
            for item in value:
                add(item)
        else:
            hashed.update(repr(value).encode())

    for part in (trained.network, trained.ema, trained.optimizer):
        add(part.state_dict())
    return hashed.hexdigest()
