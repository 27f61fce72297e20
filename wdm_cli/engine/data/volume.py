"""A volume never travels without its affine: reading NIfTI files with suspicion, writing them whole.

`read_nifti` trusts nothing in a file. The header is checked before anything is allocated, a gzip is read to
its very end (only its checksum shows a flipped bit), and a file that would poison a data set is refused.
"""

from __future__ import annotations

import contextlib
import gzip
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from wdm_cli.engine.data.header import place, voxel_size
from wdm_cli.engine.data.presence import refuse_absent
from wdm_cli.engine.errors import DataError
from wdm_cli.engine.files import atomic_publish

Array = NDArray[np.float32]
Affine = NDArray[np.float64]
Sides = tuple[int, int, int]

MAX_BYTES = 2**30  # 512³ voxels of 8 bytes; a 256³ float32 volume has 64 MiB
DEFLATE_RATIO = 1032  # no deflate stream unpacks to more than this multiple of its size
HEADER_BYTES = 540  # NIfTI-2; NIfTI-1 needs 348 of them
CHUNK = 2**22
MAX_OFFSET = 2**24  # header extensions before the voxels
MAX_TRAILING = 2**20  # bytes after the last voxel
ALIKE = 1.1  # sides of voxels that differ by no more than this factor count as equal


def are_cubes(spacing: Sequence[float]) -> bool:
    """Whether voxels of these sides (mm) pass for cubes: none is more than a tenth longer than another."""
    return max(spacing) <= ALIKE * min(spacing)


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels and where they lie.

    Attributes:
        array: [D, H, W] float32, axes i, j, k as in the file.
        affine: [4, 4] float64, voxel index -> RAS+ world coordinates in mm.
        signs: what is odd in the header of its file, as keys of `facts.SIGNS`.
    """

    array: Array
    affine: Affine
    signs: tuple[str, ...] = ()

    @property
    def shape(self) -> Sides:
        return cast("Sides", self.array.shape)

    @cached_property
    def spacing(self) -> tuple[float, float, float]:
        """Distance of neighbouring voxels along i, j, k in mm."""
        return voxel_size(self.affine)


def read_nifti(path: Path, max_bytes: int = MAX_BYTES) -> Volume:
    """A 3D NIfTI file with its raw intensities as float32, slope and intercept applied once.

    A fourth axis of length 1 is dropped. A slope of 0 or NaN means "no scaling" (NIfTI standard). Memory:
    the voxels once as stored and once as float32.

    Raises:
        DataError: the file is missing, empty, truncated, damaged, not what its name says, not a 3D volume
            of real numbers, holds NaN, infinity or one value only, has no usable voxel size, or claims more than
            `max_bytes` (as stored or as float32) or more than it can hold.
    """
    with _unpacked(Path(path)) as (file, most):
        return _parse(Path(path), file, most, max_bytes)


def read_grid(path: Path) -> tuple[Sides, Affine]:
    """Sides and affine of a NIfTI file from its header alone; raises as `read_nifti` does, for what that shows."""
    with _unpacked(Path(path)) as (file, _):
        header = _header(path, file.read(HEADER_BYTES))
        return _shape(path, header), place(path, header)[0]


@contextlib.contextmanager
def _unpacked(path: Path) -> Iterator[tuple[IO[bytes], int]]:
    """The file's content, and the most bytes that it can hold; errors of the file and of gzip become DataErrors."""
    refuse_absent(path)
    try:
        stored = path.stat().st_size
        if stored == 0:
            raise DataError(f"{path}: is empty (0 bytes)")
        with path.open("rb") as file:
            head = file.read(HEADER_BYTES)
            file.seek(0)
            if not _is_gzip(path, head):
                yield file, stored
                return
            with gzip.GzipFile(fileobj=file, mode="rb") as unpacked:
                yield cast("IO[bytes]", unpacked), stored * DEFLATE_RATIO
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
    dtype, shape, (affine, signs) = _dtype(path, header), _shape(path, header), place(path, header)
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
    array, odd = _scaled(path, raw, header)
    return Volume(array, affine, signs + odd)


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


def _shape(path: Path, header: Any) -> Sides:
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


def _scaled(path: Path, raw: NDArray[Any], header: Any) -> tuple[Array, tuple[str, ...]]:
    """Raw voxels as C-ordered float32 with slope and intercept applied, and what is odd about these two.

    A pair that makes no sense is ignored (NIfTI standard). Refused if the voxels hold no picture.
    """
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    array = np.empty(raw.shape, np.float32)
    none = slope == 0 or math.isnan(slope)
    odd = not none and not (math.isfinite(slope) and math.isfinite(inter))
    with np.errstate(over="ignore", invalid="ignore"):
        if none or odd or (slope, inter) == (1, 0):
            array[...] = raw
        else:
            for k in range(raw.shape[2]):  # in float64, one slice at a time
                array[:, :, k] = raw[:, :, k] * np.float64(slope) + np.float64(inter)
            if not np.isfinite([array.min(), array.max()]).all() and np.isfinite(raw).all():
                raise DataError(
                    f"{path}: scl_slope {slope:g} and scl_inter {inter:g} of its header make stored numbers infinite",
                    why="the header is damaged",
                )
    refuse_no_picture(path, array)
    return array, ("scaling",) if odd else ()


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
