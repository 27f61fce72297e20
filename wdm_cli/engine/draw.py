"""The one stream of random numbers, in training and in sampling."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Draw:
    """Random numbers of a batch on a device: row i from a generator of its own, in the order asked for.

    So a row's numbers depend on its seed alone, not on the rows beside it. Seeds are seed + index in sampling and
    a hash of (seed, step, row) in training.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self.device = device
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def normal(self, *shape: int) -> Tensor:
        """[B, *shape] float32, standard normal."""
        return torch.stack([torch.randn(shape, generator=g, device=self.device) for g in self._generators])

    def integers(self, below: int) -> Tensor:
        """[B] int64, each of 0 … below − 1 as likely."""
        rows = [torch.randint(below, (1,), generator=g, device=self.device) for g in self._generators]
        return torch.cat(rows)

    def like(self, x: Tensor) -> Tensor:
        """Standard normal numbers of the shape of x [B, …]."""
        return self.normal(*x.shape[1:])
