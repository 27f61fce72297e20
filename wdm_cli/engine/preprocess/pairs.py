"""FreeSurfer's files and pairs of header and voxels, read as the NIfTI files that they could be.

Their headers are rewritten in memory as NIfTI's, and what follows is read as a NIfTI file is: with the same checks.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import nibabel as nib
import numpy as np

from wdm_cli.engine.data.formats import suffix_of
from wdm_cli.engine.data.presence import why_absent
from wdm_cli.engine.data.volume import DEFLATE_RATIO, Volume, read_stream
from wdm_cli.engine.errors import DataError

MGH_BYTES = 284  # of the header; voxels follow
NIFTI_BYTES = 352
PAIR_BYTES = 348
NO_ORIENTATION = "Analyze states no orientation: taken as its usual one, LAS (an SPM .mat file is not read)"


class Rewritten(io.RawIOBase):
    """A NIfTI header, then the voxels of another file from its present place on."""

    def __init__(self, head: bytes, file: IO[bytes]) -> None:
        self.head, self.file, self.start, self.at = head, file, file.tell(), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        assert whence == 0
        self.at = offset
        if offset >= len(self.head):
            self.file.seek(self.start + offset - len(self.head))
        return offset

    def readinto(self, buffer: Any) -> int:
        left = self.head[self.at : self.at + len(buffer)]
        if self.at == len(self.head):
            self.file.seek(self.start)
        data = left or self.file.read(len(buffer))
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)


def read_mgh(path: Path) -> Volume:
    """A FreeSurfer volume (.mgz, .mgh) with its raw intensities; raises DataError as `read_nifti` does."""
    from nibabel.freesurfer.mghformat import MGHHeader

    with _opened(path, packed=path.suffix.lower() == ".mgz") as (file, most):
        block = file.read(MGH_BYTES)
        if len(block) < MGH_BYTES or int.from_bytes(block[:4], "big") != 1:  # the only version there is
            raise DataError(f"{path}: is no FreeSurfer volume (.mgz, .mgh), or is truncated")
        header = MGHHeader(block, check=False)
        plain = nib.Nifti1Header(endianness=">")
        _describe(path, plain, _parsed(path, header.get_data_dtype), _parsed(path, header.get_data_shape))
        _place(plain, _parsed(path, header.get_affine))
        return _read(path, plain, file, most)


def read_pair(path: Path) -> Volume:
    """A pair of .hdr and .img, NIfTI or Analyze, with its raw intensities; raises DataError as `read_nifti` does."""
    with _opened(path, packed=False) as (file, _):
        block = file.read(PAIR_BYTES)
    voxels = _beside(path)
    with _opened(voxels, packed=voxels.suffix.lower() == ".gz") as (file, most):
        if is_analyze(path):
            analyze = _parsed(path, lambda: nib.Spm99AnalyzeHeader(block, check=False))
            plain = nib.Nifti1Header(endianness=analyze.endianness)
            _describe(
                path, plain, _parsed(path, analyze.get_data_dtype), tuple(analyze["dim"][1 : 1 + analyze["dim"][0]])
            )
            _place(plain, _parsed(path, analyze.get_best_affine))
            plain["scl_slope"], plain["scl_inter"] = analyze["scl_slope"], 0
            offset = float(analyze["vox_offset"])
        else:
            plain = nib.Nifti1Header(block, check=False)
            offset = float(plain["vox_offset"])
        if not 0 <= offset <= 2**24:
            raise DataError(f"{path}: the header puts the voxels at byte {offset:g}", why="it is damaged")
        file.seek(int(offset))
        return _read(path, plain, file, most)


def is_analyze(path: Path) -> bool:
    """Whether a .hdr file is Analyze 7.5 or SPM, whose headers say nothing of axes; refused if it is no such header."""
    try:
        with path.open("rb") as file:
            block = file.read(PAIR_BYTES)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(block) < PAIR_BYTES or 348 not in (int.from_bytes(block[:4], "little"), int.from_bytes(block[:4], "big")):
        raise DataError(f"{path}: is no header of a NIfTI or Analyze pair, or is truncated")
    return block[344:348] != b"ni1\0"


def _beside(path: Path) -> Path:
    """The voxels of a header: x.img, or x.img.gz."""
    base = path.name[: -len(suffix_of(path.name))]
    places = [path.with_name(base + end) for end in (".img", ".IMG", ".img.gz")]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        reason = why_absent(places[0])
        raise DataError(
            f"{path}: {places[0].name}, the file of its voxels, is not beside it{reason and f' ({reason})'}"
        )
    return found


def _describe(path: Path, plain: Any, dtype: Any, shape: tuple[int, ...]) -> None:
    """Type and sides into a NIfTI header."""

    def fill() -> None:
        plain.set_data_dtype(dtype)
        plain["dim"][:8] = [len(shape), *shape, *[1] * (7 - len(shape))]
        plain["pixdim"][1:4] = 1
        plain.set_xyzt_units("mm")

    _parsed(path, fill)


def _place(plain: Any, affine: Any) -> None:
    """The affine into a NIfTI header, with the voxel sizes that it has."""
    plain.set_sform(affine, code=1)
    sizes = np.linalg.norm(np.asarray(affine, np.float64)[:3, :3], axis=0)
    plain["pixdim"][1:4] = np.where(np.isfinite(sizes) & (sizes > 0), sizes, 1)  # the affine says what is wrong


def _read(path: Path, plain: Any, file: IO[bytes], most: int) -> Volume:
    """The voxels that a file goes on with, under a header that is written as that of a single NIfTI file."""
    plain["magic"], plain["vox_offset"] = b"n+1", NIFTI_BYTES
    head = bytes(plain.binaryblock).ljust(NIFTI_BYTES, b"\0")
    return read_stream(path, cast("IO[bytes]", Rewritten(head, file)), most + NIFTI_BYTES)


def _parsed(path: Path, parse: Any) -> Any:
    """What nibabel makes of a header; DataError for whatever it stumbles over."""
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    try:
        return parse()
    except (
        HeaderDataError,
        WrapStructError,
        ValueError,
        KeyError,
        TypeError,
        OverflowError,
        np.linalg.LinAlgError,
    ) as error:
        raise DataError(f"{path}: its header is damaged ({error})") from error


@contextlib.contextmanager
def _opened(path: Path, *, packed: bool) -> Iterator[tuple[IO[bytes], int]]:
    """The file, unpacked, and how many bytes it can hold; errors of both as DataError."""
    try:
        with path.open("rb") as file:
            stored = path.stat().st_size
            if not packed:
                yield file, stored
                return
            with gzip.GzipFile(fileobj=file, mode="rb") as unpacked:
                yield cast("IO[bytes]", unpacked), stored * DEFLATE_RATIO
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        why = "truncated" if isinstance(error, EOFError) else f"damaged ({error})"
        raise DataError(f"{path}: the gzip data are {why}", hint="copy or download the file again") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
