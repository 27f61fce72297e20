"""Dockerfile and wdm.def: one pinned base, nothing run as root, no secrets, everything copied is there, %test works."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from command import wdm

ROOT = Path(__file__).parents[1]
DOCKER = (ROOT / "Dockerfile").read_text()
DEFINITION = (ROOT / "wdm.def").read_text()
SECRET = re.compile(r"(?i)(password|passwd|secret|api[_-]?key|token|-----BEGIN|https?://[^/\s]+:[^/\s]+@)")


def steps() -> list[tuple[str, str]]:
    """(instruction, arguments) of the Dockerfile, continued lines joined, comments left out."""
    lines = [line for line in DOCKER.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in joined.splitlines() if line.strip()]


def section(name: str) -> list[str]:
    """The lines of a section of the Apptainer definition."""
    text = re.split(r"^%", DEFINITION, flags=re.M)
    (found,) = [part for part in text if part.startswith(f"{name}\n")]
    return [line.strip() for line in found.splitlines()[1:] if line.strip()]


def test_both_start_from_one_base_pinned_to_the_patch_and_the_distribution() -> None:
    bases = [words.split()[0] for step, words in steps() if step == "FROM"]
    bases += re.findall(r"^From: (\S+)$", DEFINITION, flags=re.M)
    assert len(bases) == 3
    assert len(set(bases)) == 1
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-[a-z]+", bases[0])


def test_the_image_ends_as_an_ordinary_user() -> None:
    last_from = max(i for i, (step, _) in enumerate(steps()) if step == "FROM")
    users = [(i, words) for i, (step, words) in enumerate(steps()) if step == "USER"]
    assert users
    assert users[-1][0] > last_from
    assert users[-1][1] == "1000", "a number, which a cluster can check without the image's list of users"
    assert "useradd --create-home --uid 1000 wdm" in DOCKER
    assert not [words for step, words in steps()[users[-1][0] :] if step in ("RUN", "COPY", "ADD")]


@pytest.mark.parametrize("text", [DOCKER, DEFINITION], ids=["Dockerfile", "wdm.def"])
def test_no_secrets_no_pipes_from_the_network_no_unpinned_installs(text: str) -> None:
    assert not SECRET.search(text)
    assert "curl" not in text
    assert "wget" not in text
    assert not re.search(r"^\s*ADD ", text, flags=re.M)
    installs = [line for line in text.splitlines() if "pip install" in line]
    assert installs
    assert all("-c constraints.txt" in line and "--no-cache-dir" in line for line in installs)


def test_what_is_copied_is_there_and_let_through() -> None:
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    copied = [words.split() for step, words in steps() if step == "COPY" and not words.startswith("--from")]
    names = {name for *sources, _ in copied for name in sources}
    for name in names:
        assert (ROOT / name).exists()
        assert f"!{name}" in allowed
    assert names == {line.split()[0] for line in section("files")}, "both containers are made of the same files"


def test_the_entry_point_is_the_command() -> None:
    assert ("ENTRYPOINT", '["wdm"]') in steps()
    assert section("runscript") == ['exec wdm "$@"']


def test_the_definitions_own_test_passes_here() -> None:
    """Its commands, on this installation."""
    commands = [line for line in section("test") if line.startswith("wdm ")]
    assert len(commands) >= 3
    for line in commands:
        result = wdm(*shlex.split(line.partition(">")[0])[1:])
        assert result.code == 0, result.err
        assert result.out
