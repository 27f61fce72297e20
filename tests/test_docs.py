"""The documents tell the truth: commands parse, Python runs, links lead somewhere, tables are those of the code."""

from __future__ import annotations

import dataclasses
import json
import re
import runpy
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from command import wdm

from wdm_cli import __version__
from wdm_cli.cli.main import app
from wdm_cli.config import preset_names, resolve
from wdm_cli.engine.citation import BIBTEX
from wdm_cli.engine.preset import TABLES

ROOT = Path(__file__).parents[1]
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])}  # fmt: skip
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.S | re.M)
LAUNCHERS = ("srun", "torchrun", "nohup", "docker", "podman", "apptainer")
"""Programs that start another one: what follows the word `wdm` behind them is our command line too."""
COMMANDS = typer.main.get_command(app)


@dataclass(frozen=True)
class Line:
    """A `wdm …` of a shell block."""

    page: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: wdm {' '.join(self.words)}"


def blocks(page: str, *languages: str) -> list[str]:
    return [text for language, text in FENCE.findall(PAGES[page]) if language in languages]


def shell_lines(page: str) -> Iterator[Line]:
    """Every call of wdm in the shell blocks of a page, behind assignments and launchers too."""
    for block in blocks(page, "sh", "bash", "shell", "console"):
        for line in block.replace("\\\n", " ").splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars="();<>|&")
            lexer.whitespace_split = True
            command: list[str] = []
            for word in [*lexer, ";"]:
                if set(word) <= set("();|&"):
                    found = own_words(command)
                    if found is not None:
                        yield Line(page, tuple(found))
                    command = []
                else:
                    command.append(word)


def own_words(command: list[str]) -> list[str] | None:
    """What stands behind `wdm` in one simple command, None if it is another program's."""
    while command and re.match(r"\w+=", command[0]):
        command = command[1:]
    if ">" in command:
        command = command[: command.index(">")]
    if command[:1] == ["wdm"]:
        return command[1:]
    if command and command[0] in LAUNCHERS and "build" not in command and "wdm" in command[1:]:
        return command[command.index("wdm", 1) + 1 :]
    return None


LINES = [line for page in PAGES for line in shell_lines(page)]
MENTIONS = sorted({(page, text) for page in PAGES for text in re.findall(r"`(wdm [a-z][^`]*)`", PAGES[page])})


def command_of(words: list[str], where: str) -> Any:
    """The command that words lead to; they are used up."""
    command = COMMANDS
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        if not re.fullmatch(r"[a-z]+", words[0]):
            break  # `wdm COMMAND`, `wdm …`
        assert words[0] in command.commands, f"no command {words[0]} in {where}"
        command = command.commands[words.pop(0)]
    return command


def test_there_are_commands_to_test() -> None:
    assert len(LINES) > 25
    assert {line.page for line in LINES} >= {"README.md", "docs/recipes.md", "docs/cluster.md"}


@pytest.mark.parametrize("line", LINES, ids=str)
def test_a_command_of_the_documents_can_be_typed(line: Line) -> None:
    """It exists, its arguments parse, and what it sets in a preset is valid."""
    words = list(line.words)
    command = command_of(words, str(line))
    if hasattr(command, "commands"):
        assert set(words) <= {"--help", "-h", "--version"}, f"no whole command: {line}"
        return
    if "--help" in words:
        return
    given = command.make_context(command.name, words).params  # raises what a user would see
    own = str(given.get("preset") or "").endswith(".toml")
    preset = "ours_unet_128" if own or not given.get("preset") else given["preset"]
    options = {"data.kind": given.get("dataset"), "sample.kind": given.get("sampler")}
    resolve(preset, sets=given.get("sets") or (), options=options)


@pytest.mark.parametrize(("page", "text"), MENTIONS)
def test_a_command_that_is_mentioned_exists_with_its_options(page: str, text: str) -> None:
    words = shlex.split(text)[1:]
    command = command_of(words, f"{page}: {text}")
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    for word in words:
        assert not word.startswith("-") or word in known, f"no option {word} in {page}: {text}"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    """Files exist, and headings too; other people's pages are not fetched."""
    text = re.sub(r"`[^`\n]*`", "", FENCE.sub("", PAGES[page]))
    for target in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text):
        if re.match(r"(https?|mailto):", target):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), f"{page} links to {target}, which is not there"
        if anchor:
            name = file.resolve().relative_to(ROOT).as_posix()
            assert anchor in anchors(PAGES[name]), f"{page} links to {target}: no such heading"


