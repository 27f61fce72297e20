"""The only way anything is written: whole or not at all, under names that are safe.

A file is written under a temporary name in a folder `.partial` beside its destination (same file
system), flushed to disk and renamed, so a final name never holds part of a file.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import fcntl
import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wdm_cli.engine.errors import DataError, ResourceError

if TYPE_CHECKING:
    import numpy as np

PARTIAL = ".partial"


@contextlib.contextmanager
def atomic_publish(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write; on success it becomes `path`, on any error it vanishes.

    The temporary keeps the suffixes of `path` (writers choose formats by them) and lies in a folder of
    its own, because patterns such as *.nii.gz would also find dot-files.

    Raises:
        ResourceError: the file system refused, with the path and, for a full disk, the free bytes.
    """
    folder = path.parent / PARTIAL
    temporary = folder / f"{os.getpid()}-{os.urandom(4).hex()}-{path.name}"
    try:
        _reserve(temporary)
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
        with contextlib.suppress(OSError):
            folder.rmdir()  # only when no other writer is at work in it


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a second run out of an output folder; the kernel drops the lock when the process ends.

    Raises:
        ResourceError: another process holds it, or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("wb")
    except OSError as error:
        raise write_error(folder, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ResourceError(
                f"{folder}: another process is at work in this folder", hint="wait, or use another --out"
            ) from None
        except OSError:
            pass  # a file system without locks: nothing to check
        yield


def remove_partial(folder: Path) -> None:
    """Remove what killed writers left below a folder that is `locked`."""
    for partial in folder.rglob(PARTIAL):
        shutil.rmtree(partial, ignore_errors=True)


def _reserve(temporary: Path) -> None:
    """Create the temporary file at once: another writer removes the folder the moment it is empty."""
    for attempt in range(100):
        try:
            temporary.parent.mkdir(parents=True, exist_ok=True)
            return temporary.touch()
        except (FileNotFoundError, FileExistsError):
            if attempt == 99:
                raise


def read_text(path: Path, errors: str = "strict") -> str:
    """Text in UTF-8, whatever the locale; without the byte order mark that editors of Windows put before it.

    Args:
        errors: what to do about other bytes, as for bytes.decode.

    Returns:
        The text, line ends as \\n.

    Raises:
        OSError, UnicodeDecodeError. DataError: it is UTF-16.
    """
    data = path.read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(f"{path}: not UTF-8 text, but UTF-16", hint="save it as UTF-8")
    return io.TextIOWrapper(io.BytesIO(data), "utf-8-sig", errors).read()


def printable(text: str) -> str:
    """The text with escapes in place of the bytes of file names that are no UTF-8, which no text file can hold."""
    return text.encode(errors="backslashreplace").decode()


def write_bytes(path: Path, data: bytes) -> None:
    with atomic_publish(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, printable(text).encode())


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_array(path: Path, array: np.ndarray) -> None:
    """Write a .npy file, as np.save does but for its last block, whose loss on a full disk np.save does not notice.

    Shape and type are kept; the values stand in C order.

    Raises:
        TypeError: the array has no plain buffer of values: it holds objects, dates or spans of time.
    """
    import numpy as np

    plain = np.asarray(array, order="C")  # not ascontiguousarray, which makes of one number a row of one
    try:
        buffer = None if plain.dtype.hasobject else plain.data
    except ValueError:
        buffer = None
    if buffer is None:
        raise TypeError(f"{path}: an array of {plain.dtype} cannot be written, only plain numbers and text")
    with atomic_publish(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(plain))
        file.write(buffer)


NO_SPACE = "free some space or choose another folder; finished files are kept, the same command continues"
REFUSALS = {  # errno of a write -> what the system means, and what helps
    errno.ENOSPC: ("no space left", NO_SPACE),
    errno.EDQUOT: (
        "disk quota exceeded",
        "`quota -s` (on Lustre `lfs quota -h`) shows yours: free some of it or choose a folder that it does not count; "
        "finished files are kept, the same command continues",
    ),
    errno.EFBIG: (
        "larger than a file may be here",
        "`ulimit -f` shows the limit of this shell; if it is unlimited, the file system has one: choose another folder",
    ),
    errno.EROFS: ("the file system is read-only", "choose a folder on another one"),
    errno.ENAMETOOLONG: ("the name is too long", "choose a shorter one: most file systems take 255 bytes a name"),
}


def require_space(path: Path, needed: int, hint: str = NO_SPACE) -> None:
    """Refuse to start writing `needed` bytes where less is free.

    Raises:
        ResourceError: with the path, the needed and the free bytes, and what to do about it (`hint`).
    """
    if short := shortage(path, needed):
        raise ResourceError(f"cannot write {path}: it needs {short}", hint=hint)


def shortage(path: Path, needed: int) -> str:
    """Needed and free bytes in words where `needed` bytes have no place; else, or where none can tell, nothing."""
    try:
        free = shutil.disk_usage(existing_parent(path)).free
    except OSError:
        return ""  # not every file system tells
    return f"{needed / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free" if needed > free else ""


def write_error(path: Path, error: OSError) -> ResourceError:
    """An OSError from writing `path` as an error a user can act on."""
    what, hint = REFUSALS.get(
        error.errno or 0, (str(error.strerror or error), "check the folder's permissions or choose another")
    )
    if error.errno == errno.ENOSPC:
        with contextlib.suppress(OSError):
            there = existing_parent(path)
            left = os.statvfs(there)
            if left.f_files and not left.f_favail:
                what, hint = "no inodes left", f"`df -i` shows them: remove many small files; {NO_SPACE}"
            else:
                what += f" ({shutil.disk_usage(there).free / 1e6:.0f} MB free)"
    return ResourceError(f"cannot write {path}: {what}", hint=hint)


def existing_parent(path: Path) -> Path:
    """The nearest folder above (or at) `path` that exists."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def safe_name(text: str, *, limit: int = 64) -> str:
    """A file name from any text: letters, digits, '.', '_' and '-' only, never hidden or empty.

    Text that had to be changed gets a short hash of the original, so that two different texts keep
    two different names.
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", text).lstrip(".-")
    if name == text and 0 < len(name) <= limit:
        return name
    return f"{name[: limit - 9] or 'case'}-{hashlib.sha256(text.encode(errors='surrogateescape')).hexdigest()[:8]}"


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; some file systems do not allow it, which is no error."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
