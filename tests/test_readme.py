"""The README tells the truth: its commands exist, its Python runs, its figures are those of the presets."""

import re
import shlex
from pathlib import Path

import pytest
import torch
import typer

from wdm_cli.cli.main import app
from wdm_cli.config import preset_names, resolve

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.S)
COMMANDS = [
    line.split(" #")[0].strip()
    for language, block in BLOCKS
    if language == "sh"
    for line in block.splitlines()
    if line.startswith("wdm ")
]
COMMANDS += re.findall(r"`(wdm [a-z][^`]*)`", README)


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_and_options_exist(line: str) -> None:
    command = typer.main.get_command(app)
    words = shlex.split(line)[1:]
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"no command {words[0]} in: {line}"
        command = command.commands[words.pop(0)]
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    for word in words:
        assert not word.startswith("-") or word in known, f"no option {word} in: {line}"


def test_presets_table() -> None:
    rows = dict(re.findall(r"\| `(\w+)` \|[^|]*\| ([\d,]+|see [^|]*) \|", README))
    assert set(rows) == set(preset_names())
    for name, count in rows.items():
        if count[0].isdigit():
            with torch.device("meta"):
                network = resolve(name).preset.model.build()
            assert sum(p.numel() for p in network.parameters()) == int(count.replace(",", ""))


def test_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wdm_cli.cli.main import main
    from wdm_cli.engine.data.phantom import write_phantoms

    monkeypatch.chdir(tmp_path)
    write_phantoms(tmp_path / "data", 2, 32)
    sets = ["model.base_channels=8", "data.image_size=16", "train.steps=2", "sample.steps=2", "train.preview_every=9"]
    words = ["wdm", "-q", "train", "--preset", "tiny", "--data-dir", "data", "--workers", "1"]
    monkeypatch.setattr("sys.argv", words + [word for text in sets for word in ("--set", text)])
    monkeypatch.setattr("wdm_cli.cli.console.Verbosity.level", 0)  # -q ends with this test
    main()  # returns where all went well, raises SystemExit where not
    (code,) = [block for language, block in BLOCKS if language == "python"]
    names: dict[str, object] = {}
    path = re.search(r'Path\("([^"]+)"\)', code)[1]  # type: ignore[index]
    made = next((tmp_path / "runs" / "tiny" / "checkpoints").glob("*.pt"))
    exec(code.replace(path, str(made)), names)  # our own text
    volumes = names["volumes"]
    assert isinstance(volumes, list)
    assert [volume.shape for volume in volumes] == [(16, 16, 16)] * 4
