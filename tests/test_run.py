"""A run folder: what is kept, continued, refused and said."""

from __future__ import annotations

import csv
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from small import digest, small, trainer

from wdm_cli.engine import native
from wdm_cli.engine.errors import CheckpointError, ConfigError, ResourceError
from wdm_cli.engine.files import locked
from wdm_cli.engine.metrics_log import columns_of
from wdm_cli.engine.preset import FieldError, Preset
from wdm_cli.engine.run import Resumed, Saved, checkpoint_files, latest_checkpoint, newest_run, train
from wdm_cli.engine.spaces import Wavelet
from wdm_cli.engine.train import TrainStep


def go(run: Path, until: int = 40, preset: Preset | None = None) -> tuple[Any, list[Any]]:
    trained = trainer(preset or small(train__steps=until))
    records = list(train(trained, run, lambda: trained.step >= until))
    return trained, records


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def names(run: Path) -> list[str]:
    return sorted(p.name for p in (run / "checkpoints").iterdir() if p.suffix == ".pt")


def test_the_last_k_and_the_milestones_stay(tmp_path: Path) -> None:
    preset = small(train__steps=23, train__save_every=2, train__keep=3, train__keep_every=8)
    _, records = go(tmp_path, 23, preset)
    assert list(checkpoint_files(tmp_path)) == [8, 16, 20, 22, 23]
    assert [r.step for r in records if isinstance(r, Saved)] == [*range(2, 23, 2), 23]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 10  # each with its manifest, nothing else
    with pytest.raises(Exception, match="at least 2"):
        small(train__keep=1)


def test_an_old_checkpoint_that_cannot_be_removed_is_no_error(tmp_path: Path, monkeypatch: Any) -> None:
    def refuse(self: Path, missing_ok: bool = False) -> None:
        if self.name == "step_0000005.pt":
            raise PermissionError(1, "Operation not permitted")
        os.unlink(self)  # noqa: PTH108

    monkeypatch.setattr(Path, "unlink", refuse)
    go(tmp_path, 25)
    assert list(checkpoint_files(tmp_path)) == [5, 15, 20, 25]


