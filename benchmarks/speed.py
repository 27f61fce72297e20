"""Training step, pass of the network and peak memory: wdm's forms beside the plain one, as ratios in one run.

    python benchmarks/speed.py                          ours_unet_128 at 128³, one volume
    python benchmarks/speed.py --preset ours_wnet_128   the WavU-Net
    python benchmarks/speed.py --size 64
    python benchmarks/speed.py parts                    the operations of a block, PyTorch's beside ours
    python benchmarks/speed.py transforms               the wavelet transform beside a copy of the same bytes
    python benchmarks/speed.py shares [--size 64]       what a bf16 training step is made of

The plain form is the same network as PyTorch's own modules make it: GroupNorm, SiLU, convolution, pooling one after the
other, in float32, in the default memory layout, with the Haar transform axis by axis. Every form has its own process.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wdm_cli.config import resolve
from wdm_cli.engine import native, wavelet
from wdm_cli.engine.bench import InMemory, sampling_step, timed, training_step
from wdm_cli.engine.device import keep_freed_memory
from wdm_cli.engine.models import blocks, kernels, unet, wavunet
from wdm_cli.engine.preset import Preset
from wdm_cli.engine.provenance import versions
from wdm_cli.engine.train import Trainer

CPU = torch.device("cpu")
FORMS = {  # precision, plain, with the compiled loops
    "plain float32": ("float32", True, False),
    "float32": ("float32", False, True),
    "bf16": ("bf16", False, True),
    "bf16, no g++": ("bf16", False, False),
}


@contextlib.contextmanager
def plain_kernels() -> Iterator[None]:
    """Every lean form replaced by what PyTorch's own modules compute."""

    def convolve(layers: nn.Sequential, x: Tensor, resample: Any = None) -> Tensor:
        norm, *_, conv = layers
        return kernels.plain_norm_act_conv(x, norm.parts, conv.weight, conv.bias, resample)  # type: ignore[arg-type]

    def finish(self: blocks.ResBlock, h: Tensor, x: Tensor, emb: Tensor) -> Tensor:
        h = h + self.emb_layers(emb)[:, :, None, None, None]
        return self.skip_connection(x) + convolve(self.out_layers, h)

    replaced: list[tuple[Any, str, Any]] = [
        (blocks, "activate_and_convolve", convolve),
        (unet, "activate_and_convolve", convolve),
        (wavunet, "activate_and_convolve", convolve),
        (blocks.ResBlock, "finish", finish),
        (unet, "average_pool", kernels.plain_average_pool),
        (unet, "nearest_upsample", kernels.plain_nearest_upsample),
        (unet, "preferred_layout", lambda x: x),
        (wavunet, "preferred_layout", lambda x: x),
        (wavelet, "_is_lean", lambda x, name: False),
    ]
    with contextlib.ExitStack() as stack:
        for where, name, value in replaced:
            stack.enter_context(mock.patch.object(where, name, value))
        yield


def measure(preset: Preset, plain: bool, compiled: bool, steps: int) -> tuple[float, float, float]:
    """Seconds of a pass and of a training step, and the peak memory of the process in GB."""
    native.switch(compiled)
    if not plain:
        keep_freed_memory()
    with plain_kernels() if plain else contextlib.nullcontext():
        passes = sampling_step(preset, CPU, steps, 0)
        step = training_step("", preset, CPU, steps, InMemory(preset.data.shape), 0)
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return passes.seconds, step.seconds, int(fields["VmHWM"].split()[0]) * 1024 / 1e9


def in_a_fresh_process(work: Callable[..., Any], *arguments: Any) -> Any:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def networks(name: str, size: int, steps: int, sets: list[str]) -> None:
    print(f"{name} at {size}³, one volume, {steps} steps each; pass = network and clamping in image space")
    print(f"{'form':<16}{'pass s':>9}{'times':>7}{'step s':>9}{'times':>7}{'peak GB':>9}{'share':>7}")
    base: tuple[float, float, float] | None = None
    for form, (precision, plain, compiled) in FORMS.items():
        own = ["train.batch_size=1", f"data.image_size={size}", f"train.precision={precision}"]
        preset = resolve(name, sets=[*own, *sets]).preset
        found = in_a_fresh_process(measure, preset, plain, compiled, steps)
        base = base or found
        ratios = base[0] / found[0], base[1] / found[1], found[2] / base[2]
        print(
            f"{form:<16}{found[0]:>9.3f}{ratios[0]:>7.2f}{found[1]:>9.2f}{ratios[1]:>7.2f}{found[2]:>9.2f}{ratios[2]:>7.2f}"
        )


def transforms() -> None:
    """Medians over rounds in which copy, lean and plain form take turns."""
    keep_freed_memory()
    layout = torch.channels_last_3d
    print(f"{'tensor':<22}{'copy ms':>9}{'forward':>9}{'× copy':>8}{'plain':>8}{'inverse':>9}{'× copy':>8}{'plain':>8}")
    for shape in ((1, 1, 128, 128, 128), (1, 1, 256, 256, 256), (1, 64, 64, 64, 64)):
        x = torch.randn(shape).contiguous(memory_format=layout)
        bands = wavelet.dwt(x)
        target = torch.empty_like(x)
        works: list[Callable[[], Any]] = [
            lambda x=x, target=target: target.copy_(x),
            lambda x=x: wavelet.dwt(x),
            lambda x=x: wavelet.plain_dwt(x, "haar", 1.0),
            lambda bands=bands: wavelet.idwt(bands),
            lambda bands=bands: wavelet.plain_idwt(bands, "haar", 1.0),
        ]
        times = [timed("", work, CPU, repeats=21).seconds * 1000 for work in works]
        copy, forward, plain, inverse, plain_inverse = times
        print(
            f"{'×'.join(map(str, shape)):<22}{copy:>9.2f}{forward:>9.2f}{forward / copy:>8.1f}{plain:>8.2f}"
            f"{inverse:>9.2f}{inverse / copy:>8.1f}{plain_inverse:>8.2f}"
        )


