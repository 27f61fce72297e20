"""Every file of an archive once, whether it lies there or behind a symbolic link.

Archives in DataLad and farms of links hold nothing but links. Those to files are read, those to folders walked, unless
what they lead to is read anyway; so loops end, and nothing is read twice. A link to nothing is data that is missing.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from wdm_cli.engine.dicom.headers import DICOM_SUFFIXES, OtherFile, Slice, read_header

VERSION_CONTROL = {".git", ".datalad", ".svn", ".hg"}  # git-annex keeps what the links lead to in .git
OTHER_NAME = re.compile(r"\.[a-z][a-z0-9]{0,4}", re.IGNORECASE)  # a suffix that tells a kind of file
ANNEX = f"{os.sep}annex{os.sep}objects{os.sep}"
Key = tuple[int, int]


def count_files(folder: Path) -> int:
    """How many files `scan` will look at."""
    return sum(1 for _ in _found(folder))


def scan(folder: Path) -> Iterator[Slice | OtherFile]:
    """Every file under `folder`, in a fixed order, as a Slice or an OtherFile; those behind links last."""
    for item in _found(folder):
        yield read_header(item) if isinstance(item, Path) else item


def _found(folder: Path) -> Iterator[Path | OtherFile]:
    """Files to read, and links and folders that are not."""
    known: set[Key] = set()
    for above in (folder.resolve(), *folder.resolve().parents):  # a link upwards would walk what is around the archive
        known.add(_key(above.stat())) if above.exists() else None
    links: deque[Path] = deque()
    yield from _walk(folder, known, links)
    while links:
        link = links.popleft()
        try:
            state = link.stat()
        except OSError as error:
            loop = error.errno == errno.ELOOP
            yield OtherFile(link, "ignored", "link that leads to itself") if loop else _dangling(link)
            continue
        is_folder = stat.S_ISDIR(state.st_mode)
        if _key(state) in known:
            yield OtherFile(
                link, "ignored", f"link to a {'folder' if is_folder else 'file'} that is read anyway, or lies above"
            )
        elif is_folder:
            known.add(_key(state))
            yield from _walk(link, known, links)
        else:
            known.add(_key(state))
            yield link


def _walk(folder: Path, known: set[Key], links: deque[Path]) -> Iterator[Path | OtherFile]:
    """What lies in a folder itself; links are put into `links`, and what is seen into `known`."""
    unreadable: list[OSError] = []
    for root, folders, names in os.walk(folder, onerror=unreadable.append):
        here = Path(root)
        linked = [name for name in folders if (here / name).is_symlink()]
        yield from (OtherFile(here / name, "ignored", "folder of version control") for name in folders
                    if name in VERSION_CONTROL and name not in linked)  # fmt: skip
        folders[:] = sorted(set(folders) - VERSION_CONTROL - set(linked))
        for name in list(folders):
            key = _key((here / name).stat())
            if key in known:  # a folder behind an earlier link
                folders.remove(name)
            known.add(key)
        for name in sorted(names + linked):
            path = here / name
            if path.is_symlink():
                links.append(path)
                continue
            known.add(_key(path.lstat()))
            yield path
    for error in unreadable:
        yield OtherFile(Path(error.filename), "skipped", f"cannot be listed: {error.strerror}")


def _dangling(link: Path) -> OtherFile:
    """A link to nothing: missing data, unless its name says that it is no DICOM file."""
    suffix = link.suffix.lower()
    if suffix not in DICOM_SUFFIXES and OTHER_NAME.fullmatch(suffix):
        return OtherFile(link, "ignored", f"broken link ({suffix})")
    if ANNEX in str(link.readlink()):
        return OtherFile(link, "skipped", "its content is not here (git-annex): fetch it with `datalad get`")
    return OtherFile(link, "skipped", "a broken link: what it leads to is not there")


def _key(state: os.stat_result) -> Key:
    return state.st_dev, state.st_ino
