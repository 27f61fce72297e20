"""The compiled loops come and go: other processors, no compiler, damaged files, folders that cannot be written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from wdm_cli.engine import native
from wdm_cli.engine.wavelet import dwt, idwt


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path) -> Iterator[Path]:
    before = native._Settings.folder
    native.keep_in(tmp_path / "kernels")
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
    native.keep_in(tmp_path / "kernels")
    assert native.state().words == f"compiled, {library.name}"
    assert transform_works()


@needs_compiler
def test_a_damaged_library_is_compiled_anew(tmp_path: Path) -> None:
    assert native.state().library
    (library,) = kept(tmp_path / "kernels")
    whole = library.read_bytes()
    library.unlink()  # a new file: the old one is mapped into this process
    library.write_bytes(whole[:1000])
    native.keep_in(tmp_path / "kernels")
    assert native.state().library
    assert library.read_bytes()[:4] == whole[:4]
    assert len(library.read_bytes()) == len(whole)


@needs_compiler
def test_a_folder_that_cannot_be_written_costs_only_the_time_to_compile(tmp_path: Path) -> None:
    (tmp_path / "kernels").write_text("a file, not a folder")
    assert native.state().library
    assert transform_works()


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
    native.keep_in(tmp_path / "kernels")
    assert native.state().library is None
    assert native.state().words.startswith(words)
    assert not kept(tmp_path / "kernels")
    assert transform_works()


@needs_compiler
def test_a_compiler_that_errs_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kernels.cpp").write_text("int main( {")
    monkeypatch.setattr(native, "SOURCE", tmp_path / "kernels.cpp")
    native.keep_in(tmp_path / "kernels")
    assert "kernels.cpp:1:" in native.state().words
    assert "error" in native.state().words


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
    native.keep_in(tmp_path / "kernels")
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
