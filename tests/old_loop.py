"""Training and sampling exactly as version 0.1 did them, frozen: what every later shape of the loop is compared with.

One process, one network, eight bands, one optimizer; networks, transform, schedule and samplers are those of today,
which have oracles of their own.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wdm_cli.engine.diffusion import make_schedule
from wdm_cli.engine.models.dropout import place_rows
from wdm_cli.engine.preset import Preset
from wdm_cli.engine.wavelet import decode, dwt, encode


def derived_seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


def schedule_of(preset: Preset) -> Any:
    diffusion = preset.diffusion
    return make_schedule(diffusion.schedule, diffusion.steps, diffusion.beta_start, diffusion.beta_end)


class OldTrainer:
    """Model, average and optimizer on the CPU; `step` takes one step and gives the eight losses and the norm."""

    def __init__(self, preset: Preset, volumes: Any) -> None:
        settings = preset.train
        self.preset, self.volumes = preset, volumes
        torch.manual_seed(settings.seed)
        self.network = preset.network()
        self.ema = copy.deepcopy(self.network).requires_grad_(False).eval()
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True
        )
        self.schedule = schedule_of(preset)
        self.done = 0

    def step(self) -> tuple[list[float], float]:
        settings = self.preset.train
        self.network.train()
        for group in self.optimizer.param_groups:
            group["lr"] = settings.lr * min(1.0, (self.done + 1) / max(1, settings.warmup))
        batch = self.batch()
        bands, size = torch.zeros(8), len(batch) // settings.accumulate
        for part, volume in enumerate(torch.split(batch, size)):
            t, noise = self.draw(range(part * size, (part + 1) * size), batch.shape[2:])
            of_part = self.losses(volume, noise, t)
            (of_part.mean() / settings.accumulate).backward()
            bands += of_part.detach() / settings.accumulate
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.network.parameters() if p.grad is not None])
        if settings.clip_norm:
            torch.nn.utils.clip_grads_with_norm_(self.network.parameters(), settings.clip_norm, norm)
        self.optimizer.step()
        self.average()
        self.optimizer.zero_grad(set_to_none=True)
        self.done += 1
        return bands.tolist(), norm.item()

    def batch(self) -> Tensor:
        size, count = self.preset.train.batch_size, len(self.volumes)
        rows = []
        for position in range(self.done * size, (self.done + 1) * size):
            order = np.random.default_rng([self.preset.train.seed, position // count]).permutation(count)
            rows.append(self.volumes[int(order[position % count])])
        return torch.from_numpy(np.stack(rows)[:, None])

    def draw(self, rows: range, shape: torch.Size) -> tuple[Tensor, Tensor]:
        seed, generator = self.preset.train.seed, torch.Generator()
        times, noises = [], []
        for row in rows:
            generator.manual_seed(derived_seed(seed, self.done, row))
            times.append(torch.randint(len(self.schedule), (1,), generator=generator))
            noises.append(torch.randn(1, 1, *shape, generator=generator))
        if self.preset.model.dropout > 0:
            torch.manual_seed(derived_seed(seed, self.done, 0, 1))
            place_rows(self.network, rows)
        return torch.cat(times), torch.cat(noises)

    def losses(self, volume: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        wavelet = self.preset.space.wavelet
        x0 = encode(volume, wavelet)
        alpha_bar = self.schedule.alpha_bar[t].view(-1, 1, 1, 1, 1)
        noised = alpha_bar.sqrt().float() * x0 + (1 - alpha_bar).sqrt().float() * dwt(noise, wavelet).squeeze(2)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.preset.train.precision == "bf16"):
            predicted = self.network(noised, t)
        return (predicted.float() - x0).square().mean(dim=(0, 2, 3, 4))

    @torch.no_grad()
    def average(self) -> None:
        decay = min(self.preset.train.ema, (self.done + 1) / (self.done + 10))
        torch._foreach_lerp_(list(self.ema.parameters()), list(self.network.parameters()), 1 - decay)


@torch.inference_mode()
def old_generate(network: Any, preset: Preset, seeds: list[int], precision: str = "float32") -> np.ndarray:
    """[n, D, H, W] in [−1, 1], all in one batch, row i from a generator of its own."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    wavelet, sides = preset.space.wavelet, [side // 2 for side in preset.data.shape]

    def draw(like: Tensor) -> Tensor:
        return torch.stack([torch.randn(like.shape[1:], generator=g) for g in generators])

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            return network(x_t, t)

    coeffs = draw(torch.empty(len(seeds), 8, *sides))
    clip = lambda x: encode(decode(x, wavelet).clamp_(-1, 1), wavelet)  # noqa: E731
    for x_t in preset.sample.run(denoise, coeffs, schedule_of(preset), clip, draw):
        coeffs = x_t
    return decode(coeffs, wavelet).clamp(-1, 1)[:, 0].numpy()
