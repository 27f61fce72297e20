"""Training step, pass of the network and peak memory: wdm's forms beside the plain one, as ratios in one run.

    python benchmarks/speed.py                          ours_unet_128 at 128³, one volume
    python benchmarks/speed.py --preset ours_wnet_128   the WavU-Net
    python benchmarks/speed.py --size 64
    python benchmarks/speed.py --device cuda            the same on a GPU
    python benchmarks/speed.py compile --size 64        with torch.compile instead (minutes of compiling)
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
from typing import Any, NamedTuple
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wdm_cli.config import resolve
from wdm_cli.engine import native, wavelet
from wdm_cli.engine.bench import InMemory, sampling_step, timed, training_step
from wdm_cli.engine.device import choose_device, keep_freed_memory
from wdm_cli.engine.machine import bf16_instructions, processor
from wdm_cli.engine.models import blocks, kernels, unet, wavunet
from wdm_cli.engine.preset import Preset
from wdm_cli.engine.provenance import versions
from wdm_cli.engine.train import Trainer

CPU = torch.device("cpu")


class Form(NamedTuple):
    precision: str
    plain: bool = False
    loops: bool = True  # compiled by g++, where the device is the CPU
    compile: str | None = None  # the mode of torch.compile, if it is used
    only: str = ""  # the one device where this is a form of its own


FORMS = {
    "plain float32": Form("float32", plain=True, loops=False),
    "float32": Form("float32"),
    "bf16": Form("bf16"),
    "bf16, no g++": Form("bf16", loops=False, only="cpu"),
}
TORCH_COMPILE = {  # g++'s loops would cut its graphs in pieces
    "plain float32": FORMS["plain float32"],
    "plain float32, torch.compile": Form("float32", plain=True, loops=False, compile="default"),
    "float32, torch.compile": Form("float32", loops=False, compile="default"),
    "bf16": FORMS["bf16"],
    "bf16, torch.compile": Form("bf16", loops=False, compile="default"),
    "bf16, CUDA graphs": Form("bf16", loops=False, compile="reduce-overhead", only="cuda"),
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


@contextlib.contextmanager
def compiled_by_torch(preset: Preset, mode: str) -> Iterator[None]:
    """Networks that are built meanwhile are compiled at their first call."""
    build = type(preset.model).build

    def build_and_compile(settings: Any, *channels: int) -> Any:
        network = build(settings, *channels)
        network.compile(mode=mode)
        return network

    with mock.patch.object(type(preset.model), "build", build_and_compile):
        yield


def measure(preset: Preset, form: Form, device: torch.device, steps: int) -> tuple[float, float, float]:
    """Seconds of a pass and of a training step, and peak memory in GB: of the process, or of the GPU."""
    native.switch(form.loops)
    with contextlib.ExitStack() as stack:
        if form.plain:
            stack.enter_context(plain_kernels())
        else:
            keep_freed_memory()
        if form.compile:
            stack.enter_context(compiled_by_torch(preset, form.compile))
        passes = sampling_step(preset, device, steps, 0)
        step = training_step("", preset, device, steps, InMemory(preset.data.shape), 0)
    return passes.seconds, step.seconds, peak_memory(device) / 1e9


def peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) * 1024


def in_a_fresh_process(work: Callable[..., Any], *arguments: Any) -> Any:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def networks(
    forms: dict[str, Form], name: str, device: torch.device, size: int, steps: int, batch: int, sets: list[str]
) -> None:
    print(
        f"{name} at {size}³, batch {batch}, {steps} steps each; pass = network and clamping in image space, one volume"
    )
    print(f"{'form':<30}{'pass s':>9}{'times':>7}{'step s':>9}{'times':>7}{'peak GB':>9}{'share':>7}")
    base: tuple[float, float, float] | None = None
    for title, form in forms.items():
        if form.only not in ("", device.type):
            continue
        own = [f"train.batch_size={batch}", f"data.image_size={size}", f"train.precision={form.precision}"]
        preset = resolve(name, sets=[*own, *sets]).preset
        try:
            found = in_a_fresh_process(measure, preset, form, device, steps)
        except Exception as error:  # noqa: BLE001 - a compiler that gives up is a result; the other forms are wanted
            print(f"{title:<30} failed: {type(error).__name__}: {str(error).strip().splitlines()[0][:120]}", flush=True)
            continue
        base = base or found
        ratios = base[0] / found[0], base[1] / found[1], found[2] / base[2]
        print(
            f"{title:<30}{found[0]:>9.4f}{ratios[0]:>7.2f}{found[1]:>9.3f}{ratios[1]:>7.2f}"
            f"{found[2]:>9.2f}{ratios[2]:>7.2f}",
            flush=True,
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
        (torch.nn.utils, "get_total_norm", "the gradients' norm"),
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
    parts = ["networks", "compile", "transforms", "parts", "shares"]
    parser.add_argument("part", nargs="?", choices=parts, default="networks")
    parser.add_argument("--preset", default="ours_unet_128")
    parser.add_argument("--device", default="cpu", help="of networks and compile; the other parts are the CPU's")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], dest="sets")
    arguments = parser.parse_args()
    if arguments.steps < 1:
        parser.error("--steps: at least 1")
    if arguments.part not in ("networks", "compile") and (arguments.device != "cpu" or arguments.batch != 1):
        parser.error(f"{arguments.part} is of the CPU and one volume: it takes neither --device nor --batch")
    device = choose_device(arguments.device)
    print(f"{describe(device)}, torch {versions()['torch']}, {date.today()}")
    if arguments.part == "transforms":
        transforms()
    elif arguments.part == "parts":
        step_parts()
    elif arguments.part == "shares":
        shares(arguments.preset, arguments.size, arguments.steps, arguments.sets)
    else:
        forms = FORMS if arguments.part == "networks" else TORCH_COMPILE
        networks(forms, arguments.preset, device, arguments.size, arguments.steps, arguments.batch, arguments.sets)


def describe(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor()} ({bf16_instructions() or 'no bf16'}), {torch.get_num_threads()} threads"


if __name__ == "__main__":
    main()
