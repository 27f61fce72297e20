"""Features by several processes: the same rows, in the same cache."""

import dataclasses

import nibabel as nib
import numpy as np
import pytest
import torch

from wdm_cli.engine import evaluate
from wdm_cli.engine.errors import ConfigError
from wdm_cli.engine.metrics import FID, Histogram
from wdm_cli.engine.metrics.crew import Reopened, devices, fill, portable
from wdm_cli.engine.metrics.extractor import load_extractor
from wdm_cli.engine.metrics.features import extract, network_source
from wdm_cli.engine.metrics.metric import Options
from wdm_cli.engine.metrics.volumes import open_folder


@pytest.fixture
def folders(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("real", "fake"):
        (tmp_path / name).mkdir()
        for index in range(3):
            array = rng.random((16, 16, 16), dtype=np.float32)
            nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / name / f"{index}.nii.gz")
    return open_folder(tmp_path / "real"), open_folder(tmp_path / "fake")


@pytest.mark.slow
def test_two_processes_give_the_same_report(folders, tmp_path, monkeypatch):
    real, fake = folders
    extractor = load_extractor("random", device="cpu")
    metrics = [FID(), Histogram()]
    one = Options(cache_dir=tmp_path / "one", uncertainty=False)
    two = Options(cache_dir=tmp_path / "two", uncertainty=False, workers=2)
    alone = evaluate.finish(evaluate.run(metrics, fake, real, extractor, one))

    def idle(volume):
        raise AssertionError("the other processes should have done it")

    shared = evaluate.finish(evaluate.run(metrics, fake, real, dataclasses.replace(extractor, network=idle), two))
    assert shared.to_dict() == alone.to_dict()
    rows = [sorted(p.name for p in (tmp_path / name / "features").glob("*.npy")) for name in ("one", "two")]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 12


def test_nothing_is_started_for_what_is_there(folders, tmp_path):
    sources = [network_source(load_extractor("random", device="cpu"))]
    for volumes in folders:
        evaluate.finish(extract(volumes, sources, tmp_path))
    assert list(fill(folders, sources, tmp_path, workers=2)) == []


def test_files_are_spread_over_all_gpus_unless_one_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    extractor = load_extractor("random", device="cpu")
    for name, expected in (("cuda", ["cuda:0", "cuda:1", "cuda:2"]), ("cuda:1", ["cuda:1"]), ("cpu", ["cpu"])):
        source = network_source(dataclasses.replace(extractor, device=torch.device(name)))
        assert devices([source]) == expected
        assert portable(source, expected[-1]).describe == Reopened(extractor.again, extractor.sha256, expected[-1])


def test_a_network_that_differs_between_processes_is_refused(folders):
    extractor = load_extractor("random", device="cpu")
    with pytest.raises(ConfigError, match="another one in every process"):
        Reopened(extractor.again, "0" * 64, "cpu")(folders[0][0])
