"""Files that passed through an editor of Windows: a byte order mark and \r\n change nothing; UTF-16 is named."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from command import wdm
from small import small, trainer

from wdm_cli.cli.evaluate_folders import open_held_out
from wdm_cli.config import read_toml, resolve, to_toml
from wdm_cli.engine.data.phantom import write_phantoms
from wdm_cli.engine.data.split import read_split
from wdm_cli.engine.errors import DataError
from wdm_cli.engine.metrics.volumes import open_folder
from wdm_cli.engine.metrics_log import read_metrics, truncate_metrics
from wdm_cli.engine.report import read_run
from wdm_cli.engine.run import train


def through_windows(path: Path) -> Path:
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes().replace(b"\n", b"\r\n"))
    return path


def test_presets_and_configurations(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(to_toml(small().to_dict()))
    assert resolve(str(through_windows(path)), config_file=path).preset == small()
    assert wdm("config", "validate", path).code == 0
    shown = wdm("presets", "show", path).out
    assert shown.startswith("name")
    path.write_bytes(path.read_bytes().decode("utf-8-sig").encode("utf-16"))
    refused = wdm("config", "validate", path)
    assert refused.code == 2
    assert f"{path}: not UTF-8 text, but UTF-16" in refused.err


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run")
    list(train(trainer(small(train__steps=2, train__log_every=1)), run))
    return run


def test_a_run_folder(run: Path) -> None:
    (run / "run.json").write_text(json.dumps({"preset": small().to_dict()}))
    before = read_run(run)
    for name in ("run.json", "metrics.csv"):
        through_windows(run / name)
    assert read_run(run).about == before.about
    assert read_metrics(run / "metrics.csv")["step"].tolist() == [1, 2]
    truncate_metrics(run / "metrics.csv", 1)
    assert (run / "metrics.csv").read_bytes().startswith(b"step,")
    assert len(read_metrics(run / "metrics.csv")["step"]) == 1


def test_samples_are_continued(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "s"
    assert wdm("sample", "-n", 1, "--out", out, "--run", run, "--device", "cpu").code == 0
    for name in ("samples.csv", "run.json"):
        through_windows(out / name)
    again = wdm("sample", "-n", 2, "--out", out, "--run", run, "--device", "cpu")
    assert again.code == 0, again.err
    lines = (out / "samples.csv").read_text().splitlines()
    assert lines[0].startswith("index,")
    assert [line.split(",")[2] for line in lines[1:]] == ["sample_000000.nii.gz", "sample_000001.nii.gz"]


@pytest.fixture
def heads(tmp_path: Path) -> Path:
    write_phantoms(tmp_path / "heads", 6, size=8)
    assert wdm("split", tmp_path / "heads", "--val", "0.4").code == 0
    return tmp_path / "heads"


def as_split(folder: Path) -> Path:
    return through_windows(folder / "split.json")


def as_list(folder: Path) -> Path:
    path = folder.with_name("list.txt")
    path.write_text("".join(f"{name}\n" for name in read_split(folder / "split.json").val))
    return through_windows(path)


@pytest.mark.parametrize("write", [as_split, as_list], ids=["split.json", "list"])
def test_what_is_held_out(write: Callable[[Path], Path], heads: Path) -> None:
    val = read_split(heads / "split.json").val
    real, held_out = open_held_out(write(heads), open_folder(heads))
    assert held_out is not None
    assert {path.name.partition("-")[0] for path in held_out.files} == set(val)
    assert len(real) == 6 - len(val)


def test_a_list_in_utf_16_is_named(heads: Path) -> None:
    path = heads.with_name("list.txt")
    path.write_text("phantom_0000.nii.gz\n", encoding="utf-16")
    with pytest.raises(DataError, match="UTF-16"):
        open_held_out(path, open_folder(heads))


def test_a_folder_whose_name_is_no_text_stands_in_a_preset_as_escapes(tmp_path: Path) -> None:
    tables = small(data__dir="d\udcff").to_dict()
    (tmp_path / "a.toml").write_text(to_toml(tables))
    assert read_toml(tmp_path / "a.toml")["data"]["dir"] == "d\\udcff"
