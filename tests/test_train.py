"""The training loop: a batch in parts, the moving average, exact continuation, values that are not finite."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from small import HEADS, Heads, digest, small, trainer

from wdm_cli.engine import train as train_module
from wdm_cli.engine.checkpoint import read, save
from wdm_cli.engine.errors import CheckpointError, NonFiniteError, OutOfMemoryError
from wdm_cli.engine.train import Trainer, derived_seed


def losses(trained: Trainer, until: int) -> list[float]:
    steps = trained.run(lambda: trained.step >= until)
    return [record.loss for record in steps]


def gradients(preset: Any, volumes: Any = HEADS) -> list[torch.Tensor]:
    trained = trainer(preset, volumes)
    for parameter in trained.network.parameters():  # no zeros, so that every weight matters
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    batch, _ = trained._load(0)
    trained.network.train()
    trained._accumulate(batch)
    return [p.grad for p in trained.network.parameters()]


def test_a_batch_in_four_parts_is_the_same_batch() -> None:
    whole = gradients(small(train__batch_size=4, model__dropout=0.0))
    parts = gradients(small(train__batch_size=4, train__accumulate=4, model__dropout=0.0))
    assert len(whole) == len(parts) > 30
    scale = max(g.abs().max() for g in whole)
    assert max((a - b).abs().max() for a, b in zip(whole, parts, strict=True)) <= 1e-6 * max(1.0, scale)


def test_the_average_follows_its_formula() -> None:
    trained = trainer()
    name = "input_blocks.0.0.weight"
    expected = trained.ema.state_dict()[name].double()
    for n, _ in enumerate(trained.run(lambda: trained.step >= 12)):
        decay = min(0.9, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * trained.network.state_dict()[name].double()
        assert (trained.ema.state_dict()[name] - expected).abs().max() < 1e-6
    assert not torch.equal(trained.ema.state_dict()[name], trained.network.state_dict()[name])


def test_warm_up_and_clipping() -> None:
    preset = small(train__warmup=4, train__clip_norm=1e-3, train__lr=1e-2)
    trained, rates, sizes = trainer(preset), [], []
    before = trained.optimizer.step

    def spy(*args: Any) -> Any:
        sizes.append(math.sqrt(sum(p.grad.square().sum().item() for p in trained.network.parameters())))
        return before(*args)

    trained.optimizer.step = spy  # type: ignore[method-assign]
    norms = []
    for record in trained.run(lambda: trained.step >= 6):
        rates.append(record.lr)
        norms.append(record.grad_norm)
    assert rates == pytest.approx([2.5e-3, 5e-3, 7.5e-3, 1e-2, 1e-2, 1e-2])
    assert min(norms) > 1e-3  # what is reported is the norm before clipping
    assert max(sizes) <= 1e-3 * 1.001


def test_loss_falls_on_phantoms() -> None:
    heads = Heads(16)
    preset = small(data__image_size=16, train__steps=60, train__batch_size=4, train__lr=3e-3, model__dropout=0.0)
    seen = losses(trainer(preset, heads), 60)
    assert sum(seen[-10:]) < 0.6 * sum(seen[:10])


@pytest.mark.parametrize("kind", ["unet", "wavunet"])
@pytest.mark.parametrize("size", [8, 16])
def test_bf16_gradients_are_near_float32_on_every_grid(kind: str, size: int) -> None:
    """On grids with two planes some CPU builds take bf16 weight gradients from uninitialised memory."""
    found = []
    for precision in ("float32", "bf16"):
        preset = small(model__kind=kind, model__base_channels=16, model__res_blocks=2, model__dropout=0.0,
                       data__image_size=size, train__precision=precision)  # fmt: skip
        found.append(gradients(preset, Heads(size)))
    for plain, rough in zip(*found, strict=True):
        assert (plain - rough).norm() <= 0.1 * plain.norm() + 1e-3


@pytest.fixture(scope="module")
def straight() -> tuple[list[float], str]:
    trained = trainer()
    return losses(trained, 40), digest(trained)


@pytest.mark.parametrize("cuts", [[1], [17], [39], [3, 9, 18, 26, 33]], ids=str)
def test_a_cut_run_is_the_same_run(cuts: list[int], straight: Any, tmp_path: Any) -> None:
    seen, trained = [], trainer()
    for number, cut in enumerate([*cuts, 40]):
        seen += losses(trained, cut)
        if cut < 40:
            save(tmp_path / f"{number}.pt", trained.state())
            torch.manual_seed(999)  # a new process has another global state
            trained = trainer()
            trained.restore(read(tmp_path / f"{number}.pt"))
    assert seen == straight[0]
    assert digest(trained) == straight[1]


def test_with_bf16_accumulation_and_clipping_too(tmp_path: Any) -> None:
    preset = small(train__precision="bf16", train__accumulate=2, train__clip_norm=0.5, train__steps=6)
    whole, first, second = (trainer(preset) for _ in range(3))
    losses(whole, 6)
    losses(first, 3)
    save(tmp_path / "a.pt", first.state())
    second.restore(read(tmp_path / "a.pt"))
    losses(second, 6)
    assert digest(second) == digest(whole)


@pytest.mark.parametrize("part", ["weights", "ema", "optimizer", "moments", "step"])
def test_dropping_any_part_of_the_state_is_noticed(part: str, straight: Any) -> None:
    first, fresh = trainer(), trainer()
    losses(first, 17)
    state = copy.deepcopy(first.state())
    empty = fresh.state()
    if part == "weights":
        state = replace(state, weights=empty.weights)
    elif part == "ema":
        state = replace(state, ema=empty.ema)
    elif part == "step":
        state = replace(state, step=16)
    elif part == "optimizer":
        state.training["optimizer"] = empty.training["optimizer"]
    else:
        for moments in state.training["optimizer"]["state"].values():
            moments["exp_avg_sq"].zero_()
    fresh.restore(state)
    losses(fresh, 40)
    assert digest(fresh) != straight[1]


def test_a_state_is_not_shared_with_the_run_it_came_from() -> None:
    first, second = trainer(), trainer()
    losses(first, 5)
    second.restore(first.state())
    before = digest(first)
    losses(second, 8)
    assert digest(first) == before


def test_other_cases_and_bare_weights_are_refused(tmp_path: Any) -> None:
    first = trainer()
    losses(first, 2)
    save(tmp_path / "a.pt", first.state())
    others = Heads()
    others.names = tuple(f"other_{i}" for i in range(5))
    with pytest.raises(CheckpointError, match="other cases"):
        trainer(volumes=others).restore(read(tmp_path / "a.pt"))
    with pytest.raises(CheckpointError, match="holds weights only"):
        trainer().restore(replace(first.state(), training={}))


def poison(trained: Trainer, monkeypatch: Any, steps: set[int], *, gradient: bool) -> None:
    """NaN losses, or infinite gradients of a finite loss, at these steps."""
    true = train_module.loss

    def bad(*args: Any) -> torch.Tensor:
        bands = true(*args)
        if trained.step not in steps:
            return bands
        if not gradient:
            return bands * float("nan")
        bands.register_hook(lambda g: g * float("inf"))
        return bands

    monkeypatch.setattr(train_module, "loss", bad)


@pytest.mark.parametrize("gradient", [False, True])
def test_a_non_finite_step_changes_nothing(gradient: bool, monkeypatch: Any) -> None:
    trained = trainer()
    poison(trained, monkeypatch, {2, 3}, gradient=gradient)
    records, before = [], ""
    for record in trained.run(lambda: trained.step >= 6):
        records.append(record)
        if record.skipped:
            assert digest(trained) == before
        before = digest(trained)
    assert [r.skipped for r in records] == [False, False, True, True, False, False]
    assert trained.skipped_in_a_row == 0
    assert all(torch.isfinite(p).all() for p in trained.network.parameters())
    assert set(records[2].cases) <= set(HEADS.names)


def test_ten_in_a_row_end_the_run(monkeypatch: Any) -> None:
    trained = trainer()
    poison(trained, monkeypatch, set(range(4, 40)), gradient=False)
    with pytest.raises(NonFiniteError, match=r"step 14: 10 steps in a row.*lr 0.001; last batch: head_") as caught:
        losses(trained, 40)
    assert caught.value.exit_code == 7
    assert all(torch.isfinite(p).all() for p in [*trained.network.parameters(), *trained.ema.parameters()])


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), MemoryError(),
              RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 99 bytes")],
    ids=lambda e: type(e).__name__,
)  # fmt: skip
def test_too_little_memory_names_three_settings(error: Exception, monkeypatch: Any) -> None:
    def fail(*args: Any) -> Any:
        raise error

    monkeypatch.setattr(train_module, "loss", fail)
    with pytest.raises(OutOfMemoryError) as caught:
        losses(trainer(small(train__checkpointing=True)), 1)
    assert caught.value.exit_code == 6
    assert "small at 8×8×8, 2 volumes at a time, float32" in caught.value.what
    hint = caught.value.hint
    assert all(text in hint for text in ("train.accumulate=2", "train.precision=bf16", "data.image_size=4"))
    assert "checkpointing" not in hint  # it is on already


def test_other_runtime_errors_stay_what_they_are(monkeypatch: Any) -> None:
    def fail(*args: Any) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(train_module, "loss", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        losses(trainer(), 1)


def test_every_epoch_has_every_case_once_and_its_own_order() -> None:
    trained = trainer(small(train__batch_size=5))
    orders = [trained._load(step)[1] for step in range(4)]
    assert all(sorted(order) == list(HEADS.names) for order in orders)
    assert len(set(orders)) > 1


def test_every_step_and_every_place_in_the_batch_draws_anew() -> None:
    trained, drawn = trainer(), []
    for trained.step in range(20):
        draw = trained._draw(range(2))
        t, noise = draw.integers(len(trained.schedule)), draw.normal(1, 8, 8, 8)
        drawn += [(int(t[row]), noise[row].flatten().tolist()) for row in range(2)]
    assert len({tuple(noise) for _, noise in drawn}) == 40
    assert len({t for t, _ in drawn}) > 30
    every = torch.tensor([noise for _, noise in drawn])
    assert every.mean().abs() < 0.03
    assert abs(every.std() - 1) < 0.03


def test_seeds_of_neighbours_are_unrelated() -> None:
    seeds = {derived_seed(s, t, r, *d) for s in range(4) for t in range(20) for r in range(4) for d in ((), (1,))}
    assert len(seeds) == 4 * 20 * 4 * 2


@pytest.mark.slow
def test_the_loss_of_bf16_stays_within_the_noise_of_seeds_over_200_steps() -> None:
    """Means of 20 steps: bf16 is nearer to float32 of the same seed than another seed is."""

    def curve(precision: str, seed: int) -> np.ndarray:
        preset = small(data__image_size=16, model__base_channels=16, model__dropout=0.0, train__steps=200,
                       train__precision=precision, train__seed=seed)  # fmt: skip
        losses = [record.loss for record in trainer(preset, Heads(16)).run()]
        return np.reshape(losses, (10, 20)).mean(axis=1)

    exact, bf16, other = curve("float32", 0), curve("bf16", 0), curve("float32", 1)
    assert np.abs(bf16 - exact).max() < 0.2 * np.abs(other - exact).max()
    assert bf16[-1] < bf16[0] / 2
