"""From one DICOM file to HU, or MR intensities. pydicom reads plain pixels, GDCM (in SimpleITK) compressed ones."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wdm_cli.engine.dicom.headers import PARSE_ERRORS, Slice
from wdm_cli.engine.dicom.image import COMPRESSED, NATIVE
from wdm_cli.engine.errors import DataError

Floats = npt.NDArray[np.float32]


class TwoFiles(DataError):
    """Two files that cannot both be used. paths: shown with their folders, which are written nowhere."""

    def __init__(self, what: str, paths: tuple[Path, ...], where: str = "") -> None:
        super().__init__(what)
        self.paths, self.where = paths, where


def rescaled(item: Slice) -> tuple[Floats, npt.NDArray[np.bool_] | None]:
    """[rows, columns] HU or MR intensities by this slice's slope and intercept, and where the file says padding.

    Raises:
        DataError: the pixels cannot be decoded completely; the file is named.
    """
    assert item.slope is not None
    assert item.intercept is not None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            hu = _native(item) if item.transfer_syntax in NATIVE else _compressed(item)
    except MemoryError:
        raise
    except OSError as error:
        raise DataError(f"{item.path.name}: cannot be read: {error.strerror or 'damaged'}") from error
    except PARSE_ERRORS as error:
        syntax = NATIVE.get(item.transfer_syntax) or COMPRESSED[item.transfer_syntax]
        raise DataError(f"{item.path.name}: its pixels ({syntax}) are truncated or damaged") from error
    if hu.shape != (item.rows, item.columns):
        raise DataError(f"{item.path.name}: holds {hu.shape} pixels, its header says {(item.rows, item.columns)}")
    padding = None
    if item.padding is not None:
        padding = hu == np.float32(item.padding * item.slope + item.intercept)
    return hu, padding


def _native(item: Slice) -> Floats:
    from pydicom.pixels.utils import pixel_array

    stored = pixel_array(item.path, raw=True)
    if (item.slope, item.intercept) == (1, int(item.intercept or 0)):
        return stored.astype(np.float32) + np.float32(item.intercept)
    return (stored * np.float64(item.slope) + np.float64(item.intercept)).astype(np.float32)


def _compressed(item: Slice) -> Floats:
    """GDCM fills up what is missing without a word, so the end of the code stream is looked for first."""
    import pydicom
    import SimpleITK
    from pydicom.encaps import get_frame

    pixels: Any = pydicom.dcmread(item.path, specific_tags=["PixelData"]).PixelData
    frame = get_frame(pixels, 0, number_of_frames=1)
    if COMPRESSED[item.transfer_syntax].startswith("JPEG") and b"\xff\xd9" not in frame[-16:]:
        raise ValueError("no end of image")
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)  # type: ignore[no-untyped-call]
    image = SimpleITK.ReadImage(str(item.path), SimpleITK.sitkFloat64)
    return SimpleITK.GetArrayViewFromImage(image)[0].astype(np.float32)  # type: ignore[no-any-return]
