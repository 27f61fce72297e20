"""Dropout whose masks depend on a volume's place in the batch, not on how the batch is divided."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RowDropout(nn.Dropout):
    """Dropout of x [B, …] with a generator of its own for each row, if `rows` says which rows they are.

    The default generator gives one number a call (the same in every part of a batch that starts from the same
    seed), and that number with the row's place gives the mask: a batch in four parts, or spread over four
    processes, has the masks of the whole one. Gradient checkpointing, which sets the default generator back
    before it computes again, gets the same masks again.
    """

    rows: Sequence[int] | None = None
    """Places of the rows in the whole batch; None for plain dropout."""

    def forward(self, x: Tensor) -> Tensor:
        if self.rows is None or not self.training or self.p == 0:
            return F.dropout(x, self.p, self.training)
        call = int(torch.randint(2**31, (1,), device="cpu"))
        kept = torch.empty(x.shape, dtype=torch.bool, device=x.device)
        generator = torch.Generator(x.device)
        for mask, row in zip(kept, self.rows, strict=True):
            # hashed: a generator on the CPU looks at the lower 32 bits only
            generator.manual_seed(int(np.random.SeedSequence((call, row)).generate_state(1, np.uint64)[0] >> 1))
            mask.bernoulli_(1 - self.p, generator=generator)
        return x * kept / (1 - self.p)


def place_rows(network: nn.Module, rows: Sequence[int]) -> None:
    """Tell every dropout of a network which rows of the whole batch it is about to see."""
    for module in network.modules():
        if isinstance(module, RowDropout):
            module.rows = rows
