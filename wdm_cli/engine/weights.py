"""Released weights: where they are, and how they get here whole. No torch.

The registry (weights.json) holds sizes and hashes where they are known. A file whose hash is not known is pinned
to what it was when it first came: its sha256 is written beside it and checked from then on.
"""

from __future__ import annotations

import json
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from importlib import resources
from pathlib import Path
from typing import Any

from wdm_cli.engine.errors import ConfigError, ResourceError
from wdm_cli.engine.files import PARTIAL, read_text, require_space, sha256_file, write_error, write_text
from wdm_cli.engine.metrics.metric import Progress, Steps
from wdm_cli.engine.preset import did_you_mean

CHUNK = 2**20
TIMEOUT = 30.0  # seconds without a byte
Opener = Callable[..., Any]


@dataclass(frozen=True)
class Release:
    """A released file. bytes and sha256 are None where they are not known; preset: the network it fits, if any."""

    name: str
    file: str
    repo: str
    bytes: int | None
    sha256: str | None
    licence: str
    preset: str | None
    about: str

    @property
    def url(self) -> str:
        return f"https://huggingface.co/{self.repo}/resolve/main/{self.file}"

    @property
    def run_by(self) -> str:
        """The command that runs it; empty if none does, because no preset has its network."""
        if self.preset is not None:
            return "wdm sample"
        return "wdm eval" if self.name.startswith("medicalnet") else ""

    @property
    def page(self) -> str:
        """Where a person finds it."""
        return f"https://huggingface.co/{self.repo}"


def registry() -> dict[str, Release]:
    """All released files by name."""
    text = resources.files("wdm_cli.engine").joinpath("weights.json").read_text(encoding="utf-8")
    return {item["name"]: Release(**item) for item in json.loads(text)}


def find(name: str) -> Release:
    """A release by name or file name; ConfigError if there is none."""
    known = registry()
    for release in known.values():
        if name in (release.name, release.file):
            return release
    raise ConfigError(
        f"no released weights named {name!r}{did_you_mean(name, known)}", hint="`wdm weights list` shows the names"
    )


def path_of(release: Release, folder: Path) -> Path:
    """Where a downloaded release lies."""
    return folder / "released" / release.file


def pin_of(path: Path) -> Path:
    """The file beside a download that holds its sha256."""
    return path.with_name(path.name + ".sha256")


def verify(release: Release, folder: Path) -> str:
    """The sha256 of a downloaded release.

    Raises:
        ResourceError: it is not there, or is not what it was or should be.
    """
    path = path_of(release, folder)
    if not path.is_file():
        raise ResourceError(f"{release.name} is not here", hint=f"wdm weights get {release.name}")
    found = sha256_file(path)
    expected = release.sha256 or (read_text(pin_of(path)).strip() if pin_of(path).exists() else found)
    if found != expected:
        raise ResourceError(
            f"{path}: sha256 {found}, expected {expected}",
            why="the file is damaged or was replaced",
            hint=f"delete it and run: wdm weights get {release.name}",
        )
    return found


def download(release: Release, folder: Path, open_url: Opener = urllib.request.urlopen) -> Steps[Path]:
    """Fetch a release over https, going on where an earlier attempt stopped; yields bytes as progress.

    Raises:
        ResourceError: no network, no such file, a wrong checksum, or no space; names the page to fetch it from by hand.
    """
    path = path_of(release, folder)
    if path.is_file():
        verify(release, folder)
        return path
    partial = path.parent / PARTIAL / release.file
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        yield from fetch(release, partial, open_url)
        found = sha256_file(partial)
        if release.sha256 not in (None, found):
            partial.unlink()
            raise by_hand(release, f"{release.url}: sha256 {found}, expected {release.sha256}; thrown away")
        partial.replace(path)
        write_text(pin_of(path), found + "\n")
    except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        raise by_hand(release, f"cannot download {release.url}: {reason}") from error
    except OSError as error:
        raise write_error(path, error) from error
    return path


def fetch(release: Release, partial: Path, open_url: Opener) -> Steps[None]:
    """Append what is missing to `partial`."""
    have = partial.stat().st_size if partial.exists() else 0
    if release.bytes is not None and have == release.bytes:
        return
    request = urllib.request.Request(release.url, headers={"Range": f"bytes={have}-"} if have else {})
    with open_url(request, timeout=TIMEOUT) as response:
        if not response.geturl().startswith("https://"):
            raise by_hand(release, f"{release.url} leads to {response.geturl()}, which is not https")
        if response.status != 206:  # the server sends the whole file
            have = 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else release.bytes or 0
        require_space(partial, total - have, hint="free some space, or set WDM_CACHE_DIR to another disk")
        with partial.open("ab" if have else "wb") as file:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                have += len(chunk)
                yield Progress(f"downloading {release.file} (bytes)", have, max(total, have))
            file.flush()
            os.fsync(file.fileno())
    if total and have < total:
        raise ConnectionError(f"the connection ended after {have:,} of {total:,} bytes; the same command continues")


def by_hand(release: Release, what: str) -> ResourceError:
    """An error that says how to do without the download."""
    return ResourceError(
        what,
        hint=f"get {release.file} from {release.page} on any machine, then: wdm weights import {release.file}",
    )


def offline(release: Release) -> ResourceError:
    """The error of a download that the user has forbidden."""
    return by_hand(release, f"{release.name} is not here, and WDM_OFFLINE forbids downloads")


def in_hub_cache(release: Release) -> Path | None:
    """A copy that the `hub` extra (huggingface_hub) knows of in its own cache; None without it."""
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    found = try_to_load_from_cache(release.repo, release.file)
    return Path(found) if isinstance(found, str) else None


def adopt(file: Path, release: Release, folder: Path) -> Path:
    """Take a file that was fetched by hand into the folder of downloads; its checksum must be right.

    Raises:
        ResourceError: it is not the released file, by its size or sha256.
    """
    path = path_of(release, folder)
    found = sha256_file(file)
    if release.sha256 not in (None, found):
        raise by_hand(release, f"{file}: sha256 {found}, expected {release.sha256}")
    require_space(path, file.stat().st_size, hint="free some space, or set WDM_CACHE_DIR to another disk")
    try:
        (path.parent / PARTIAL).mkdir(parents=True, exist_ok=True)
        partial = path.parent / PARTIAL / release.file
        shutil.copyfile(file, partial)
        partial.replace(path)
    except OSError as error:
        raise write_error(path, error) from error
    write_text(pin_of(path), found + "\n")
    return path
