"""Files of tensors, written with errors that name the file, and read without trust.

Nothing in a file can run code (`weights_only=True` without a fall-back) or swell in memory (entries must be
stored as they are, tensors are mapped and their shapes known before anything is copied).
"""

from __future__ import annotations

import json
import mmap
import os
import pickle
import re
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wdm_cli.engine.errors import CheckpointError
from wdm_cli.engine.files import printable, sha256_file

State = dict[str, Tensor]
OLD = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How a file begins that PyTorch wrote before 1.6, or writes without its zip archive: a pickled number."""
PREFIXES = ("module.", "_orig_mod.", "model.", "ema_model.", "net.")
"""What DistributedDataParallel, torch.compile, Lightning and others put before every name."""


def write_pt(temporary: Path, content: Mapping[str, Any]) -> None:
    """torch.save whose failures are OSErrors: torch itself hides a full disk behind a RuntimeError."""
    with temporary.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise


def read_pt(path: Path, *, check_crc: bool) -> Mapping[str, Any]:
    """What a `.pt` file maps names to; tensors stay on disk until they are used, but for the old format.

    Args:
        check_crc: compare every entry with its checksum, for files that have no sha256 to compare with.

    Raises:
        CheckpointError: it is something else, cut off or damaged, or it holds more than plain data.
    """
    zipped = _check_archive(path, check_crc)
    try:
        content = _load(path, zipped)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: holds more than tensors: {_first_line(error)}",
            why="loading it would run code from the file, which wdm never does",
            hint=f"if you trust it, save its weights alone: {_save_again(path, 'state_dict', trusted=True)} "
            "(or the key that holds them)",
        ) from error
    except Exception as error:  # a hostile pickle can make the reader fail in any way
        raise CheckpointError(f"{path}: cannot be read: {_first_line(error)}") from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not weights")
    return content


def _load(path: Path, zipped: bool) -> Any:
    with path.open("rb") as file:
        if not zipped:  # an object without a descriptor: else torch would try to unpack the file as a tar archive first
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the age of the format
                return torch.load(content, map_location="cpu", weights_only=True)  # type: ignore[arg-type]
        named = printable(str(path)) == str(path)  # torch maps files by names in UTF-8 only
        return torch.load(path if named else file, map_location="cpu", weights_only=True, mmap=named)


def _save_again(path: Path, key: str = "", *, trusted: bool = False) -> str:
    """A line for the shell that writes a part of a file anew, as wdm reads it."""
    load = f"torch.load('{path}', map_location='cpu', weights_only={not trusted})"
    part = f"['{key}']" if key else ""
    return f"python -c \"import torch; torch.save({load}{part}, 'weights.pt')\""


def is_old(path: Path) -> bool:
    """Whether a file has the format that PyTorch wrote before 1.6, which holds no checksums."""
    with path.open("rb") as file:
        return file.read(len(OLD)) == OLD


def weights_in(path: Path, content: Mapping[str, Any], fit: Callable[[object], bool]) -> tuple[State, tuple[str, ...]]:
    """The one set of weights in what a file maps names to, without what other tools put around it.

    Args:
        fit: whether a value is such a set.

    Returns:
        The weights; and in words what was left out. Empty, if there are none.

    Raises:
        CheckpointError: there are several.
    """
    sets = {str(key): value for key, value in content.items() if fit(value) and value}
    if content and fit(content):
        found, said = content, []
    elif len(sets) == 1:
        ((key, found),) = sets.items()
        said = [f"weights under {key!r}"]
    elif sets:
        raise CheckpointError(
            f"{path}: holds {len(sets)} sets of weights: {', '.join(sets)}",
            why="which one is meant cannot be known",
            hint=f"save one of them alone, e.g. {_save_again(path, next(reversed(sets)))}",
        )
    else:
        return {}, ()
    state, prefixes = without_prefixes({str(name): tensor for name, tensor in found.items()})
    return state, (*said, *prefixes)


def without_prefixes(state: State) -> tuple[State, tuple[str, ...]]:
    """Weights without what tools put before every name; and in words what it was."""
    removed = []
    while prefix := next((p for p in PREFIXES if state and all(name.startswith(p) for name in state)), ""):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
        removed.append(f"names without {prefix!r}")
    return state, tuple(removed)


def _check_archive(path: Path, check_crc: bool) -> bool:
    """Refuse what is no PyTorch zip archive of stored entries; False for a file of the old format."""
    try:
        with path.open("rb") as file:
            head = file.read(64)
        if head.startswith(b"version https://git-lfs"):
            raise CheckpointError(f"{path}: a git-lfs pointer, not the file itself", hint="run `git lfs pull`")
        if not zipfile.is_zipfile(path):
            if head.startswith(OLD):
                return False
            if tarfile.is_tarfile(path):
                raise CheckpointError(
                    f"{path}: a tar archive, as PyTorch wrote before 0.2",
                    hint=f"if you trust it, save it again: {_save_again(path, trusted=True)}",
                )
            kind = "a web page" if head.lstrip()[:1] == b"<" else "not a checkpoint, or cut off"
            raise CheckpointError(
                f"{path}: {kind} ({path.stat().st_size} bytes; no PyTorch zip archive)",
                hint="download or copy it again",
            )
        with zipfile.ZipFile(path) as archive:
            # torch stores tensors uncompressed; a compressed entry could swell to any size
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise CheckpointError(f"{path}: compressed entries, which no checkpoint has")
            if check_crc and (damaged := archive.testzip()):
                raise CheckpointError(f"{path}: damaged: {damaged} does not match its checksum")
            return True
    except CheckpointError:
        raise
    except Exception as error:  # nor does zipfile promise how it fails
        raise CheckpointError(f"{path}: cannot be read: {_first_line(error)}") from error


def read_safetensors(path: Path) -> tuple[State, dict[str, str]]:
    """Tensors (on the CPU) and metadata of a `.safetensors` file; CheckpointError if it is damaged or none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError, TypeError) as error:
        raise CheckpointError(f"{path}: not a safetensors file, or damaged: {_first_line(error)}") from error


def write_safetensors(temporary: Path, state: State, metadata: dict[str, str]) -> None:
    """save_file whose failures are OSErrors."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(state, temporary, metadata)
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        raise (OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error))) from error


def is_state(value: object) -> bool:
    """Whether a value from a file maps names to plain tensors of real numbers."""
    return isinstance(value, Mapping) and all(
        isinstance(name, str)
        and isinstance(tensor, Tensor)
        and tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and tensor.is_floating_point()
        for name, tensor in value.items()
    )


def checked_sha256(path: Path, manifest: Path) -> str:
    """The file's sha256; CheckpointError if the manifest beside it names another, or either cannot be read."""
    try:
        digest = sha256_file(path)
        expected = json.loads(manifest.read_bytes())["sha256"] if manifest.exists() else digest
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{manifest}: not a manifest") from error
    if digest != expected:
        raise CheckpointError(f"{path}: damaged, its sha256 is not the one in {manifest.name}")
    return digest


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
