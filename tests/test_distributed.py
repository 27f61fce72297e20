"""Two processes are one: the same numbers, one writer, one decision; and what happens when one is lost."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import CPU, together
from small import HEADS, digest, small

from wdm_cli.engine import train as train_module
from wdm_cli.engine.distributed import ALONE, Ranks, divide
from wdm_cli.engine.errors import ConfigError, DataError
from wdm_cli.engine.models.dropout import RowDropout, place_rows
from wdm_cli.engine.run import Resumed, Saved, checkpoint_files, train
from wdm_cli.engine.train import Trainer

WAVUNET = {"model__kind": "wavunet", "model__res_blocks": 2, "data__image_size": 8, "train__checkpointing": True}


def trained(ranks: Ranks, preset: Any, steps: int) -> dict[str, Any]:
    """Losses and gradient norms of a training without files, and its digest."""
    trainer = Trainer(preset, HEADS, CPU, ranks)
    records = list(trainer.run(lambda: trainer.step >= steps))
    return {"losses": [r.loss for r in records], "norms": [r.grad_norm for r in records], "digest": digest(trainer),
            "skipped": [r.skipped for r in records], "cases": [r.cases for r in records]}  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [{"train__clip_norm": 0.5}, pytest.param(WAVUNET, marks=pytest.mark.slow)],
    ids=["unet", "wavunet, checkpointing"],
)
def test_two_processes_are_one_with_the_same_batch(changes: dict[str, Any], tmp_path: Path) -> None:
    """To 1e-5 of one process with the whole batch at once; of one that takes the two halves in turn, bit for bit."""
    preset = small(train__batch_size=4, **changes)
    steps = 5
    whole = trained(ALONE, preset, steps)
    halves = trained(ALONE, small(train__batch_size=4, train__accumulate=2, **changes), steps)
    first, second = together(2, tmp_path, lambda ranks: trained(ranks, preset, steps))
    assert first["losses"] == second["losses"] == halves["losses"]
    assert first["losses"] == pytest.approx(whole["losses"], rel=1e-5)
    assert first["norms"] == pytest.approx(whole["norms"], rel=1e-4)
    assert first["digest"] == halves["digest"]
    assert first["cases"] == second["cases"] == [list(cases) for cases in whole["cases"]]


def cut(ranks: Ranks, preset: Any, run: Path, cuts: list[int]) -> dict[str, Any]:
    """One training into a run folder, with a new trainer after every cut."""
    losses: list[float] = []
    events: list[str] = []
    for step in [*cuts, preset.train.steps]:
        torch.manual_seed(999)  # a new process has another global state
        trainer = Trainer(preset, HEADS, CPU, ranks)
        for record in train(trainer, run, lambda until=step, trainer=trainer: trainer.step >= until):  # type: ignore[misc]
            if isinstance(record, Saved | Resumed):
                events.append(type(record).__name__)
            else:
                losses.append(record.loss)
    return {"losses": losses, "events": events, "digest": digest(trainer)}


@pytest.mark.parametrize(
    ("steps", "ways"),
    [
        pytest.param(4, [[1, 3]], id="4 steps"),
        pytest.param(40, [[1], [17], [39], [3, 9, 18, 26, 33]], id="40 steps", marks=pytest.mark.slow),
    ],
)
def test_two_processes_resume_exactly(steps: int, ways: list[list[int]], tmp_path: Path) -> None:
    """With dropout, bf16 and accumulation, cut once and five times in a row; one of the two writes."""
    preset = small(train__batch_size=4, train__accumulate=2, train__save_every=100, train__steps=steps,
                   train__precision="bf16")  # fmt: skip

    def work(ranks: Ranks) -> list[Any]:
        return [cut(ranks, preset, tmp_path / f"run{n}", cuts) for n, cuts in enumerate([[], *ways])]

    first, second = together(2, tmp_path, work)
    assert isinstance(first[0], dict), first
    for way in first[1:]:
        assert way["losses"] == first[0]["losses"]
        assert way["digest"] == first[0]["digest"]
    assert [way["losses"] for way in second] == [way["losses"] for way in first]
    assert all(way["events"] == [] for way in second)
    assert [len(way["events"]) for way in first] == [1, *(1 + 2 * len(cuts) for cuts in ways)]
    assert not list(tmp_path.rglob(".partial"))


def test_whoever_is_asked_to_stop_all_stop_at_the_same_step(tmp_path: Path) -> None:
    def work(ranks: Ranks) -> int:
        trainer = Trainer(small(), HEADS, CPU, ranks)
        list(train(trainer, tmp_path / "run", lambda: ranks.rank == 1 and trainer.step >= 3))
        return trainer.step

    assert together(2, tmp_path, work) == [3, 3]
    assert list(checkpoint_files(tmp_path / "run")) == [3]


@pytest.mark.parametrize("gradient", [False, True])
def test_values_that_are_not_finite_in_one_process_are_skipped_by_both(gradient: bool, tmp_path: Path) -> None:
    true = train_module.loss

    def work(ranks: Ranks) -> dict[str, Any]:
        calls = iter(range(100))

        def bad(*args: Any) -> torch.Tensor:
            bands = true(*args)
            if next(calls) != 2 or ranks.main:
                return bands
            if gradient:
                bands.register_hook(lambda g: g * float("inf"))
                return bands
            return bands * float("nan")

        train_module.loss = bad
        return trained(ranks, small(model__dropout=0.0), 6)

    first, second = together(2, tmp_path, work)
    assert first["skipped"] == second["skipped"] == [False, False, True, False, False, False]
    assert all(loss == loss for loss in first["losses"][3:])
    assert first["losses"][3:] == second["losses"][3:]


def test_a_lost_process_costs_one_step(tmp_path: Path) -> None:
    """The others say so and save; the same command continues."""

    def work(ranks: Ranks) -> Any:
        trainer = Trainer(small(train__save_every=100, train__steps=9), HEADS, CPU, ranks)

        def die() -> bool:
            if ranks.rank == 1 and trainer.step == 5:
                os._exit(9)
            return False

        return [type(record).__name__ for record in train(trainer, tmp_path / "run", die)]

    first, second = together(2, tmp_path, work)
    assert second is None
    assert first[0] == "PeerError"
    assert "another process of this training ended" in first[1]
    assert first[2] == 5
    assert list(checkpoint_files(tmp_path / "run")) == [5]
    trainer = Trainer(small(train__save_every=100, train__steps=9), HEADS, CPU)
    resumed, *_ = train(trainer, tmp_path / "run")
    assert isinstance(resumed, Resumed)
    assert (resumed.step, trainer.step) == (5, 9)
    assert resumed.changes == ("so far 2 processes shared the batch, now 1: the same training, equal up to rounding",)


def test_turns(tmp_path: Path) -> None:
    """The first process, then one a machine, then the rest; a failure ends them all with its exit code."""
    log = tmp_path / "log"

    def work(ranks: Ranks) -> Any:
        def write() -> None:
            with log.open("a") as file:
                file.write(str(ranks.rank))

        def fail() -> None:
            if ranks.main:
                raise DataError("no volumes")
            write()

        ranks.in_turns(write)
        return ranks.in_turns(fail)

    results = together(3, tmp_path, work)
    assert results[0] == ["DataError", "no volumes", 3]
    assert all(result[0] == "PeerError" and result[2] == 3 for result in results[1:])
    assert log.read_text()[0] == "0"
    assert sorted(log.read_text()) == ["0", "1", "2"]


@pytest.mark.parametrize(("batch", "processes", "accumulate", "rows"), [(10, 1, 1, 10), (10, 5, 2, 2), (8, 2, 4, 4)])
def test_a_batch_is_divided(batch: int, processes: int, accumulate: int, rows: int) -> None:
    assert divide(batch, processes, accumulate) == rows


@pytest.mark.parametrize(
    ("batch", "processes", "accumulate", "hint"),
    [(10, 2, 10, "train.accumulate=5, or 1 process"), (10, 4, 1, "2 processes"), (10, 4, 5, "2 processes")],
)
def test_or_refused_with_what_would_do(batch: int, processes: int, accumulate: int, hint: str) -> None:
    with pytest.raises(ConfigError, match=f"batch_size {batch} cannot be divided among {processes} processes") as error:
        divide(batch, processes, accumulate)
    assert error.value.hint.endswith(hint)


def test_the_masks_of_a_row_do_not_depend_on_its_neighbours() -> None:
    x = torch.ones(4, 3, 5, 5, 5)

    def masks(parts: list[range]) -> torch.Tensor:
        drop, out = RowDropout(0.3), []
        for rows in parts:
            torch.manual_seed(7)
            place_rows(drop, rows)
            out.append(torch.stack([drop(x[rows.start : rows.stop]), drop(x[rows.start : rows.stop])]))
        return torch.cat(out, dim=1)

    whole = masks([range(4)])
    assert torch.equal(whole, masks([range(1), range(1, 4)]))
    assert whole.unique().tolist() == pytest.approx([0, 1 / 0.7])
    assert abs((whole == 0).float().mean() - 0.3) < 0.02
    flat = [mask.flatten().tolist() for mask in whole.flatten(0, 1)]
    assert all(a != b for i, a in enumerate(flat) for b in flat[:i])  # rows differ, and so do calls
    drop = RowDropout(0.3).eval()
    place_rows(drop, range(4))
    assert torch.equal(drop(x), x)
