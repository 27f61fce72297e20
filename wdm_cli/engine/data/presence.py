"""Whether a file's content is on this machine, and how to fetch it if only its place is held. No torch, no numpy.

Archives are handed on as links or pointers: git-annex (DataLad) leaves a link that dangles, or a small text file, until
`get`; git-lfs a small text file until `pull`; iCloud a hidden `.NAME.icloud`.
"""

from __future__ import annotations

from pathlib import Path

from wdm_cli.engine.errors import DataError

POINTER_BYTES = 2**12
ANNEX = "annex/objects/"
LFS = b"version https://git-lfs"


def why_absent(path: Path) -> str:
    """Why a file holds no content and what fetches it; nothing if it holds some, or does not exist at all."""
    try:
        if path.is_symlink() and not path.exists():
            return _dangling(path)
        if not path.exists():
            waits = (path.parent / f".{path.name}.icloud").exists()
            return "is still in iCloud; download it first (`brctl download FILE`, or in the Finder)" if waits else ""
        size = path.stat().st_size
        if size == 0 and path.is_file():
            return "is empty (0 bytes); copy or download the file again"
        if not 0 < size <= POINTER_BYTES or not path.is_file():
            return ""
        with path.open("rb") as file:
            head = file.read(POINTER_BYTES)
    except OSError:
        return ""  # whoever reads it will say so
    if head.startswith(LFS):
        return "is a git-lfs pointer, not the file; `git lfs pull` fetches it"
    if head.startswith(f"/{ANNEX}".encode()):
        return "is a git-annex pointer, not the file; `datalad get FILE` or `git annex get FILE` fetches it"
    return ""


def refuse_absent(path: Path) -> None:
    """Raise DataError, with the remedy, for a file whose content is not on this machine."""
    if reason := why_absent(path):
        raise DataError(f"{path}: {reason}")


def _dangling(path: Path) -> str:
    target = str(path.readlink())
    if ANNEX in target:
        return "its content is not here; `datalad get FILE` or `git annex get FILE` fetches it (git-annex)"
    if (path.parent / target).is_symlink():
        return f"is a link to {target}, which leads nowhere"
    return f"is a link to {target}, which is not there; restore that file or mend the link"
