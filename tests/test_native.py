"""The compiled loops come and go: other processors, no compiler, damaged files, folders that cannot be written."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from wdm_cli.engine import native
from wdm_cli.engine.wavelet import dwt, idwt


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path) -> Iterator[Path]:
    before = native._Settings.folder
    native.keep_in(lambda: tmp_path / "kernels")
    yield tmp_path / "kernels"
    native.keep_in(before)


def kept(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.so"))


def transform_works() -> bool:
    x = torch.randn(1, 3, 4, 6, 8)
    return torch.allclose(idwt(dwt(x)), x, atol=1e-6)


needs_compiler = pytest.mark.skipif(native.state().library is None, reason=native.state().words)


@needs_compiler
def test_it_is_compiled_once_and_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert native.state().library
    (library,) = kept(tmp_path / "kernels")
    monkeypatch.setattr(native, "build", lambda *arguments: pytest.fail("compiled again"))
    native.keep_in(lambda: tmp_path / "kernels")
    assert native.state().words == f"compiled, {library.name}"
    assert transform_works()


@pytest.mark.slow
@needs_compiler
def test_a_damaged_library_is_compiled_anew(tmp_path: Path) -> None:
    assert native.state().library
    (library,) = kept(tmp_path / "kernels")
    whole = library.read_bytes()
    library.unlink()  # a new file: the old one is mapped into this process
    library.write_bytes(whole[:1000])
    native.keep_in(lambda: tmp_path / "kernels")
    assert native.state().library
    assert library.read_bytes()[:4] == whole[:4]
    assert len(library.read_bytes()) == len(whole)


@needs_compiler
def test_a_folder_that_cannot_be_written_costs_only_the_time_to_compile(tmp_path: Path) -> None:
    (tmp_path / "kernels").write_text("a file, not a folder")
    assert native.state().library
    assert transform_works()


@pytest.mark.slow
@needs_compiler
def test_nor_does_one_that_may_not_be_searched_or_no_home_at_all(tmp_path: Path) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    native.keep_in(homeless)
    assert native.state().library
    native.keep_in(lambda: tmp_path / ("long" * 100))
    assert native.state().library
    assert transform_works()


@needs_compiler
def test_without_a_place_for_temporary_files_pytorch_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native.tempfile, "tempdir", str(tmp_path / "absent"))
    native.keep_in(lambda: tmp_path / "kernels")
    assert native.state().words.startswith("not compiled: ")
    assert transform_works()


def test_a_compiler_that_hangs_is_ended_with_what_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = tmp_path / "child"
    monkeypatch.setattr(native, "COMPILE", ("sh", "-c", f"sh -c 'echo $$ > {mark}; sleep 100' & wait"))
    monkeypatch.setattr(native, "TIMEOUT", 1)
    native.keep_in(lambda: tmp_path / "kernels")
    assert native.state().words == "not compiled: sh took more than 1 s"
    assert (
        not Path(f"/proc/{mark.read_text().strip()}/cmdline").exists()
        or not Path(f"/proc/{mark.read_text().strip()}/cmdline").read_bytes()
    )


@needs_compiler
def test_what_a_compiler_says_need_not_be_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "g++"
    script.write_text("#!/bin/sh\nprintf '\\377\\n' >&2\nexec g++ \"$@\"\n")
    script.chmod(0o755)
    monkeypatch.setattr(native, "COMPILE", (str(script), *native.COMPILE[1:]))
    native.keep_in(lambda: tmp_path / "kernels")
    assert native.state().library


@pytest.mark.slow
def test_it_may_be_asked_before_torch_is_imported() -> None:
    code = (
        "from wdm_cli.engine import native; found = native.state().library\n"
        "import torch; print(found is not None, native.serves(torch.ones(1)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert found[0] == found[1]
    assert found[0] == str(native.state().library is not None)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("no-such-compiler",), "not compiled: no-such-compiler: No such file or directory"),
        (("false",), "not compiled: "),
    ],
)
def test_without_a_compiler_the_same_is_computed_by_pytorch(
    command: tuple[str, ...], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "COMPILE", command)
    native.keep_in(lambda: tmp_path / "kernels")
    assert native.state().library is None
    assert native.state().words.startswith(words)
    assert not kept(tmp_path / "kernels")
    assert transform_works()


@needs_compiler
def test_a_compiler_that_errs_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kernels.cpp").write_text("int main( {")
    monkeypatch.setattr(native, "SOURCE", tmp_path / "kernels.cpp")
    native.keep_in(lambda: tmp_path / "kernels")
    assert "kernels.cpp:1:" in native.state().words
    assert "error" in native.state().words


@pytest.mark.slow
@needs_compiler
def test_libraries_for_all_processors_of_a_kind_are_found_beside_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "image"
    image.mkdir()
    (image / "kernels.cpp").write_text(native.SOURCE.read_text())
    monkeypatch.setattr(native, "SOURCE", image / "kernels.cpp")
    native.build_for_any(image)
    assert len(kept(image)) == (len(native.X86) if native._is_x86() else 1)
    monkeypatch.setattr(native, "build", lambda *arguments: pytest.fail("compiled again"))
    native.keep_in(lambda: tmp_path / "kernels")
    assert native.state().library
    assert transform_works()


@pytest.mark.parametrize(
    "flags", ["sse2", "avx2 fma bmi2", "avx2 fma bmi2 avx512f avx512cd avx512bw avx512dq avx512vl"]
)
def test_the_processor_decides_the_options(flags: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "cpuinfo", lambda: {"flags": flags})
    monkeypatch.setattr(native.platform, "machine", lambda: "x86_64")
    expected = {"sse2": (), "avx2 fma bmi2": ("-march=haswell",)}
    assert native._options() == expected.get(flags, ("-march=skylake-avx512", "-mprefer-vector-width=512"))
