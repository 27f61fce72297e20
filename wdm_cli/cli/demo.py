"""wdm demo: the whole way on data made on the spot, in a few minutes on a CPU."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wdm_cli.cli import console
from wdm_cli.cli.options import DeviceOption

if TYPE_CHECKING:
    from wdm_cli.engine.preset import Preset

PHANTOMS, PHANTOM_SIZE = 64, 64
SAMPLES, SHOWN = 8, 5

STEPS = 1600  # what two slower cores take in three minutes


def demo(
    out: Annotated[Path, typer.Option("--out", help="The folder to write.")] = Path("wdm-demo"),
    steps: Annotated[int, typer.Option("--steps", min=1, help="Training steps; fewer are quicker and worse.")] = STEPS,
    device: DeviceOption = "auto",
) -> None:
    """Make head phantoms, train a tiny model on them, sample, score, and draw real beside synthetic."""
    from wdm_cli.cli.sample import find_source, sample_into
    from wdm_cli.cli.train import run_training
    from wdm_cli.config import resolve
    from wdm_cli.engine.data.phantom import write_phantoms
    from wdm_cli.engine.device import choose_device

    started, chosen = time.monotonic(), choose_device(device)
    console.note(f"1/4  {PHANTOMS} head phantoms -> {out / 'data'}")
    write_phantoms(out / "data", PHANTOMS, PHANTOM_SIZE)
    options = {"data.dir": str(out / "data"), "train.steps": steps}
    resolved = resolve("tiny", options=options)
    console.note(f"2/4  training the preset tiny -> {out / 'run'}")
    run_training(resolved, out / "run", chosen, workers=1)
    console.note(f"3/4  {SAMPLES} samples -> {out / 'samples'}")
    source = find_source(out / "run", None, None)
    assert source.preset is not None
    about = out / "samples" / "run.json"
    stale = about.exists() and source.sha256.encode() not in about.read_bytes()  # of a demo with other --steps
    sample_into(out / "samples", source, source.preset, SAMPLES, seed=0, batch_size=SAMPLES, ema=True,
                precision="float32", device=chosen, overwrite=stale)  # fmt: skip
    console.note("4/4  scores, picture and report")
    show_scores(out, source.preset)
    picture = draw(out, source.preset, source.step or 0)
    page = write_report(out)
    console.answer(f"\nDone in {console.duration(time.monotonic() - started)}. Look at {picture}")
    console.answer(f"The whole story, with a 3D viewer: open {page} in a browser")
    console.answer(NEXT)


def show_scores(out: Path, preset: Preset) -> None:
    """Scores that need no network. 32³ is too small for the paper's protocol."""
    from wdm_cli.cli.evaluate import follow, show
    from wdm_cli.engine import evaluate
    from wdm_cli.engine.metrics.volumes import open_dataset, open_folder

    fake, real = open_folder(out / "samples"), open_dataset(out / "data", preset.data)
    show(follow(evaluate.without_network(fake, real)), out / "eval.json", False)


def write_report(out: Path) -> Path:
    """`wdm report` of the run and its samples, the training volumes beside them."""
    from wdm_cli.cli.report import report

    path = out / "report.html"
    report([out / "run", out / "samples"], out=path)
    return path


def draw(out: Path, preset: Preset, step: int) -> Path:
    """Real phantoms beside synthetic ones, in one window."""
    import numpy as np

    from wdm_cli.engine.data.volume import Volume, read_nifti
    from wdm_cli.engine.picture import Group, mosaic, save_png

    cases = preset.data.find(out / "data").cases[:SHOWN]
    real = [preset.data.load(case.path) for case in cases]
    real = [Volume(volume.array * np.float32(0.5) + np.float32(0.5), volume.affine) for volume in real]
    files = sorted((out / "samples").glob("sample_*.nii.gz"))[:SHOWN]
    synthetic = [read_nifti(file) for file in files]
    groups = [
        Group("real phantoms", real, [case.name for case in cases]),
        Group("synthetic (wdm)", synthetic, [file.name.removesuffix(".nii.gz") for file in files]),
    ]
    path = out / "real_beside_synthetic.png"
    save_png(path, mosaic(groups, (0.0, 1.0), f"{preset.name}, {step} training steps"))
    return path


NEXT = """
Next, with your own volumes:
  wdm verify DIR                                               what is there, and what is wrong
  wdm train --preset ours_unet_128 --data-dir DIR --dry-run    memory, disk and time before you start
  wdm train --preset ours_unet_128 --data-dir DIR              BraTS; LIDC: --dataset lidc-idri; others: --dataset nifti
  wdm sample -n 100 --out samples/                             from the newest run
  wdm eval fid --real DIR --fake samples/ --preset ours_unet_128 --weights resnet_50_23dataset.pth
  wdm report samples/                                          one HTML page to look at, or to send"""