def step_parts() -> None:
    """The operations of a residual block at 64 channels and 64³ voxels, PyTorch's own beside ours."""
    print(f"{'ms at 64 channels, 64³':<44}{'float32':>9}{'bf16':>9}")
    rows: dict[str, list[float]] = {}

    def time_of(name: str, work: Callable[[], Any]) -> None:
        rows.setdefault(name, []).append(timed("", work, CPU, repeats=7).seconds * 1000)

    def sum_of_two(name: str) -> None:
        for dtype in (torch.float32, torch.bfloat16):
            a, b = torch.zeros(2, 64, 64, 64, 64, dtype=dtype)
            time_of(name, lambda a=a, b=b: a + b)

    sum_of_two("sum, memory given back")
    keep_freed_memory()
    sum_of_two("sum, memory kept")
    for dtype in (torch.float32, torch.bfloat16):
        for layout, name in ((torch.contiguous_format, "plain layout"), (torch.channels_last_3d, "channels-last")):
            x = torch.randn(1, 64, 64, 64, 64).to(dtype).contiguous(memory_format=layout)
            weight, norm = (
                torch.randn(64, 64, 3, 3, 3).to(dtype),
                kernels.Norm(torch.ones(64), torch.zeros(64), 32, 1e-5),
            )
            time_of(f"convolution, {name}", lambda x=x, weight=weight: torch.conv3d(x, weight, padding=1))
        norm = kernels.Norm(torch.ones(64), torch.zeros(64), 32, 1e-5)
        mean, rstd = kernels._norm_act(x, norm)[1:]
        saved = (x, mean.to(dtype), rstd.to(dtype)) if dtype == torch.float32 else (x, mean, rstd)
        arguments = (norm.weight, 1, 64, 64**3, 32, [True] * 3)
        time_of("SiLU(GroupNorm), PyTorch's", lambda x=x, norm=norm: kernels.plain_norm_act(x, norm))
        time_of("SiLU(GroupNorm), ours", lambda x=x, norm=norm: kernels._norm_act(x, norm))
        time_of(
            "GroupNorm gradient, PyTorch's, channels-last",
            lambda x=x, s=saved, a=arguments: torch.ops.aten.native_group_norm_backward(x, *s, *a),
        )
        time_of(
            "SiLU and GroupNorm gradient, ours",
            lambda x=x, norm=norm, m=mean, r=rstd: kernels._norm_act_gradients(x, x, norm, m, r),
        )
        time_of("pooling, PyTorch's in float32", lambda x=x: kernels.plain_average_pool(x.float()))
        time_of("pooling, ours", lambda x=x: kernels.average_pool(x))
    for name, times in rows.items():
        print(f"{name:<44}" + "".join(f"{value:>9.1f}" for value in times))


def shares(name: str, size: int, steps: int, sets: list[str]) -> None:
    """What a training step in bf16 is made of: seconds inside the functions that do the work."""
    keep_freed_memory()
    own = ["train.batch_size=1", f"data.image_size={size}", "train.precision=bf16", f"train.steps={steps + 3}"]
    preset = resolve(name, sets=[*own, *sets]).preset
    trainer = Trainer(preset, InMemory(preset.data.shape), CPU)
    spent: dict[str, float] = {}

    def clocked(part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            result = work(*arguments, **options)
            spent[part] = spent.get(part, 0) + time.perf_counter() - started
            return result

        return run

    places: list[tuple[Any, str, str]] = [
        (F, "conv3d", "convolutions"),
        (kernels, "_conv_gradients", "convolutions' gradients"),
        (kernels, "_norm_act", "SiLU(GroupNorm)"),
        (kernels, "_norm_act_gradients", "SiLU(GroupNorm)'s gradients"),
        (trainer.optimizer, "step", "AdamW"),
        (trainer, "_update_ema", "moving average"),
    ]
    with contextlib.ExitStack() as stack:
        for where, function, part in places:
            stack.enter_context(mock.patch.object(where, function, clocked(part, getattr(where, function))))
        taking = trainer.run()
        for _ in range(3):
            next(taking)
        spent.clear()
        started = time.perf_counter()
        for _ in range(steps):
            next(taking)
        total = time.perf_counter() - started
    print(f"{name} at {size}³ in bf16, {steps} steps of {total / steps:.2f} s")
    for part, seconds in {**spent, "the rest": total - sum(spent.values())}.items():
        print(f"{part:<30}{seconds / steps * 1000:>8.0f} ms{seconds / total:>7.0%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", nargs="?", choices=["networks", "transforms", "parts", "shares"], default="networks")
    parser.add_argument("--preset", default="ours_unet_128")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], dest="sets")
    arguments = parser.parse_args()
    processor = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        "unknown processor",
    )
    amx = "with" if "amx_bf16" in Path("/proc/cpuinfo").read_text() else "without"
    found = versions()
    print(f"{processor} {amx} AMX, {torch.get_num_threads()} threads, torch {found['torch']}, {date.today()}")
    if arguments.part == "transforms":
        transforms()
    elif arguments.part == "parts":
        step_parts()
    elif arguments.part == "shares":
        shares(arguments.preset, arguments.size, arguments.steps, arguments.sets)
    else:
        networks(arguments.preset, arguments.size, arguments.steps, arguments.sets)


if __name__ == "__main__":
    main()
