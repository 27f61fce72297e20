"""What fewer sampling steps cost: scores and seconds of every sampler at every number of steps, for a trained model.

    python benchmarks/steps.py --run RUN --real DIR --out steps/             all cells, then the tables
    python benchmarks/steps.py --run RUN --real DIR --out steps/ --samplers ddim dpm++ --steps 10 25 -n 96
    python benchmarks/steps.py --run RUN --real DIR --out steps/ --time      seconds a volume, on an idle machine

A cell is one sampler at one number of steps. Its volumes, features and scores are kept in --out, so the same command
goes on where it stopped and makes only what is missing; more cells or a larger -n go on from there too. The
reference is the paper's way: ddpm with all steps of the schedule. --real takes raw cases (made into volumes as the
model's data settings say) that the model has not seen.

Writes steps.json, steps.md and steps.png.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from steps_report import write_report

from wdm_cli.cli.options import make_cpu_fast
from wdm_cli.cli.sample import find_source, sample_into, settings_of
from wdm_cli.engine import evaluate
from wdm_cli.engine.checkpoint import Checkpoint, build_network
from wdm_cli.engine.device import choose_device
from wdm_cli.engine.files import write_json
from wdm_cli.engine.generate import Sample, generate
from wdm_cli.engine.metrics import FID, KID, MSSSIM, Spectrum
from wdm_cli.engine.metrics.extractor import Extractor, load_extractor
from wdm_cli.engine.metrics.features import NETWORK, extract, metric_source, network_source
from wdm_cli.engine.metrics.metric import DescribingMetric, FeatureMetric, Options
from wdm_cli.engine.metrics.msssim import fitting_scales
from wdm_cli.engine.metrics.pairwise import cubic_kernel, mmd2
from wdm_cli.engine.metrics.uncertainty import half_widths
from wdm_cli.engine.metrics.volumes import Volumes, open_dataset, open_folder
from wdm_cli.engine.preset import Preset
from wdm_cli.engine.provenance import commit, device_name, versions
from wdm_cli.engine.samplers import DDIM, DDPM, DPMSolverPP, Sampler

STEPS = (5, 10, 15, 20, 25, 50, 100, 250, 1000)
SAMPLERS: dict[str, Sampler] = {
    "ddpm": DDPM(),
    "ddim": DDIM(),
    "dpm++": DPMSolverPP(grid="linear"),
    "ddim quadratic": DDIM(grid="quadratic"),
    "dpm++ log-snr": DPMSolverPP(grid="log-snr"),
    "dpm++ karras": DPMSolverPP(grid="karras"),
    "dpm++ sde": DPMSolverPP(grid="linear", sde=True),
}
SCORES = ("kid", "fid", "spectrum", "msssim")
PAIRS = 2016  # of MS-SSIM on both sides: all those of 64 volumes


@dataclass(frozen=True, kw_only=True)
class WholeKID(KID):
    """KID over all volumes at once, not over random subsets: the same expectation with less scatter."""

    def score(self, real: np.ndarray, fake: np.ndarray, seed: int) -> dict[str, float]:
        return {"kid": mmd2(cubic_kernel(real, real), cubic_kernel(fake, fake), cubic_kernel(real, fake))}


@dataclass(frozen=True, kw_only=True)
class Excess(FeatureMetric):
    """What a cell scores above the reference, against the same real volumes.

    Its rows [n, 2F] are a volume of the cell beside the one that the reference made from the same seed, so the
    jackknife leaves out both, and what real volumes and starting noise have in common cancels.
    """

    kind: Literal["excess"] = "excess"
    metric: FeatureMetric
    directions: ClassVar[dict[str, str]] = {}

    def score(self, real: np.ndarray, fake: np.ndarray, seed: int) -> dict[str, float]:
        cell, reference = (self.metric.score(real, half, seed) for half in np.split(fake, 2, axis=1))
        return {self.metric.kind: cell[self.metric.kind] - reference[self.metric.kind]}


@dataclass(frozen=True)
class Bench:
    """A model, its unseen real volumes, and the folder that keeps everything."""

    out: Path
    source: Checkpoint
    preset: Preset
    real: Volumes
    extractor: Extractor
    n: int
    batch_size: int
    precision: Any

    @property
    def reference(self) -> tuple[str, int]:
        return "ddpm", self.preset.diffusion.steps

    def settings(self, name: str, steps: int) -> Preset:
        return dataclasses.replace(self.preset, sample=dataclasses.replace(SAMPLERS[name], steps=steps))

    def volumes(self, name: str, steps: int) -> Volumes:
        """The cell's samples 0 … n − 1, made as far as they are missing."""
        folder = self.out / "samples" / f"{name} {steps}".replace(" ", "-")
        sample_into(folder, self.source, self.settings(name, steps), self.n, seed=0, batch_size=self.batch_size,
                    ema=True, precision=self.precision, device=choose_device("auto"))  # fmt: skip
        found = open_folder(folder)
        return found.subset(range(self.n))

    @cached_property
    def reference_volumes(self) -> Volumes:
        return self.volumes(*self.reference)

    def score(self, name: str, steps: int) -> dict[str, Any]:
        """The cell's scores with floors and intervals, and how far they are above the reference's."""
        options = Options(cache_dir=self.out / "cache")
        volumes = self.reference_volumes if (name, steps) == self.reference else self.volumes(name, steps)
        scales = min(5, fitting_scales(volumes.shape))
        metrics = [WholeKID(), FID(), Spectrum(), MSSSIM(scales=scales, pairs=PAIRS)]
        report = evaluate.finish(evaluate.run(metrics, volumes, self.real, self.extractor, options))
        scores = {score.name: dataclasses.asdict(score) for score in report.scores}
        return {"n": self.n, "scores": scores, "protocol": report.protocol, "excess": self.excess(volumes)}

    def rows(self, volumes: Volumes) -> dict[str, np.ndarray]:
        """Features and band energies, one row a volume."""
        sources = [network_source(self.extractor), metric_source(Spectrum())]
        return evaluate.finish(extract(volumes, sources, self.out / "cache"))

    def excess(self, volumes: Volumes, base: Volumes | None = None) -> dict[str, dict[str, float | None]]:
        """Scores above those of `base` (the reference), with the half width of the 95 % interval.

        The half width is None where the volumes are too few for one.
        """
        of_real, of_cell, of_base = map(self.rows, (self.real, volumes, base or self.reference_volumes))
        found: dict[str, dict[str, float | None]] = {}
        for metric in (WholeKID(), FID(), Spectrum()):
            rows = metric.kind if isinstance(metric, DescribingMetric) else NETWORK
            difference, both = Excess(metric=metric), np.hstack([of_cell[rows], of_base[rows]])
            found[metric.kind] = {
                "value": difference.score(of_real[rows], both, 0)[metric.kind],
                "half_width": half_widths(difference, of_real[rows], both, 0).get(metric.kind),
            }
        return found


