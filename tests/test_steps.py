"""benchmarks/steps.py: two cells of a minimal model, and how the fewest steps are chosen."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small import TABLES, Heads

from wdm_cli.engine.data.phantom import write_phantoms
from wdm_cli.engine.preset import from_dict
from wdm_cli.engine.run import train
from wdm_cli.engine.train import Trainer

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import steps

    return steps


@pytest.mark.slow
def test_cells_are_scored_once_and_reported(steps: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = {**TABLES, "train": {**TABLES["train"], "steps": 5}, "diffusion": {"schedule": "cosine", "steps": 12}}
    list(train(Trainer(from_dict(tables), Heads(8), torch.device("cpu")), tmp_path / "run"))
    write_phantoms(tmp_path / "real", 4, 8, seed=100)
    out = tmp_path / "out"
    command = ["steps.py", "--run", tmp_path / "run", "--real", tmp_path / "real", "--out", out, "-n", "2"]
    monkeypatch.setattr(sys, "argv", [*map(str, command), "--samplers", "dpm++", "--steps", "3"])
    steps.main()
    results = json.loads((out / "steps.json").read_text())
    assert set(results["cells"]) == {"ddpm 12", "dpm++ 3"}
    assert results["cells"]["ddpm 12"]["excess"]["fid"]["value"] == 0
    assert np.isfinite(results["cells"]["dpm++ 3"]["excess"]["spectrum"]["value"])
    table = (out / "steps.md").read_text()
    assert "| dpm++ | 3 |" in table
    assert "too few volumes" in table  # two say nothing about what differs
    with Image.open(out / "steps.png") as image:
        assert image.width > 800

    monkeypatch.setattr(steps.Bench, "score", None)  # a second time nothing is made or scored
    steps.main()
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--time"])
    steps.main()
    again = json.loads((out / "steps.json").read_text())
    assert again["cells"]["dpm++ 3"]["seconds"] > 0
    assert again["cells"]["dpm++ 3"]["scores"] == results["cells"]["dpm++ 3"]["scores"]


def cell(**excess: float) -> dict[str, Any]:
    """A cell whose scores lie above the reference's by so much, with intervals of ± 1."""
    known = {name: {"value": excess.get(name, 0.0), "half_width": 1.0} for name in ("kid", "fid", "spectrum", "msssim")}
    return {"excess": known}


def test_the_fewest_steps_are_those_from_which_on_no_score_is_worse(steps: Any) -> None:
    cells = {
        ("ddpm", 5): cell(fid=9.0),
        ("ddpm", 10): cell(fid=2.0, kid=0.9),
        ("ddpm", 1000): cell(),
        ("ddim", 5): cell(),  # by luck: 10 is worse
        ("ddim", 10): cell(msssim=1.1),
        ("ddim", 25): cell(spectrum=0.9),
        ("ddim", 50): cell(kid=-3.0),
        ("dpm++", 50): cell(spectrum=1.5),
    }
    assert steps.judge(cells["ddpm", 10]) == ["fid"]
    assert steps.fewest(cells) == {"ddpm": 1000, "ddim": 25}
    without = {"excess": {**cell()["excess"], "kid": {"value": 0.0, "half_width": None}}}
    assert steps.judge(without) is None
    assert steps.fewest({("ddim", 5): without}) == {}


def test_the_excess_is_found_where_there_is_one_and_only_there(steps: Any) -> None:
    """The same distribution twice: within the interval; a shifted one: beyond it."""
    draw = np.random.default_rng(0)
    real, reference, same = draw.normal(size=(200, 8)), draw.normal(size=(60, 8)), draw.normal(size=(60, 8))
    for metric in (steps.WholeKID(), steps.FID()):
        difference = steps.Excess(metric=metric)
        for fake, above in ((same, False), (same + 1.0, True)):
            both = np.hstack([fake, reference])
            value = difference.score(real, both, 0)[metric.kind]
            assert (value > steps.half_widths(difference, real, both, 0)[metric.kind]) == above
