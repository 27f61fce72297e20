"""wdm bench: how fast a preset runs here, and how far that is from what the device can do."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wdm_cli.cli import console
from wdm_cli.cli.options import (
    ConfigOption,
    DatasetOption,
    DeviceOption,
    JsonOption,
    SetOption,
    make_cpu_fast,
)

if TYPE_CHECKING:
    from wdm_cli.config import Resolved
    from wdm_cli.engine.bench import Timing
    from wdm_cli.engine.train import Volumes


def bench(
    preset: Annotated[str, typer.Option("--preset", help="A preset's name (`wdm presets list`) or .toml file.")],
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", help="Volumes to train from. Default: a few made of noise.")
    ] = None,
    dataset: DatasetOption = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Sampling and training steps to time.")] = 20,
    config: ConfigOption = None,
    sets: SetOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Time the transform, a sampling step and a training step, with and without loading.

    Beside each figure: its share of the device's own limit, a matrix product or a copy timed in the same run.
    """
    from wdm_cli.cli.train_data import add_layout
    from wdm_cli.config import resolve

    options = add_layout({"data.kind": dataset, "data.dir": str(data_dir) if data_dir else None}, config, sets)
    resolved = resolve(preset, config_file=config, environment=os.environ, sets=sets or (), options=options)

    import torch

    from wdm_cli.engine.bench import bench as run
    from wdm_cli.engine.device import choose_device
    from wdm_cli.engine.provenance import provenance

    chosen = choose_device(device)
    with torch.device("meta"):
        network = resolved.preset.network()
    train = resolved.preset.train
    together = train.batch_size // train.accumulate
    make_cpu_fast(chosen, network, resolved.preset, training=True, batch_size=together)
    timings: list[Timing] = []
    with tempfile.TemporaryDirectory(prefix="wdm-bench-") as scratch:
        volumes = open_cached(resolved, Path(scratch), named=data_dir is not None)
        with console.Progress("timing", 7) as progress:
            for timing in run(resolved.preset, chosen, steps, volumes):
                timings.append(timing)
                progress.update(len(timings), timing.name)
    figures = [figure(timing, timings) for timing in timings]
    if as_json:
        about = {**provenance(chosen, sys.argv), "preset": resolved.preset.to_dict(), "steps": steps}
        console.answer_json({**about, "figures": figures})
        return
    title = f"{resolved.preset.name}, {train.precision}, batch {train.batch_size}, {steps} steps, {chosen}"
    rows = [(f["name"], f["shown"], f["range"], f["rate"], f["share"]) for f in figures]
    console.table(("what", "median", "range", "rate", "share of the limit"), rows, title=title)
    with_loading, without = timings[-1].seconds, timings[-2].seconds
    console.note(f"loading: {max(0.0, 1 - without / with_loading):.1%} of a training step")


def open_cached(resolved: Resolved, scratch: Path, *, named: bool) -> Volumes:
    """The user's volumes, cached as for a training, or noise cached in a scratch folder."""
    from wdm_cli.cli.train_data import find_cases, open_volumes
    from wdm_cli.engine.bench import cached_noise

    if named:
        return open_volumes(resolved, find_cases(resolved), workers=2)
    return cached_noise(resolved.preset, scratch)


def figure(timing: Timing, timings: list[Timing]) -> dict[str, Any]:
    """A timing as numbers and as text, beside the limit that it comes up against."""
    product, copy = timings[:2]
    limit = product.flops / product.seconds if timing.flops else copy.bytes / copy.seconds
    rate = (timing.flops or timing.bytes) / timing.seconds
    unit = "TFLOP/s" if timing.flops else "GB/s"
    return {
        "name": timing.name,
        "seconds": timing.seconds,
        "least": timing.least,
        "most": timing.most,
        "flops": timing.flops,
        "bytes": timing.bytes,
        "share_of_limit": rate / limit,
        "shown": seconds(timing.seconds),
        "range": f"{seconds(timing.least)} – {seconds(timing.most)}",
        "rate": f"{rate / (1e12 if timing.flops else 1e9):.2f} {unit}",
        "share": f"{rate / limit:.0%}",
    }


def seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.1f} ms"
