"""Files appear whole or not at all, whatever call fails; names are safe."""

from __future__ import annotations

import errno
import itertools
import os
import re
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small import small, trainer

from wdm_cli.engine import files
from wdm_cli.engine.checkpoint import read, save
from wdm_cli.engine.errors import DataError, ResourceError
from wdm_cli.engine.files import (
    atomic_publish,
    locked,
    read_text,
    require_space,
    safe_name,
    write_array,
    write_bytes,
    write_text,
)


class FailNth:
    """Let the nth call of a function fail; count the calls."""

    def __init__(self, true: Any, number: int, code: int, inside: Path) -> None:
        self.true, self.left, self.code, self.inside = true, number, code, inside

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(args[0], int) and str(self.inside) not in str(args[0]):
            return self.true(*args, **kwargs)  # somebody else's file
        self.left -= 1
        if self.left == 0:
            raise OSError(self.code, os.strerror(self.code))
        return self.true(*args, **kwargs)


CALLS = {
    "open": (Path, "open"),
    "touch": (Path, "touch"),
    "write": (Path, "write_bytes"),
    "fsync": (os, "fsync"),
    "replace": (Path, "replace"),
    "mkdir": (Path, "mkdir"),
}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES], ids=errno.errorcode.get)
@pytest.mark.parametrize("call", CALLS)
def test_whichever_call_fails_the_previous_checkpoint_loads(call: str, code: int, tmp_path: Path) -> None:
    """The nth call fails, n = 1, 2, … until a save passes; each failure names the path and leaves no temporary."""
    path, state = tmp_path / "a.pt", trainer(small(model__dropout=0.0)).state()
    save(path, state)
    owner, name = CALLS[call]
    failures = 0
    for number in range(1, 20):
        with pytest.MonkeyPatch.context() as patch:
            spy = FailNth(getattr(owner, name), number, code, tmp_path)
            patch.setattr(owner, name, lambda *args, _spy=spy, **kwargs: _spy(*args, **kwargs))
            error = outcome(lambda: save(path, state))
        if error is not None:
            failures += 1
            assert str(path) in error.what
            assert error.exit_code == 5
            assert ("no space left" in error.what and "MB free" in error.what) == (code == errno.ENOSPC)
        assert read(path).step == 0
        assert not list(tmp_path.rglob(files.PARTIAL))
        if spy.left > 0:  # this save had fewer calls than that
            break
    assert 1 <= failures < 19


def outcome(action: Any) -> ResourceError | None:
    try:
        action()
    except ResourceError as error:
        return error
    return None


def test_bytes_are_there_before_the_name(tmp_path: Path, monkeypatch: Any) -> None:
    order: list[str] = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (order.append("fsync"), fsync(fd)))
    monkeypatch.setattr(Path, "replace", lambda self, to: (order.append("replace"), replace(self, to))[1])
    write_text(tmp_path / "a.txt", "x")
    assert order == ["fsync", "replace", "fsync"]  # the file, its name, its folder


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a.txt", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640


