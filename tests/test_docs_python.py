"""The cells of docs/python.md run in order, from nothing but a folder of DICOM files, and give what they say."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_factory import write_series
from PIL import Image
from test_docs import blocks

from wdm_cli.engine.data.volume import read_nifti
from wdm_cli.engine.metrics import extractor, resnet

CELLS = blocks("docs/python.md", "python")


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What stands in the notebook after its last cell; a smaller ResNet computes the random features."""
    folder = tmp_path_factory.mktemp("notebook")
    write_series(folder / "dicom")
    found: dict[str, Any] = {"folder": folder, "printed": io.StringIO()}
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(found["printed"]):
        patch.chdir(folder)
        patch.setattr(extractor, "random_resnet", lambda seed: resnet.random_resnet(seed, depth=10))
        for cell in CELLS:
            exec(compile(cell, "docs/python.md", "exec"), found)  # our own text
        found["affine"] = found["volumes"].affine
    return found


def test_cells_are_short() -> None:
    assert len(CELLS) == 7
    for cell in CELLS:
        lines = [line for line in cell.splitlines() if line and not line.startswith(("from ", "import "))]
        assert len(lines) <= 8, cell


def test_training_and_samples(names: dict[str, Any]) -> None:
    assert len(names["losses"]) == 3
    assert all(0 < loss < 100 for loss in names["losses"])
    assert [volume.shape for volume in names["made"]] == [(32, 32, 32)] * 3
    stored = read_nifti(names["folder"] / "samples" / "2.nii.gz")
    assert np.array_equal(stored.affine, names["affine"])
    assert np.allclose(stored.array * 2 - 1, names["made"][2], atol=1e-6)
    with Image.open(names["folder"] / "look.png") as picture:
        assert picture.width > 600


def test_the_official_format_gives_the_same_network(names: dict[str, Any]) -> None:
    ema, loaded = names["trainer"].ema.state_dict(), names["network"].state_dict()
    assert ema.keys() == loaded.keys()
    assert all(np.array_equal(ema[key].numpy(), loaded[key].numpy()) for key in ema)


def test_scores_and_series(names: dict[str, Any]) -> None:
    report, ct = names["report"], names["ct"]
    assert report["fid"] > 0
    assert 0 <= report["msssim"] <= 1
    assert report.protocol["fake"]["n"] == 3
    assert ct.array.shape == (32, 32, 32)
    assert ct.array.dtype == np.int16
    assert ct.array.min() == -1000
    assert "phantom_0003" in names["printed"].getvalue()
    assert Path(names["folder"] / "mine.pt").stat().st_size > 1e6
