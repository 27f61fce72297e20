"""Curves of a training and of steps against quality, as charts; and progress.png, to be looked at while it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wdm_cli.engine.chart import Chart, Line, picture
from wdm_cli.engine.errors import DataError
from wdm_cli.engine.metrics_log import losses_in, read_metrics
from wdm_cli.engine.picture import BACKGROUND, save_png

TITLES = {
    "kid": "KID x 1000 (lower is better)",
    "fid": "FID x 1000 at the floor's n (lower is better)",
    "spectrum": "spectrum distance, dB, at the floor's n (lower is better)",
    "msssim": "MS-SSIM (nearer to the real value is better)",
}
FAR_OFF = 6  # times the usual distance of a cell, from which it leaves the panel at its upper edge
Cell = dict[str, Any]
CHART = (460, 260)


def of_training(metrics: dict[str, NDArray[np.float64]]) -> tuple[Chart, ...]:
    """Loss, its parts, learning rate and seconds a step."""
    steps = metrics["step"].tolist()

    def line(name: str, column: str) -> Line:
        return Line(name, steps, metrics[column].tolist())

    parts = losses_in(metrics)
    charts = [
        Chart("loss (mean of the bands)" if len(parts) > 1 else "loss", (line("loss", "loss"),), log=True),
        Chart("learning rate", (line("lr", "lr"),)),
        Chart("seconds a step", (line("seconds", "seconds"),)),
    ]
    if len(parts) > 1:
        charts.insert(1, Chart("loss of each band", tuple(line(name, f"loss_{name}") for name in parts), log=True))
    return tuple(charts)


def draw_progress(run: Path, preview: Path | None = None) -> Path:
    """RUN/progress.png: the curves so far, and the newest picture of samples below them."""
    charts = [picture(chart, CHART) for chart in of_training(read_metrics(run / "metrics.csv"))]
    width, height = 2 * CHART[0], 2 * CHART[1]
    samples = Image.open(preview).convert("RGB") if preview else None
    if samples is not None:
        samples.thumbnail((width, 10 * height))
    size = (width, height + (samples.height if samples else 0))
    image = Image.new("RGB", size, BACKGROUND)
    for index, chart in enumerate(charts):
        image.paste(chart, (index % 2 * CHART[0], index // 2 * CHART[1]))
    if samples is not None:
        image.paste(samples, ((width - samples.width) // 2, height))
    save_png(run / "progress.png", image)
    return run / "progress.png"


# --- steps against quality: the steps.json of benchmarks/steps.py ---


def read_steps(path: Path) -> dict[str, Any]:
    """Results of benchmarks/steps.py.

    Raises:
        DataError: the file is something else, or holds no scores yet.
    """
    try:
        results = json.loads(path.read_bytes())
        charts = of_steps(scored_cells(results))
        _ = results["of"]["preset"]["name"], results["of"]["training_step"]  # what a report says of them
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not the steps.json of benchmarks/steps.py") from error
    if not charts:
        raise DataError(f"{path}: holds no scores yet", hint="let benchmarks/steps.py run on")
    return dict(results)


def scored_cells(results: dict[str, Any]) -> dict[tuple[str, int], Cell]:
    """Cells by sampler and number of steps."""
    return {(cell["sampler"], cell["steps"]): cell for cell in results["cells"].values() if "scores" in cell}


def of_steps(cells: dict[tuple[str, int], Cell], reference: tuple[str, int] | None = None) -> tuple[Chart, ...]:
    """A chart for each score over the number of sampling steps, with what real volumes score and the reference."""
    charts: list[Chart] = []
    for score, title in TITLES.items() if cells else ():
        values = {key: value_of(cell, score) for key, cell in cells.items()}
        floor = floor_of(next(iter(cells.values())), score)
        levels = [("real volumes", floor)] if floor is not None else []
        top = float("inf")
        if reference in values:
            base, ordered = values[reference], sorted(values.values())
            levels.append((f"{reference[0]}, {reference[1]} steps", base))
            top = base + FAR_OFF * max(base - ordered[0], ordered[len(ordered) // 2] - base)
        lines = tuple(
            Line(name, *zip(*[(steps, values[s, steps]) for s, steps in sorted(values) if s == name], strict=True))
            for name in dict.fromkeys(name for name, _ in cells)
        )
        charts.append(Chart(title, lines, "sampling steps", log_x=True, levels=tuple(levels), top=top, dots=True))
    return tuple(charts)


def value_of(cell: Cell, name: str) -> float:
    """What is shown of a score: FID and spectrum at the same n as their floor, KID and FID in thousandths."""
    score = cell["scores"][name]
    shown = score["at_floor_n"] if name in ("fid", "spectrum") and score["at_floor_n"] is not None else score["value"]
    return float(shown) * (1000 if name in ("kid", "fid") else 1)


def floor_of(cell: Cell, name: str) -> float | None:
    """What real volumes score: against each other, for MS-SSIM among themselves."""
    scores = cell["scores"]
    floor = scores["msssim_real"]["value"] if name == "msssim" else scores[name]["floor"]
    return None if floor is None else float(floor) * (1000 if name in ("kid", "fid") else 1)