def test_steps_are_ordered_as_numbers(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for name in ("step_9999999.pt", "step_10000000.pt", "step_x.pt", "step_5.pt.damaged", "other.pt"):
        (tmp_path / "checkpoints" / name).touch()
    assert list(checkpoint_files(tmp_path)) == [9999999, 10000000]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> str:
    return digest(go(tmp_path_factory.mktemp("straight"), 16)[0])


@pytest.mark.parametrize("damage", [0, 0.1, 0.5, 0.999, "bit", "manifest"], ids=str)
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(damage: Any, straight: str, tmp_path: Path) -> None:
    go(tmp_path, 12)  # 5, 10, 12
    newest = tmp_path / "checkpoints" / "step_0000012.pt"
    if damage == "bit":
        content = bytearray(newest.read_bytes())
        content[len(content) // 2] ^= 4
        newest.write_bytes(content)
    elif damage == "manifest":
        newest.with_name("step_0000012.pt.json").write_text("{}")
    else:
        os.truncate(newest, int(newest.stat().st_size * damage))
    trained, records = go(tmp_path, 16)
    assert isinstance(records[0], Resumed)
    assert records[0].step == 10
    assert len(records[0].damaged) == 1
    assert "step_0000012.pt" in records[0].damaged[0]
    assert digest(trained) == straight
    assert list(checkpoint_files(tmp_path)) == [10, 15, 16]
    assert (tmp_path / "checkpoints" / "step_0000012.pt.damaged").exists()
    _, again = go(tmp_path, 17)
    assert again[0].damaged == ()  # said once


def test_what_is_done_in_another_way_than_before_is_said(tmp_path: Path) -> None:
    _, records = go(tmp_path, 3)
    assert not any(isinstance(record, Resumed) for record in records)
    _, records = go(tmp_path, 4)
    assert records[0].changes == ()
    with_loops = native.state().library is not None
    native.switch(False)
    try:
        _, records = go(tmp_path, 5, small(train__steps=5, sample__steps=3))
    finally:
        native.switch(True)
    *of_loops, of_sampler = records[0].changes
    assert of_sampler == "its volumes will be sampled with ddpm, 3 steps, so far ddpm, 4 steps"
    assert len(of_loops) == with_loops
    for change in of_loops:
        before, now = change.split("; now on ")
        assert before.startswith("so far on cpu (")
        assert ", compiled loops, torch" in before
        assert "loops" not in now


def test_all_damaged_is_an_error_and_never_a_fresh_start(tmp_path: Path) -> None:
    go(tmp_path, 12)
    for path in checkpoint_files(tmp_path).values():
        os.truncate(path, 100)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    for _ in range(2):
        with pytest.raises(CheckpointError, match="none of its 3 checkpoints can be read"):
            go(tmp_path)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_changed_setting_is_refused_with_both_values(tmp_path: Path) -> None:
    go(tmp_path, 5)
    with pytest.raises(ConfigError, match=r"train\.lr: 0\.001 in the run, 0\.002 now") as caught:
        go(tmp_path, 40, small(train__lr=2e-3))
    assert caught.value.exit_code == 2
    with pytest.raises(ConfigError, match=r"model\.dropout.*train\.seed"):
        go(tmp_path, 40, small(train__seed=1, model__dropout=0.1))


def test_settings_without_influence_may_change(tmp_path: Path) -> None:
    go(tmp_path, 5)
    free = {"steps": 6, "save_every": 2, "keep": 4, "keep_every": 4, "preview_every": 3, "log_every": 2}
    preset = small(**{f"train__{k}": v for k, v in free.items()}, train__checkpointing=True, data__dir="elsewhere",
                   sample__steps=9)  # fmt: skip
    trained, records = go(tmp_path, 6, preset)
    assert records[0].step == 5
    assert trained.step == 6


def test_metrics_are_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    go(tmp_path, 10)
    path = tmp_path / "metrics.csv"
    whole = path.read_text()
    assert [row["step"] for row in rows(tmp_path)] == ["5", "10"]
    killed = whole + whole.splitlines()[-1].replace("10,", "15,", 1) + "\r\n2"  # steps to 15 and half a row
    path.write_text(killed)
    go(tmp_path, 20)
    assert [row["step"] for row in rows(tmp_path)] == ["5", "10", "15", "20"]
    assert path.read_text().startswith(whole)
    assert tuple(rows(tmp_path)[0]) == columns_of(Wavelet.columns)


def test_a_run_killed_before_its_first_checkpoint_starts_its_metrics_anew(tmp_path: Path) -> None:
    header = ",".join(columns_of(Wavelet.columns))
    (tmp_path / "metrics.csv").write_text(f"{header}\n5{',0' * (len(columns_of(Wavelet.columns)) - 1)}\n")
    go(tmp_path, 5)
    assert [row["step"] for row in rows(tmp_path)] == ["5"]


def test_a_row_is_the_mean_since_the_last(tmp_path: Path) -> None:
    _, records = go(tmp_path, 10)
    losses = [r.loss for r in records if not isinstance(r, Saved)]
    found = [float(row["loss"]) for row in rows(tmp_path)]
    assert found == pytest.approx([sum(losses[:5]) / 5, sum(losses[5:]) / 5], rel=1e-5)


def test_one_process_a_run(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(ResourceError, match="another process"):
        go(tmp_path, 2)
    go(tmp_path, 2)


def test_leftovers_of_a_killed_writer_are_removed(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / ".partial").mkdir(parents=True)
    (tmp_path / "checkpoints" / ".partial" / "1-a-step_0000005.pt").write_bytes(b"x")
    go(tmp_path, 2)
    assert not list(tmp_path.rglob(".partial"))


def test_bare_weights_in_a_run_are_refused(tmp_path: Path) -> None:
    import torch

    (tmp_path / "checkpoints").mkdir()
    torch.save(dict(trainer().network.state_dict()), tmp_path / "checkpoints" / "step_0000005.pt")
    with pytest.raises(CheckpointError, match="holds weights only"):
        go(tmp_path)


def test_newest_run_and_latest_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no trained run under"):
        newest_run(tmp_path)
    go(tmp_path / "a", 2)
    go(tmp_path / "b", 1)
    os.utime(tmp_path / "a" / "checkpoints" / "step_0000002.pt", (1, 1))
    assert newest_run(tmp_path) == tmp_path / "b"
    assert latest_checkpoint(tmp_path / "a")[0].step == 2
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        latest_checkpoint(tmp_path)


def test_a_milestone_must_be_a_save(tmp_path: Path) -> None:
    from wdm_cli.engine.preset import Train

    with pytest.raises(FieldError, match="multiple of save_every"):
        Train(keep_every=7)


def test_a_run_folder_that_is_removed_costs_only_what_was_in_it(tmp_path: Path) -> None:
    steps = train(trainer(small(train__steps=20, train__log_every=5, train__save_every=100)), tmp_path / "run")
    for record in steps:
        if isinstance(record, TrainStep) and record.step == 11:
            shutil.rmtree(tmp_path / "run")
    rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["step", "15", "20"]
    assert list(checkpoint_files(tmp_path / "run")) == [20]