def add_distance_to_limit(bench: Bench, cells: dict[tuple[str, int], Any]) -> None:
    """For every cell, how far it is from its own sampler's largest number of steps: what taking fewer costs.

    Samplers without fresh noise lead from equal seeds to almost equal volumes, so this sees far smaller differences.
    """
    for name in dict.fromkeys(name for name, _ in cells):
        most = max(steps for sampler, steps in cells if sampler == name)
        for (sampler, steps), cell in cells.items():
            if sampler == name and steps < most and cell.get("limit", {}).get("steps") != most:
                cell["limit"] = {"steps": most, **bench.excess(bench.volumes(name, steps), bench.volumes(name, most))}


def add_diversity(cells: dict[str, Any], reference: dict[str, Any]) -> None:
    """MS-SSIM's part of `excess`: how much farther from the real volumes' value a cell is than the reference."""
    for cell in cells.values():
        gaps, squares = [], []
        for one in (cell, reference):
            scores = one["scores"]
            gaps.append(abs(scores["msssim"]["value"] - scores["msssim_real"]["value"]))
            squares.append((scores["msssim"]["half_width"] or float("nan")) ** 2)
        width = sum(squares) ** 0.5
        cell["excess"]["msssim"] = {"value": gaps[0] - gaps[1], "half_width": None if width != width else width}


def judge(cell: dict[str, Any]) -> list[str] | None:
    """The scores that are worse than the reference's beyond the 95 % interval; None if there are no intervals."""
    excess = cell["excess"]
    if any(excess[name]["half_width"] is None for name in SCORES):
        return None
    return [name for name in SCORES if excess[name]["value"] > excess[name]["half_width"]]


def fewest(cells: dict[tuple[str, int], Any]) -> dict[str, int]:
    """For each sampler the fewest steps that are, like all larger numbers measured, no worse than the reference."""
    found: dict[str, int] = {}
    for name in dict.fromkeys(name for name, _ in cells):
        falling = sorted((steps for sampler, steps in cells if sampler == name), reverse=True)
        if good := list(itertools.takewhile(lambda steps, name=name: judge(cells[name, steps]) == [], falling)):
            found[name] = good[-1]
    return found


