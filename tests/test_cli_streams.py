"""Standard output and error in every state they are met in: another encoding, full, closed, the reader gone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from wdm_cli.cli import streams

WDM = f"{sys.executable} -m wdm_cli"
C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
LOCALES: dict[str, dict[str, str]] = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "latin-1": {"PYTHONIOENCODING": "latin-1:strict"},
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
    "C": C_LOCALE,
    "POSIX": C_LOCALE | {"LC_ALL": "POSIX"},
}


def shell(line: str, **environment: str) -> tuple[int, str, str]:
    """Exit code, output and errors of a line of bash; `wdm` in it is the command."""
    done = subprocess.run(
        ["bash", "-c", line.replace("wdm ", f"{WDM} ", 1)],
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        check=False,
    )
    out, err = done.stdout.decode(errors="surrogateescape"), done.stderr.decode(errors="surrogateescape")
    assert "Traceback" not in err, err
    return done.returncode, out, err


@pytest.mark.parametrize("encoding", LOCALES)
def test_signs_that_an_encoding_lacks_are_written_otherwise(encoding: str) -> None:
    code, out, err = shell("wdm presets list", **LOCALES[encoding])
    assert (code, err) == (0, "")
    sign = "\udcd7" if encoding in ("latin-1", "cp1252") else "x"  # × is one of theirs
    assert f"\t128{sign}128{sign}128\t" in out


def test_json_is_the_same_in_every_encoding() -> None:
    """Settings hold signs beyond ASCII."""
    plain = shell("wdm presets list --json")
    assert shell("wdm presets list --json", **C_LOCALE) == plain
    assert json.loads(plain[1])


@pytest.mark.slow
def test_work_and_its_files_in_a_c_locale(tmp_path: Path) -> None:
    """With file names that are no text at all: train starts, verify answers, a name in its own bytes."""
    data = tmp_path / "data"
    data.mkdir()
    for index in range(3):
        grid = np.indices((16, 16, 16)).sum(0) * (index + 1.0)
        nib.save(nib.Nifti1Image(grid.astype(np.float32), np.eye(4)), data / f"a{index}.nii")
        (data / f"a{index}.nii").rename(data / os.fsdecode(b"m\xfcller_%d.nii" % index))
    kept = {"WDM_CACHE_DIR": str(tmp_path / "cache"), "WDM_DATA__IMAGE_SIZE": "16", **C_LOCALE}
    code, _, err = shell(f"wdm verify {data} --preset tiny --dataset nifti", **kept)
    assert code == 0, err
    code, _, err = shell(f"wdm split {data} --val 0.4", **kept)
    assert code == 0, err
    assert len(json.loads((data / "split.json").read_bytes())["val"]) == 1
    small = "--set model.base_channels=8 --set model.channel_multipliers=[1,2] --set model.groups=4"
    code, _, err = shell(
        f"wdm train --preset tiny --dataset nifti --data-dir {data} --steps 1 --out {tmp_path / 'run'} {small} "
        "--set train.batch_size=1 --set data.part=train",
        **kept,
    )
    assert code == 0, err
    assert (tmp_path / "run" / "checkpoints" / "step_0000001.pt").is_file()


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("wdm presets list > /dev/full", 5),
        ("wdm config show --json > /dev/full", 5),
        ("wdm --help > /dev/full", 5),
        ("wdm --version > /dev/full", 5),
        ("wdm presets list >&-", 5),
        ("wdm cite <&- >&-", 5),
        ("wdm nonsense > /dev/full", 2),  # nothing was to be said there
        ("wdm nonsense >&-", 2),
    ],
)
def test_an_answer_that_cannot_be_written_is_one_error(line: str, code: int) -> None:
    found, _, err = shell(line)
    assert found == code
    reason = "Bad file descriptor" if "&-" in line else "No space left on device"
    assert err.startswith(f"error: cannot write to standard output: {reason}\n" if code == 5 else "error: ")
    assert err.count("error") == 1


@pytest.mark.parametrize("to", ["2> /dev/full", "2>&-", "2>&- <&-", "2>&1 | true"])
def test_notes_that_cannot_be_written_cost_nothing(to: str, tmp_path: Path) -> None:
    code, _, err = shell(f"wdm presets copy tiny {tmp_path / 'a.toml'} {to}; exit ${{PIPESTATUS[0]}}")
    assert (code, err) == (0, "")
    assert (tmp_path / "a.toml").read_bytes().startswith(b"#") or (tmp_path / "a.toml").stat().st_size > 100


def test_a_command_that_answers_nothing_does_without_an_output(tmp_path: Path) -> None:
    assert shell(f"wdm presets copy tiny {tmp_path / 'a.toml'} >&- 2>&-")[0] == 0


def test_what_is_closed_is_not_given_to_the_next_file(tmp_path: Path) -> None:
    """Else an error would be written into it."""
    (tmp_path / "work.py").write_text(
        f"""
import sys
from wdm_cli.cli import streams
streams.harden()
file = open({str(tmp_path / "a")!r}, "w")
print("x", file=sys.stderr)
print("x")
sys.exit(7 if streams.lost() and file.fileno() > 2 else 8)
"""
    )
    line = f"{sys.executable} {tmp_path / 'work.py'} <&- 2>&- >&-"
    done = subprocess.run(["bash", "-c", line], check=False)
    assert done.returncode == 7
    assert (tmp_path / "a").read_bytes() == b""


@pytest.mark.parametrize(
    ("text", "encoding", "written"),
    [
        ("2×3 — a…", "ascii", b"2x3 - a..."),
        ("128³", "ascii", b"128^3"),
        ("a → b", "latin-1", b"a -> b"),
        ("Müller", "ascii", b"M\\xfcller"),
        ("a\udcff", "utf-8", b"a\xff"),
        ("a\udcff", "ascii", b"a\xff"),
        ("\ud800", "utf-8", b"\\ud800"),
        ("a\udcff", "utf-16-le", b"a\0" + "\\udcff".encode("utf-16-le")),
    ],
)
def test_the_other_signs(text: str, encoding: str, written: bytes) -> None:
    assert text.encode(encoding, streams.PLAIN) == written
