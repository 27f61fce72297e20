"""What is shipped: wheel and sdist are built, the wheel is installed into an empty environment and used from there."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from wdm_cli import __version__
from wdm_cli.config import preset_names

ROOT = Path(__file__).parents[1]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("hatchling") is None, reason="hatchling is not here: pip install '.[dev]'"
    ),
]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both distributions, built from this checkout without a network."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", str(folder)], cwd=ROOT, check=True)
    assert sorted(path.suffix for path in folder.iterdir()) == [".gz", ".whl"]
    return folder


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `wdm` of an environment that holds the wheel and, by a path file, the libraries of this one."""
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, symlinks=True)
    (wheel,) = built.glob("*.whl")
    python = place / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True)
    (site,) = place.glob("lib/python*/site-packages")
    (site / "libraries.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")  # its own .pth files are not read
    return place / "bin" / "wdm"


def run(program: Path, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run([str(program), *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_what_the_source_distribution_holds(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = [
        "LICENSE",
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "CITATION.cff",
        "Makefile",
        "constraints.txt",
        "wdm.def",
    ]
    wanted += [f"presets/{name}.toml" for name in preset_names()]
    wanted += [path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/*.md")]
    wanted += [path.relative_to(ROOT).as_posix() for path in ROOT.glob("tests/*.py")]
    wanted += ["tests/golden/golden.json", "tools/cli_reference.py", "wdm_cli/engine/weights.json"]
    assert not set(wanted) - names
    binary = [name for name in names if "__pycache__" in name or name.endswith((".pt", ".nii.gz", ".dcm"))]
    assert all(name.startswith("tests/golden/version_0_1/") for name in binary), binary  # phantoms, and a model of them


def test_what_the_wheel_holds(built: Path) -> None:
    (path,) = built.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
    assert names >= {f"wdm_cli/presets/{name}.toml" for name in preset_names()} | {"wdm_cli/engine/weights.json"}
    assets = ("niivue.umd.js.gz", "niivue.json", "LICENSES.txt", "viewer.js", "page.css")
    assert names >= {f"wdm_cli/engine/report/assets/{name}" for name in assets}
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert all(name.startswith(("wdm_cli/", "wdm_cli-")) for name in names), "tests and tools stay at home"


def test_the_installed_command_works_far_from_the_checkout(installed: Path, tmp_path: Path) -> None:
    assert run(installed, "--version", cwd=tmp_path).stdout == f"wdm {__version__}\n"
    listed = json.loads(run(installed, "presets", "list", "--json", cwd=tmp_path).stdout)
    assert [preset["name"] for preset in listed] == preset_names()
    doctor = run(installed, "doctor", "--json", cwd=tmp_path)
    facts = json.loads(doctor.stdout)
    assert facts["commit"] == "installed package"
    assert facts["problems"] == []
    assert doctor.returncode == 0


def test_the_installed_command_trains_and_samples(installed: Path, tmp_path: Path) -> None:
    sets = ["model.base_channels=8", "data.image_size=16", "sample.steps=2", "train.batch_size=1"]
    words = [word for text in sets for word in ("--set", text)]
    python = installed.with_name("python")
    made = run(python, "-c", "from pathlib import Path; from wdm_cli.engine.data.phantom import write_phantoms; "
               "write_phantoms(Path('data'), 2, 16)", cwd=tmp_path)  # fmt: skip
    assert made.returncode == 0, made.stderr
    trained = run(installed, "train", "--preset", "tiny", "--data-dir", "data", "--steps", "2", *words, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    sampled = run(installed, "sample", "-n", "1", "--out", "samples", cwd=tmp_path)
    assert sampled.returncode == 0, sampled.stderr
    assert (tmp_path / "samples" / "sample_000000.nii.gz").is_file()
    reported = run(installed, "report", "samples", cwd=tmp_path)
    assert reported.returncode == 0, reported.stderr
    assert (tmp_path / "samples" / "report.html").stat().st_size > 1_000_000  # with the viewer
