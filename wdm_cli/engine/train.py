"""The training loop (Friedrich et al. 2024): x0-prediction, AdamW, EMA.

Everything random is a function of (seed, step, position in the batch): a run that was cut and resumed is
the same run, and a batch in four parts, or spread over four processes, is the same batch.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from wdm_cli.engine.checkpoint import Checkpoint, load_weights
from wdm_cli.engine.device import as_denoiser, memory_errors
from wdm_cli.engine.diffusion import loss, make_schedule
from wdm_cli.engine.distributed import ALONE, Ranks, lost_peers
from wdm_cli.engine.draw import Draw
from wdm_cli.engine.errors import CheckpointError, NonFiniteError, OutOfMemoryError
from wdm_cli.engine.models.dropout import place_rows
from wdm_cli.engine.preset import Preset
from wdm_cli.engine.provenance import arithmetic
from wdm_cli.engine.trained_on import fingerprint

MAX_SKIPPED_IN_A_ROW = 10


class Volumes(Protocol):
    """What training reads: float32 volumes [D, H, W] in [−1, 1], by index."""

    @property
    def names(self) -> Sequence[str]: ...
    @property
    def affine(self) -> np.ndarray: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> np.ndarray: ...


@dataclass(frozen=True)
class TrainStep:
    """One optimizer step. `losses` are those of the space's channels, `loss` their mean.

    skipped: the step met non-finite values and changed nothing; `cases` names its volumes.
    """

    step: int
    loss: float
    losses: tuple[float, ...]
    grad_norm: float
    lr: float
    seconds: float
    skipped: bool
    cases: tuple[str, ...]


class Trainer:
    """Model, EMA and optimizer on a device; `run` yields a record a step.

    Among several processes (`ranks`) each computes its rows of every batch. The weights are the same in all of
    them, the moving average is kept in the main one alone.
    """

    def __init__(self, preset: Preset, volumes: Volumes, device: torch.device, ranks: Ranks = ALONE) -> None:
        settings = preset.train
        self.preset, self.volumes, self.device, self.ranks = preset, volumes, device, ranks
        self.affine = np.asarray(volumes.affine, float)  # now: the files it is read from may vanish while we train
        self.rows = ranks.share(settings.batch_size, settings.accumulate)
        torch.manual_seed(settings.seed)  # initial weights
        with memory_errors(partial(out_of_memory, preset, ranks.world)):
            self.network = preset.network().to(device)
            self.ema = copy.deepcopy(self.network).requires_grad_(False).eval()
        self.network.checkpointing = settings.checkpointing
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True
        )
        diffusion = preset.diffusion
        self.schedule = make_schedule(diffusion.schedule, diffusion.steps, diffusion.beta_start, diffusion.beta_end)
        self.parallel = ranks.parallel(self.network, settings.accumulate)
        self.denoise = as_denoiser(self.parallel, settings.precision)
        self.step = 0
        self.skipped_in_a_row = 0

    def run(self, should_stop: Callable[[], object] = lambda: False) -> Generator[TrainStep]:
        """Train to `train.steps`; between steps `should_stop()` may end it early, in any process for all.

        Raises:
            NonFiniteError: ten steps in a row met non-finite values; the weights are finite.
            OutOfMemoryError: the device is too small, with settings to change.
            PeerError: another process was lost; the state is that of the last step.
        """
        with ThreadPoolExecutor(1, thread_name_prefix="wdm-load") as loader:
            following = loader.submit(self._load, self.step)
            while self.step < self.preset.train.steps and not self.ranks.any(should_stop()):
                batch, cases = following.result()
                following = loader.submit(self._load, self.step + 1)
                with memory_errors(partial(out_of_memory, self.preset, self.ranks.world)), lost_peers():
                    record = self._take_step(batch, cases)
                yield record

    def _take_step(self, batch: Tensor, cases: tuple[str, ...]) -> TrainStep:
        started, settings = time.perf_counter(), self.preset.train
        self.network.train()
        lr = settings.lr * min(1.0, (self.step + 1) / max(1, settings.warmup))
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        values = self._accumulate(batch.to(self.device, non_blocking=True)).tolist()
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.network.parameters() if p.grad is not None])
        if settings.clip_norm:  # without a limit a pass over all gradients is saved
            torch.nn.utils.clip_grads_with_norm_(self.network.parameters(), settings.clip_norm, norm)
        grad_norm = norm.item()
        finite = math.isfinite(sum(values)) and math.isfinite(grad_norm)
        if finite:
            self.optimizer.step()
            if self.ranks.main:
                self._update_ema()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self._count_skips(finite, lr, cases)
        seconds = time.perf_counter() - started
        return TrainStep(self.step, sum(values) / len(values), tuple(values), grad_norm, lr, seconds, not finite, cases)

    def _accumulate(self, batch: Tensor) -> Tensor:
        """Gradients of the whole batch, in `accumulate` parts; the mean loss of each channel of the space.

        batch: this process's rows. The whole batch's mean is the mean over processes of theirs.
        """
        settings, space = self.preset.train, self.preset.space
        total = torch.zeros(space.channels, device=self.device)
        size = len(batch) // settings.accumulate
        for part, volume in enumerate(torch.split(batch, size)):
            draw = self._draw(self.rows[part * size : (part + 1) * size])
            t, noise = draw.integers(len(self.schedule)), space.noise(draw, self.preset.data.shape)
            with self.ranks.averaging(self.parallel, last=part == settings.accumulate - 1):
                losses = loss(self.denoise, space.encode(volume), noise, t, self.schedule)
                (losses.mean() / settings.accumulate).backward()  # type: ignore[no-untyped-call]
            total += losses.detach() / settings.accumulate
        return self.ranks.mean(total)

    def _draw(self, rows: range) -> Draw:
        """The random numbers of some rows of this step's batch; dropout, which draws by itself, is told its rows."""
        seed = self.preset.train.seed
        if self.preset.model.dropout > 0:
            torch.manual_seed(derived_seed(seed, self.step, 0, 1))
            place_rows(self.network, rows)
        return Draw([derived_seed(seed, self.step, row) for row in rows], self.device)

    def _load(self, step: int) -> tuple[Tensor, tuple[str, ...]]:
        """This process's rows of a step's batch [B, 1, D, H, W], and all its cases: an order of its own every epoch."""
        size, count = self.preset.train.batch_size, len(self.volumes)
        indices = []
        for position in range(step * size, (step + 1) * size):
            order = np.random.default_rng([self.preset.train.seed, position // count]).permutation(count)
            indices.append(int(order[position % count]))
        batch = torch.from_numpy(np.stack([self.volumes[indices[row]] for row in self.rows])[:, None])
        return batch.pin_memory() if self.device.type == "cuda" else batch, tuple(
            self.volumes.names[i] for i in indices
        )

    @torch.no_grad()
    def _update_ema(self) -> None:
        """Averaged weights; early on the decay is smaller, so that the start is soon forgotten."""
        decay = min(self.preset.train.ema, (self.step + 1) / (self.step + 10))
        torch._foreach_lerp_(list(self.ema.parameters()), list(self.network.parameters()), 1 - decay)

    def _count_skips(self, finite: bool, lr: float, cases: tuple[str, ...]) -> None:
        self.skipped_in_a_row = 0 if finite else self.skipped_in_a_row + 1
        if self.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise NonFiniteError(
                f"training stopped at step {self.step}: {MAX_SKIPPED_IN_A_ROW} steps in a row met non-finite values "
                f"(lr {lr:g}; last batch: {', '.join(cases)})",
                why="the weights are finite and the last checkpoint is intact",
                hint="`wdm verify` checks the data; a new run (another --out) may take a lower train.lr, "
                "train.clip_norm=1 or train.precision=float32",
            )

    def state(self) -> Checkpoint:
        """Everything that the rest of the run depends on."""
        return Checkpoint(
            Path(),
            dict(self.network.state_dict()),
            self.preset,
            self.step,
            dict(self.ema.state_dict()),
            self.affine.tolist(),
            {
                "optimizer": self.optimizer.state_dict(),
                "data": fingerprint(self.volumes.names),
                "skipped": self.skipped_in_a_row,
                "processes": self.ranks.world,
                "arithmetic": arithmetic(self.device),
            },
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a training checkpoint of the same preset and data.

        Raises:
            CheckpointError: it holds weights only, or was trained on other cases.
        """
        training = checkpoint.training
        if checkpoint.ema is None or checkpoint.step is None or not training.keys() >= {"optimizer", "data", "skipped"}:
            raise CheckpointError(f"{checkpoint.path}: holds weights only, training cannot continue from it")
        if training["data"] != fingerprint(self.volumes.names):
            raise CheckpointError(
                f"{checkpoint.path}: was trained on other cases ({training['data']['cases']}, now {len(self.volumes)})",
                why="the order of the volumes would change in the middle of the run",
                hint="restore the data folder, or start a new run with another --out",
            )
        load_weights(self.network, checkpoint.weights, str(checkpoint.path))
        load_weights(self.ema, checkpoint.ema, str(checkpoint.path))
        # a copy: on the CPU the optimizer would go on working in the tensors of the file
        self.optimizer.load_state_dict(copy.deepcopy(training["optimizer"]))
        self.step, self.skipped_in_a_row = checkpoint.step, training["skipped"]


def derived_seed(*parts: int) -> int:
    """A 63-bit seed that depends on every part; near inputs give unrelated seeds."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


def out_of_memory(preset: Preset, processes: int, reason: str) -> OutOfMemoryError:
    """The error of a device that is too small, with three settings that are still open."""
    train = preset.train
    size = "×".join(map(str, preset.data.shape))
    share = train.batch_size // processes
    parts = share // train.accumulate
    ways = {
        f"train.accumulate={share} (the same batch in smaller parts)": parts > 1,
        "train.checkpointing=true": not train.checkpointing,
        "train.precision=bf16": train.precision != "bf16",
        f"data.image_size={max(preset.data.shape) // 2}": True,
        "a smaller model.base_channels": True,
        "another preset": True,
    }
    return OutOfMemoryError(
        f"out of memory: {preset.name} at {size}, {parts} volume{'s' * (parts > 1)} at a time, {train.precision}",
        why=reason,
        hint="--set " + ", ".join([way for way, is_open in ways.items() if is_open][:3]),
    )
