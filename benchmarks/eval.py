"""How fast the evaluation is, as ratios to other implementations on the same machine in the same run.

    python benchmarks/eval.py                 all parts, 128³
    python benchmarks/eval.py msssim --size 112 --volumes 10 20

MONAI comes with the `dev` extra. Times are the least of several repetitions; on a busy machine set OMP_NUM_THREADS=1
and --cpu-time, which counts what this process used instead of what passed.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from wdm_cli.engine.provenance import versions

clock: Callable[[], float] = time.perf_counter


def seconds(work: Callable[[], Any], repeat: int = 5) -> float:
    """Least time of `repeat` runs after one that warms up."""
    work()
    times = []
    for _ in range(repeat):
        start = clock()
        work()
        times.append(clock() - start)
    return min(times)


def smooth_volume(size: int, seed: int) -> torch.Tensor:
    """A smooth volume with fine noise, [D, H, W] in [0, 1]."""
    draw = torch.Generator().manual_seed(seed)
    coarse = F.interpolate(torch.rand(1, 1, 8, 8, 8, generator=draw), size=(size,) * 3, mode="trilinear")
    return (0.9 * coarse + 0.1 * torch.rand(1, 1, size, size, size, generator=draw))[0, 0]


class Made:
    """Volumes made when they are asked for, in place of a folder."""

    def __init__(self, count: int, size: int) -> None:
        self.count, self.shape = count, (size,) * 3

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> torch.Tensor:
        return smooth_volume(self.shape[0], index)


def msssim(size: int, counts: list[int]) -> dict[str, Any]:
    """Pairs of MS-SSIM against MONAI's, the growth with n, and the projection to 1000 volumes."""
    from monai.metrics.regression import compute_ms_ssim

    from wdm_cli.engine.evaluate import finish
    from wdm_cli.engine.metrics import MSSSIM
    from wdm_cli.engine.metrics.msssim import WEIGHTS
    from wdm_cli.engine.metrics.ssim import ms_ssim, prepare

    a = smooth_volume(size, 0)
    b = (a + 0.05 * torch.randn(a.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)

    def theirs() -> float:
        return float(compute_ms_ssim(a[None, None], b[None, None], spatial_dims=3, kernel_size=7))

    x, y = prepare(a, 5), prepare(b, 5)
    found: dict[str, Any] = {"difference": abs(ms_ssim(x, y, WEIGHTS) - theirs())}
    found["prepare_s"] = seconds(lambda: prepare(a, 5))
    found["pair_s"] = seconds(lambda: ms_ssim(x, y, WEIGHTS), 15)
    found["monai_pair_s"] = seconds(theirs, 3)
    making = seconds(lambda: smooth_volume(size, 2))
    for n in counts:
        volumes = Made(n, size)
        pairs = list(itertools.combinations(range(n), 2))
        start = clock()
        finish(MSSSIM().pairwise(volumes, pairs))  # type: ignore[arg-type]
        spent = clock() - start - n * making  # making the volumes is not part of it
        found[f"n={n}_per_pair_s"] = spent / len(pairs)
        found[f"n={n}_ratio_to_monai"] = found["monai_pair_s"] / (spent / len(pairs))
    found["projected_hours_n=1000"] = found[f"n={counts[-1]}_per_pair_s"] * 499_500 / 3600
    found["monai_hours_n=1000"] = found["monai_pair_s"] * 499_500 / 3600
    found["peak_memory_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return found


def fid(size: int, counts: list[int]) -> dict[str, Any]:
    """Fréchet distance at n = 1000, d = 2048 against SciPy's matrix square root."""
    import scipy.linalg

    from wdm_cli.engine.metrics.fid import frechet_distance

    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(1000, 2048)), 1.1 * rng.normal(size=(1000, 2048)) + 0.1

    def by_sqrtm() -> float:
        root = scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)).real
        shift = a.mean(0) - b.mean(0)
        return float(shift @ shift + np.trace(np.cov(a.T)) + np.trace(np.cov(b.T)) - 2 * np.trace(root))

    start = clock()
    other = by_sqrtm()
    theirs = clock() - start
    ours = seconds(lambda: frechet_distance(a, b), 3)
    return {
        "frechet_s": ours,
        "sqrtm_s": theirs,
        "ratio": theirs / ours,
        "relative_difference": abs(other - frechet_distance(a, b)) / other,
    }


def features(size: int, counts: list[int]) -> dict[str, Any]:
    """Features a volume: plain layers as the official network runs them, ours, and ours under bf16 autocast.

    wdm does not offer the last: it moves FID by more than 1 % of the floor, and is not even faster everywhere.
    """
    from wdm_cli.engine.device import keep_freed_memory
    from wdm_cli.engine.metrics.extractor import load_extractor
    from wdm_cli.engine.metrics.fid import frechet_distance
    from wdm_cli.engine.metrics.resnet import Conv3d, random_resnet

    plain = random_resnet(0).eval()
    for module in plain.modules():
        if isinstance(module, Conv3d):
            module.__class__ = torch.nn.Conv3d  # type: ignore[assignment]
    ours = load_extractor("random", device="cpu")
    volume = smooth_volume(size, 0)[None, None]
    found: dict[str, Any] = {}
    with torch.inference_mode():
        found["plain_s"] = seconds(lambda: plain(volume), 3)
        keep_freed_memory()  # as `wdm eval` does where there is room; it speeds the plain network up, too
        found["plain_memory_kept_s"] = seconds(lambda: plain(volume), 3)
        found["float32_s"] = seconds(lambda: ours(volume), 3)

    @torch.autocast("cpu", torch.bfloat16)
    def half(volume: torch.Tensor) -> torch.Tensor:
        return ours(volume)

    found["bf16_s"] = seconds(lambda: half(volume), 3)
    found["ratio_float32"] = found["plain_s"] / found["float32_s"]
    found["ratio_bf16"] = found["plain_s"] / found["bf16_s"]
    small = min(size, 64)
    rows, rows_bf16 = (
        np.concatenate([net(smooth_volume(small, seed)[None, None]).numpy() for seed in range(24)])
        for net in (ours, half)
    )
    floor = frechet_distance(rows[:12], rows[12:])
    found["bf16_share_of_floor"] = abs(frechet_distance(rows_bf16[:12], rows_bf16[12:]) - floor) / floor
    return found


PARTS = {"msssim": msssim, "fid": fid, "features": features}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--volumes", type=int, nargs="+", default=[10, 40], help="numbers of volumes for MS-SSIM")
    parser.add_argument("--out", type=Path, help="also write the figures to this JSON file")
    parser.add_argument("--cpu-time", action="store_true", help="processor time instead of wall-clock time")
    arguments = parser.parse_args()
    if arguments.cpu_time:
        globals()["clock"] = time.process_time
    result: dict[str, Any] = {
        "machine": {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()},
        "load_before": os.getloadavg()[0],
        "clock": "processor time" if arguments.cpu_time else "wall clock",
        "versions": versions(),
        "size": arguments.size,
    }
    for name in arguments.parts or PARTS:
        print(f"{name} …", file=sys.stderr)
        result[name] = PARTS[name](arguments.size, arguments.volumes)
        for key, value in result[name].items():
            print(f"{name}.{key}\t{value:.4g}")
    if arguments.out:
        from wdm_cli.engine.files import write_json

        write_json(arguments.out, result)


if __name__ == "__main__":
    main()
