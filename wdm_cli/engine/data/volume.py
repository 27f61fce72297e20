"""A volume never travels without its affine: reading NIfTI files with suspicion, writing them whole.

`read_nifti` trusts nothing in a file. The header is checked before anything is allocated, a gzip is read to
its very end (only its checksum shows a flipped bit), and a file that would poison a data set is refused.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from wdm_cli.engine.data.presence import refuse_absent
from wdm_cli.engine.errors import DataError
from wdm_cli.engine.files import atomic_publish

Array = NDArray[np.float32]
Affine = NDArray[np.float64]

MAX_BYTES = 2**30  # 512³ voxels of 8 bytes; a 256³ float32 volume has 64 MiB
DEFLATE_RATIO = 1032  # no deflate stream unpacks to more than this multiple of its size
HEADER_BYTES = 540  # NIfTI-2; NIfTI-1 needs 348 of them
CHUNK = 2**22
MAX_OFFSET = 2**24  # header extensions before the voxels
MAX_TRAILING = 2**20  # bytes after the last voxel
MM_PER_UNIT = {1: 1000.0, 3: 0.001}  # xyzt_units: metre, micrometre; everything else is taken as mm


def are_cubes(spacing: Sequence[float]) -> bool:
    """Whether voxels of these sides (mm) pass for cubes: none is more than a tenth longer than another."""
    return max(spacing) <= 1.1 * min(spacing)


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels and where they lie.

    Attributes:
        array: [D, H, W] float32, axes i, j, k as in the file.
        affine: [4, 4] float64, voxel index -> RAS+ world coordinates in mm.
    """

    array: Array
    affine: Affine

    @property
    def shape(self) -> tuple[int, int, int]:
        return cast("tuple[int, int, int]", self.array.shape)

    @cached_property
    def spacing(self) -> tuple[float, float, float]:
        """Distance of neighbouring voxels along i, j, k in mm."""
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return (i, j, k)


def read_nifti(path: Path, max_bytes: int = MAX_BYTES) -> Volume:
    """A 3D NIfTI file with its raw intensities as float32, slope and intercept applied once.

    A fourth axis of length 1 is dropped. A slope of 0 or NaN means "no scaling" (NIfTI standard). Memory:
    the voxels once as stored and once as float32.

    Raises:
        DataError: the file is missing, empty, truncated, damaged, not what its name says, not a 3D volume
            of real numbers, holds NaN, infinity or one value only, has no usable voxel size, or claims more than
            `max_bytes` (as stored or as float32) or more than it can hold.
    """
    path = Path(path)
    refuse_absent(path)
    try:
        stored = path.stat().st_size
        if stored == 0:
            raise DataError(f"{path}: is empty (0 bytes)")
        with path.open("rb") as file:
            head = file.read(HEADER_BYTES)
            file.seek(0)
            if not _is_gzip(path, head):
                return _parse(path, file, stored, max_bytes)
            with gzip.GzipFile(fileobj=file, mode="rb") as unpacked:
                return _parse(path, cast("IO[bytes]", unpacked), stored * DEFLATE_RATIO, max_bytes)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        why = "truncated" if isinstance(error, EOFError) else f"damaged ({error})"
        raise DataError(f"{path}: the gzip data are {why}", hint="copy or download the file again") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def read_stream(path: Path, file: IO[bytes], most: int, max_bytes: int = MAX_BYTES) -> Volume:
    """`read_nifti` of an open file: at its start, unpacked, and with at most `most` bytes in it. path: for errors."""
    return _parse(path, file, most, max_bytes)


