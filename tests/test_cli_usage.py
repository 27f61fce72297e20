"""Mistakes on the command line: short, quick, exit 2, nothing created; and help without torch."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from command import start, wdm

BAD = """
nonsense
--nonsense
train
train --preset tinny
train --preset nowhere/mine.toml
train --preset tiny --steps 0
train --preset tiny --steps many
train --preset tiny --set train.lrr=3
train --preset tiny --set train.lr
train --preset tiny --set train.lr=-1
train --preset tiny --config nowhere.toml
train --preset tiny --dataset cats
train --preset tiny --log csv
train --preset tiny --max-hours 0
train --preset tiny --out file
train --preset tiny --device gpu7
sample
sample -n 0 --out s
sample -n 1 --out s --seed -1
sample -n 1 --out s --precision fp8
sample -n 1 --out s --batch-size 0
sample -n 1 --out s --run nowhere
sample -n 1 --out s --checkpoint nowhere.pt
sample -n 1 --out s --run . --checkpoint file
sample -n 1 --out file --run .
sample -n 1 --out s --run . --set train.lr=1
weights import
weights export nowhere.pt file
presets show nothing
presets copy tiny file
config show --set nonsense.lr=1
config validate nowhere.toml
eval nonsense
""".strip().splitlines()


@pytest.mark.parametrize("line", BAD)
def test_a_bad_command_line(line: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    result = wdm(*line.split())
    assert result.code == 2, result.err
    assert result.out == ""
    assert result.err.startswith("error: ")
    assert 1 <= len(result.err.splitlines()) <= 5
    assert "Traceback" not in result.err
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "line", ["train --preset tiny --set train.lrr=3", "sample -n 1 --out s --run nowhere", "presets shw"]
)
def test_and_soon(line: str, tmp_path: Path) -> None:
    """As a process of its own, with everything that has to be imported (2 s on an idle machine)."""
    times = []
    for _ in range(3):
        began = time.monotonic()
        process = start(*line.split())
        process.communicate()
        times.append(time.monotonic() - began)
        assert process.returncode == 2
        if times[-1] < 2:
            return
    pytest.fail(f"took {times} s")


LIGHT = """
--help
--version
train --help
sample --help
eval --help
presets list
presets show tiny
config show
config validate presets/tiny.toml
cite
weights list
train --preset tinny
""".strip().splitlines()
SPY = """
import sys
from wdm_cli.cli.main import main
try:
    main()
except SystemExit:
    pass
sys.stderr.write("\\nLOADED " + " ".join({m.split(".")[0] for m in sys.modules}))
"""


@pytest.mark.parametrize("line", LIGHT)
def test_help_presets_and_config_never_import_torch(line: str) -> None:
    root = Path(__file__).parents[1]
    run = subprocess.run(
        [sys.executable, "-c", SPY, *line.split()], capture_output=True, text=True, cwd=root, check=True
    )
    loaded = run.stderr.rpartition("LOADED ")[2].split()
    assert "wdm_cli" in loaded
    assert not {"torch", "numpy", "nibabel", "SimpleITK", "pydicom"} & set(loaded)


def test_no_arguments_show_the_help() -> None:
    result = wdm()
    assert result.code == 2
    assert "Usage" in result.out + result.err


def test_a_reader_that_leaves_early_is_no_error() -> None:
    line = f"{sys.executable} -m wdm_cli config show | head -c 1; echo ${{PIPESTATUS[0]}}"
    run = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    assert run.stdout == "k0\n"
    assert run.stderr == ""


def test_ctrl_c_is_130(monkeypatch: Any) -> None:
    from wdm_cli import config

    def interrupt(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(config, "resolve", interrupt)
    assert wdm("config", "show").code == 130


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("wdm tr", {"train"}), ("wdm weights ex", {"export"}), ("wdm train --dry", {"--dry-run"})],
)
def test_the_shell_completes_without_loading_torch(typed: str, offered: set[str]) -> None:
    """What bash asks at every press of the tab key."""
    code = "import sys; sys.argv = ['wdm']\nfrom wdm_cli.cli.main import main\n"
    code += "try:\n    main()\nexcept SystemExit:\n    pass\n"
    code += "print(sorted({'torch', 'numpy', 'nibabel'} & set(sys.modules)), file=sys.stderr)"
    asked = {"_WDM_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1)}
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | asked, capture_output=True, text=True)
    assert set(done.stdout.split()) == offered
    assert done.stderr.strip() == "[]"