def anchors(text: str) -> set[str]:
    """What GitHub calls the headings of a page."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", FENCE.sub("", text), flags=re.M):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        name = "".join(c for c in plain if c.isalpha() or c.isdecimal() or c in "-_ ").replace(" ", "-")
        found.add(next(n for n in (name, *(f"{name}-{i}" for i in range(1, 99))) if n not in found))
    return found


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, todo = set(), ["README.md"]
    while todo:
        page = todo.pop()
        reached.add(page)
        links = re.findall(r"\]\(([^)#\s]+\.md)", PAGES[page])
        found = {(ROOT / page).parent.joinpath(link).resolve().relative_to(ROOT).as_posix() for link in links}
        todo += sorted(found & PAGES.keys() - reached)
    assert not (missing := PAGES.keys() - reached - {"CHANGELOG.md"}), f"nothing leads from README.md to {missing}"


def test_the_command_reference_is_up_to_date() -> None:
    made = runpy.run_path(str(ROOT / "tools" / "cli_reference.py"))["reference"]()
    assert made == PAGES["docs/cli.md"], "run `make docs`"


def test_every_key_of_a_preset_has_a_meaning() -> None:
    """It is written in the docstring of its class; a key that comes without one is found here."""
    text = PAGES["docs/cli.md"].partition("## Keys of a preset")[2]
    rows = re.findall(r"^\| `(\w+)` \|(.*?)\|", text, flags=re.M)
    assert {name for name, _ in rows} == {
        field.name for classes in TABLES.values() for cls in classes for field in dataclasses.fields(cls)
    } - {"kind"}
    assert not (silent := [name for name, meaning in rows if not meaning.strip()]), f"no meaning: {silent}"


def test_presets_table() -> None:
    rows = dict(re.findall(r"\| `(\w+)` \|[^|]*\| ([\d,]+|see [^|]*) \|", PAGES["README.md"]))
    assert set(rows) == set(preset_names())
    for name, count in rows.items():
        if count[0].isdigit():
            with torch.device("meta"):
                network = resolve(name).preset.network()
            assert sum(p.numel() for p in network.parameters()) == int(count.replace(",", ""))


def test_make_targets_that_are_mentioned_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    for page, text in PAGES.items():
        named = set(re.findall(r"(?:`|^)make ([a-z][a-z-]*)", text, flags=re.M))
        assert named <= targets, f"{page}: no target {named - targets} in the Makefile"


def test_files_of_the_repository_that_are_named_exist() -> None:
    for page, text in PAGES.items():
        for name in re.findall(r"`((?:tests|benchmarks|tools|presets|docs)/[\w./-]+\.\w+)`", text):
            assert (ROOT / name).is_file(), f"{page} names {name}"
        for name in re.findall(r"`(test_\w+\.py)`", text):
            assert (ROOT / "tests" / name).is_file(), f"{page} names {name}"


def test_extras_that_are_named_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for page, text in PAGES.items():
        for named in re.findall(r"\.\[([\w,]+)\]|wdm-cli\[([\w,]+)\]", text):
            assert set("".join(named).split(",")) <= set(extras), f"{page}: no extra {named}"


def test_the_readmes_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wdm_cli.cli.main import main
    from wdm_cli.engine.data.phantom import write_phantoms

    monkeypatch.chdir(tmp_path)
    write_phantoms(tmp_path / "data", 2, 32)
    sets = ["model.base_channels=8", "data.image_size=16", "train.steps=2", "sample.steps=2", "train.preview_every=9"]
    words = ["wdm", "-q", "train", "--preset", "tiny", "--data-dir", "data", "--workers", "1"]
    monkeypatch.setattr("sys.argv", words + [word for text in sets for word in ("--set", text)])
    monkeypatch.setattr("wdm_cli.cli.console.Verbosity.level", 0)  # -q ends with this test
    main()  # returns where all went well, raises SystemExit where not
    (code,) = blocks("README.md", "python")
    names: dict[str, object] = {}
    path = re.search(r'Path\("([^"]+)"\)', code)[1]  # type: ignore[index]
    made = next((tmp_path / "runs" / "tiny" / "checkpoints").glob("*.pt"))
    exec(code.replace(path, str(made)), names)  # our own text
    volumes = names["volumes"]
    assert isinstance(volumes, list)
    assert [volume.shape for volume in volumes] == [(16, 16, 16)] * 4


@pytest.mark.slow
def test_the_practice_run_of_the_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but its first line, which `test_cli_demo.py` runs; on fewer phantoms."""
    from wdm_cli.engine.data.phantom import write_phantoms

    monkeypatch.chdir(tmp_path)
    write_phantoms(tmp_path / "practice" / "data", 15, 64)
    demo, *practice = [line for line in LINES if line.page == "docs/recipes.md" and "practice" in str(line)]
    assert demo.words[0] == "demo"
    assert len(practice) == 5
    for line in practice:
        result = wdm(*line.words)
        assert result.code == 0, f"{line}\n{result.err}"
    report = json.loads((tmp_path / "practice" / "eval.json").read_text())
    assert "thresholds from 3 held-out volumes" in report["remarks"]
    assert {"fid", "msssim", "msssim_real", "n_copies", "n_expected"} <= {score["name"] for score in report["scores"]}


@pytest.mark.slow
def test_the_memory_table_of_the_recipes_is_what_a_dry_run_estimates() -> None:
    from wdm_cli.engine.estimate import estimate

    rows = re.findall(
        r"^\| `(\w+)` \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", PAGES["docs/recipes.md"], re.M
    )
    assert len(rows) == 4
    less, bf16 = "train.checkpointing=true", "train.precision=bf16"
    for name, *figures in rows:
        one = f"train.accumulate={resolve(name).preset.train.batch_size}"
        for figure, sets in zip(figures, ([], [less], [bf16], [less, bf16]), strict=True):
            found = estimate(resolve(name, sets=[one, *sets]).preset, loops=False).training / 1e9
            assert float(figure) == pytest.approx(found, rel=0.05), f"{name} {sets}: now {found:.1f} GB"


def test_citation_names_the_paper_and_this_version() -> None:
    text = (ROOT / "CITATION.cff").read_text()
    assert f"version: {__version__}\n" in text
    title = re.search(r"title += \{(.*)\},", BIBTEX)
    assert title is not None
    assert title[1].replace("{", "").replace("}", "") in text
    for name in re.findall(r"(\w+), \w+", re.search(r"author += \{(.*)\}", BIBTEX)[1]):  # type: ignore[index]
        assert f"family-names: {name}\n" in text