def seconds(bench: Bench, name: str, steps: int) -> float:
    """Seconds for one volume by itself in float32, the least of up to three after one that warms up."""
    network, _ = build_network(bench.source, bench.preset if bench.source.preset is None else None, ema=True)
    network = network.to(choose_device("auto"))
    make_cpu_fast(choose_device("auto"), network, bench.preset, training=False, batch_size=1)  # as `wdm sample`
    times = []
    for count in (3, *[steps] * (3 if steps <= 25 else 1)):
        made = generate(network, bench.settings(name, count), [0])
        times += [record.seconds for record in made if isinstance(record, Sample)]
    return min(times[1:])


def wanted(bench: Bench, names: list[str], steps: list[int]) -> Iterator[tuple[str, int]]:
    """The reference, then all cells from few steps to many."""
    yield bench.reference
    for count in sorted(steps):
        for name in names:
            if count <= bench.preset.diffusion.steps and (name, count) != bench.reference:
                yield name, count


def open_bench(arguments: argparse.Namespace) -> Bench:
    source = find_source(arguments.run, arguments.checkpoint, None)
    preset = settings_of(source, arguments.preset, [], {})
    real, extractor = open_dataset(arguments.real, preset.data), load_extractor(arguments.weights)
    return Bench(arguments.out, source, preset, real, extractor, arguments.n, arguments.batch_size, arguments.precision)


def open_results(bench: Bench) -> dict[str, Any]:
    """steps.json as far as it goes; refused if it is of another model or other real volumes."""
    of = {
        "checkpoint_sha256": bench.source.sha256,
        "training_step": bench.source.step,
        "preset": bench.preset.to_dict(),
        "real_sha256": bench.real.files_sha256,
        "real_n": len(bench.real),
        "extractor": bench.extractor.describe(),
        "precision": bench.precision,
    }
    path = bench.out / "steps.json"
    results = json.loads(path.read_text()) if path.exists() else {"of": of, "cells": {}}
    if changed := [key for key, value in of.items() if results["of"].get(key) != value]:
        raise SystemExit(f"{path}: holds results of another {', '.join(changed)}; use another --out")
    return results


def stamp(results: dict[str, Any], threads: int) -> dict[str, Any]:
    made = {
        "date": datetime.now(UTC).date().isoformat(),
        "device": device_name(choose_device("auto")),
        "cores": os.cpu_count(),
        "threads": threads,
        "versions": versions(),
        "commit": commit(),
    }
    return {**results, "made": made}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="run folder of the model")
    parser.add_argument("--checkpoint", type=Path, help="instead of --run: a weights file")
    parser.add_argument("--preset", help="the network of bare weights, e.g. ours_unet_128")
    parser.add_argument("--real", type=Path, required=True, help="folder of unseen real cases")
    parser.add_argument("--out", type=Path, default=Path("steps"), help="folder that keeps everything")
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=list(SAMPLERS), metavar="NAME")
    parser.add_argument("--steps", nargs="+", type=int, default=list(STEPS), metavar="N")
    parser.add_argument("-n", type=int, default=64, help="volumes a cell")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--precision", choices=["float32", "bf16"], default="bf16")
    parser.add_argument("--weights", default="random", help="a MedicalNet file; default: a seeded random network")
    parser.add_argument("--time", action="store_true", help="measure seconds a volume instead of scores")
    arguments = parser.parse_args()
    bench = open_bench(arguments)
    results = open_results(bench)
    for name, steps in wanted(bench, arguments.samplers, arguments.steps):
        cell = results["cells"].setdefault(f"{name} {steps}", {"sampler": name, "steps": steps})
        if arguments.time:
            cell["seconds"] = seconds(bench, name, steps)
            results["timed"] = stamp({}, torch.get_num_threads())["made"]
        elif cell.get("n") != bench.n:
            print(f"{name}, {steps} steps", file=sys.stderr)
            cell.pop("limit", None)
            cell.update(bench.score(name, steps))
            results = stamp(results, torch.get_num_threads())
        write_json(bench.out / "steps.json", results)
    done = {(c["sampler"], c["steps"]): c for c in results["cells"].values() if "scores" in c}
    if bench.reference in done:
        add_diversity({str(key): cell for key, cell in done.items()}, done[bench.reference])
        add_distance_to_limit(bench, done)
        results["fewest"] = fewest(done)
        write_json(bench.out / "steps.json", results)
        write_report(bench.out, results, {key: judge(cell) for key, cell in done.items()}, bench.reference)


if __name__ == "__main__":
    main()
