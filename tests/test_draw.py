"""One generator a row: the numbers of torch's own, whoever stands beside it."""

from __future__ import annotations

import torch

from wdm_cli.engine.draw import Draw

CPU = torch.device("cpu")


def test_a_row_is_its_own_generator_asked_in_the_same_order() -> None:
    draw = Draw([3, 7], CPU)
    asked = draw.integers(1000), draw.normal(2, 4), draw.like(torch.empty(2, 5)), draw.integers(10)
    for row, seed in enumerate((3, 7)):
        g = torch.Generator().manual_seed(seed)
        alone = (
            torch.randint(1000, (1,), generator=g)[0],
            torch.randn(2, 4, generator=g),
            torch.randn(5, generator=g),
            torch.randint(10, (1,), generator=g)[0],
        )
        for mine, wanted in zip(asked, alone, strict=True):
            assert torch.equal(mine[row], wanted)
    assert asked[0].dtype == torch.int64


def test_rows_do_not_depend_on_their_company() -> None:
    together, second = Draw([1, 2, 3], CPU), Draw([2], CPU)
    for _ in range(3):
        assert torch.equal(together.normal(4, 4)[1:2], second.normal(4, 4))