def write_nifti(path: Path, array: NDArray[Any], affine: Affine) -> None:
    """Write float32 or int16 voxels with a fresh header: sform and qform code 1, units mm, nothing else.

    Equal arrays and affines give equal bytes. The file appears whole or not at all.

    Args:
        path: ends in .nii.gz or .nii.
        array: [D, H, W], stored as its own type without scaling.
    """
    import nibabel as nib

    assert array.dtype in (np.float32, np.int16), f"float32 or int16, not {array.dtype}"
    image = nib.Nifti1Image(array, affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm")
    image.header.set_slope_inter(1, 0)
    with atomic_publish(path) as temporary:
        nib.save(image, temporary)


def _is_gzip(path: Path, head: bytes) -> bool:
    """Whether the file is a gzip; refused if its name says otherwise."""
    is_gzip = head.startswith(b"\x1f\x8b")
    if is_gzip != (path.suffix.lower() == ".gz"):
        raise DataError(
            f"{path}: its name says {'not ' if is_gzip else ''}gzip, but it is {_kind(head)}",
            hint="rename it" if is_gzip or _kind(head) == "a plain .nii file" else "copy or download the file again",
        )
    return is_gzip


def _kind(head: bytes) -> str:
    """What a file really is, by its first bytes."""
    if head.startswith(b"\x1f\x8b"):
        return "a gzip file"
    if head[344:348] in (b"n+1\0", b"ni1\0") or head[4:8] == b"n+2\0":
        return "a plain .nii file"
    if head.lstrip()[:1] == b"<":
        return "a web page (HTML or XML)"
    if head.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer"
    return "a DICOM file" if head[128:132] == b"DICM" else "neither gzip nor NIfTI"


def _parse(path: Path, file: IO[bytes], most: int, max_bytes: int) -> Volume:
    """Header, checks, voxels. `most` is the number of bytes that the file can hold unpacked."""
    header = _header(path, file.read(HEADER_BYTES))
    dtype, shape, affine = _dtype(path, header), _shape(path, header), _affine(path, header)
    offset = float(header["vox_offset"]) or float(header.single_vox_offset)
    if not header.sizeof_hdr <= offset <= MAX_OFFSET:
        raise DataError(f"{path}: the header puts the voxels at byte {offset:g}", why="it is damaged")
    size, memory = math.prod(shape) * dtype.itemsize, math.prod(shape) * max(dtype.itemsize, 4)
    if memory > max_bytes or offset + size > most:
        limit = f"the limit is {max_bytes / 1e6:,.0f} MB" if memory > max_bytes else "the file is too short for them"
        raise DataError(
            f"{path}: the header claims {times(shape)} voxels ({memory / 1e6:,.0f} MB); {limit}",
            why="the file is truncated, or its header is damaged",
        )
    raw = np.frombuffer(_read_voxels(path, file, int(offset), size), dtype).reshape(shape, order="F")
    return Volume(_scaled(path, raw, header), affine)


def _header(path: Path, block: bytes) -> Any:
    import nibabel as nib

    if len(block) >= 348 and block[344:348] == b"n+1\0":
        return nib.Nifti1Header(block[:348], check=False)
    if len(block) >= 540 and block[4:8] == b"n+2\0":
        return nib.Nifti2Header(block[:540], check=False)
    if block[344:348] == b"ni1\0":
        raise DataError(f"{path}: is half of a .hdr/.img pair", hint="name it so; `wdm preprocess nifti` reads pairs")
    raise DataError(f"{path}: is not a NIfTI file, but {_kind(block)}", hint="copy or download the file again")


def _dtype(path: Path, header: Any) -> np.dtype[Any]:
    from nibabel.spatialimages import HeaderDataError

    try:
        dtype: np.dtype[Any] = header.get_data_dtype()
    except (HeaderDataError, KeyError) as error:
        raise DataError(f"{path}: unknown voxel type {int(header['datatype'])}", why="the header is damaged") from error
    if dtype.kind not in "iuf":
        kind = "complex numbers" if dtype.kind == "c" else "colours (RGB)"
        raise DataError(f"{path}: voxels are {kind}", why="one real number a voxel is needed")
    return dtype


def _shape(path: Path, header: Any) -> tuple[int, int, int]:
    dims = [int(n) for n in header["dim"]]
    sides = dims[1 : 1 + dims[0]]
    if not 1 <= dims[0] <= 7 or min(sides) < 1:
        raise DataError(f"{path}: impossible dimensions {dims}", why="the header is damaged")
    while len(sides) > 3 and sides[-1] == 1:
        sides.pop()
    if len(sides) > 3:
        raise DataError(
            f"{path}: has {len(sides)} dimensions ({times(sides)})", hint="extract one 3D volume of the series"
        )
    if len(sides) < 3 or min(sides) < 2:
        raise DataError(f"{path}: is no volume but a slice ({times(sides)})")
    return sides[0], sides[1], sides[2]


def _affine(path: Path, header: Any) -> Affine:
    """The header's best affine (sform, else qform, else voxel sizes) in mm."""
    sizes = np.abs(header["pixdim"][1:4].astype(np.float64))
    if not (np.isfinite(sizes).all() and sizes.all()):
        raise DataError(f"{path}: voxel size {header['pixdim'][1:4].tolist()}", why="it must be finite and not 0")
    header["pixdim"][1:4] = sizes
    try:
        affine = np.asarray(header.get_best_affine(), np.float64)
    except ValueError as error:  # a quaternion that is no rotation
        raise DataError(f"{path}: its orientation is damaged ({error})") from error
    affine[:3] *= MM_PER_UNIT.get(int(header["xyzt_units"]) & 7, 1.0)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise DataError(f"{path}: its affine is singular or not finite", why="it does not say where voxels lie")
    return affine


def _read_voxels(path: Path, file: IO[bytes], offset: int, size: int) -> bytearray:
    """Exactly `size` bytes at `offset`; then the rest of the file, for the checksum at its end."""
    file.seek(offset)
    data = bytearray(size)
    view, done = memoryview(data), 0
    while done < size:
        count = file.readinto(view[done : done + CHUNK])  # type: ignore[attr-defined]
        if not count:
            raise DataError(f"{path}: truncated: {done:,} of {size:,} bytes of voxels")
        done += count
    rest = 0
    while chunk := file.read(CHUNK):
        rest += len(chunk)
        if rest > MAX_TRAILING:
            raise DataError(f"{path}: goes on after its last voxel", why="the header is damaged")
    return data


def _scaled(path: Path, raw: NDArray[Any], header: Any) -> Array:
    """Raw voxels as C-ordered float32 with slope and intercept applied; refused if they hold no picture."""
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    array = np.empty(raw.shape, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        if slope == 0 or not math.isfinite(slope) or (slope, inter) == (1, 0):
            array[...] = raw
        else:
            for k in range(raw.shape[2]):  # in float64, one slice at a time
                array[:, :, k] = raw[:, :, k] * np.float64(slope) + np.float64(inter)
    refuse_no_picture(path, array)
    return array


def refuse_no_picture(path: Path, array: NDArray[Any]) -> None:
    """Raise DataError if voxels are NaN or infinite, with their number and the first of them, or all equal."""
    low, high = array.min(), array.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        bad = ~np.isfinite(array)
        first = tuple(int(i) for i in np.unravel_index(int(bad.argmax()), bad.shape))
        raise DataError(
            f"{path}: {int(bad.sum()):,} voxels are NaN or infinite, the first at {first}",
            why="one such voxel would spoil every weight of a network",
            hint="find out where they come from; wdm does not replace them",
        )
    if low == high:
        raise DataError(f"{path}: every voxel is {low:g}", why="there is no picture in it")


def times(sides: Sequence[int]) -> str:
    """(240, 240, 155) -> '240×240×155'."""
    return "×".join(map(str, sides))
