"""wdm demo, the real command on fewer and smaller phantoms."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import wdm

from wdm_cli.cli import demo


@pytest.mark.slow
def test_a_short_demo_and_then_a_longer_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PHANTOMS": 4, "PHANTOM_SIZE": 32, "SAMPLES": 2, "SHOWN": 2}.items():
        monkeypatch.setattr(demo, name, value)
    seen = []
    for steps in (1, 2):
        result = wdm("demo", "--out", tmp_path / "my demo", "--steps", steps)
        assert result.code == 0, result.err
        seen.append(json.loads((tmp_path / "my demo" / "samples" / "run.json").read_text()))
    assert [about["step"] for about in seen] == [1, 2]
    assert "--run '" in result.err  # a command to paste, blanks and all
    assert (tmp_path / "my demo" / "real_beside_synthetic.png").stat().st_size > 1000


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = wdm("demo", "--out", tmp_path / "file")
    assert result.code == 5
    assert str(tmp_path / "file") in result.err