def test_an_error_in_the_body_leaves_what_was_there(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")

    def write() -> None:
        with atomic_publish(tmp_path / "a.txt") as temporary:
            temporary.write_text("new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_the_temporary_keeps_the_suffixes(tmp_path: Path) -> None:
    with atomic_publish(tmp_path / "a.nii.gz") as temporary:
        assert temporary.name.endswith("-a.nii.gz")
        assert not list(tmp_path.glob("*.nii.gz"))
        temporary.write_bytes(b"x")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(ResourceError, match="Permission denied"):
        write_text(tmp_path / "a.txt", "x")


def test_a_link_to_nowhere_says_so(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(ResourceError, match="File exists"), atomic_publish(tmp_path / "link" / "a.txt"):
        pass


def test_a_folder_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(ResourceError, match=r"cannot write .*a\.txt: Is a directory"):
        write_text(tmp_path / "a.txt", "x")
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match=r"cannot write .*b\.txt"):
        write_text(tmp_path / "file" / "b.txt", "x")
    with pytest.raises(ResourceError, match="cannot write"), locked(tmp_path / "file"):
        pass


def test_space_is_asked_for_before(tmp_path: Path) -> None:
    require_space(tmp_path / "not" / "yet", 1000)
    with pytest.raises(ResourceError, match=r"needs [\d,]+ MB, [\d,]+ MB are free"):
        require_space(tmp_path / "a", 2**60)


@given(st.text(max_size=300), st.text(max_size=300))
def test_safe_names_are_safe_and_distinct(one: str, other: str) -> None:
    first, second = safe_name(one), safe_name(other)
    assert set(first) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert 1 <= len(first) <= 64
    assert first[0] not in ".-"
    assert (first == second) == (one == other)


def test_a_long_write_is_not_torn_by_a_reader(tmp_path: Path) -> None:
    """A reader sees the old or the new content, never less."""
    path, seen = tmp_path / "a.bin", set()
    write_bytes(path, b"a" * 10_000)
    for content in (b"b" * 20_000, b"c" * 5_000):
        with atomic_publish(path) as temporary, temporary.open("wb") as file:
            for i in range(0, len(content), 1000):
                file.write(content[i : i + 1000])
                seen.add(path.read_bytes())
        seen.add(path.read_bytes())
    assert seen == {b"a" * 10_000, b"b" * 20_000, b"c" * 5_000}


ARRAYS = {
    "a row": np.arange(7.0),
    "every second column": np.zeros((3, 4, 5), np.int16)[:, ::2],
    "empty": np.ones(0, np.float32),
    "one number": np.array(2.5),
    "no rows": np.zeros((0, 3), np.float32),
    "Fortran order": np.asfortranarray(np.arange(24, dtype=np.int16).reshape(2, 3, 4)),
    "big-endian, backwards": np.arange(5, dtype=">f4")[::-1],
    "named fields": np.array([(1, 2.5), (3, 4.5)], dtype=[("a", "i4"), ("b", "f8")]),
}


@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS)
def test_arrays_are_what_numpy_would_save(array: np.ndarray, tmp_path: Path) -> None:
    write_array(tmp_path / "a.npy", array)
    np.save(tmp_path / "b.npy", np.asarray(array, order="C"))
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
    read = np.load(tmp_path / "a.npy")
    assert read.dtype == array.dtype
    assert read.shape == array.shape
    assert np.array_equal(read, array)


@pytest.mark.parametrize(
    "array",
    [np.array(["2026-01-01"], "M8[D]"), np.array([5], "m8[s]"), np.array([{}]), np.zeros(2, [("a", "M8[D]")])],
    ids=lambda array: str(array.dtype),
)
def test_arrays_without_plain_numbers_are_refused_before_anything_is_written(array: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=re.escape(f"a.npy: an array of {array.dtype} cannot be written")):
        write_array(tmp_path / "a.npy", array)
    assert not list(tmp_path.iterdir())


def test_text_is_read_without_a_mark_and_with_any_line_end(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for before, ends in itertools.product([b"", b"\xef\xbb\xbf"], [b"\n", b"\r\n", b"\r"]):
        path.write_bytes(before + "Köln".encode() + ends + b"b" + ends)
        assert read_text(path) == "Köln\nb\n"
    for encoding in ("utf-16-le", "utf-16-be"):
        path.write_bytes("\ufeffa = 1".encode(encoding))
        with pytest.raises(DataError, match=r"a\.txt: not UTF-8 text, but UTF-16"):
            read_text(path, "replace")
    path.write_bytes(b"\xfc")
    assert read_text(path, "surrogateescape") == "\udcfc"
    with pytest.raises(UnicodeDecodeError):
        read_text(path)


def test_a_file_name_that_is_no_text_can_be_written_about(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "\udcfcber")
    assert (tmp_path / "a.txt").read_bytes() == b"\\udcfcber"
    assert safe_name("\udcfcber") != safe_name("\udcfdber")
