"""Images and masks of evaluation sets, whatever convention their files follow.

Mask files are read by their values, since folders mix conventions:

* two values, of any type, or 8-bit values near 0 and 255 as a JPEG leaves them (cut at 128): binary; each
  4-connected component is a cell, so that cells split by a thin line stay split; components of fewer than 10
  pixels are specks of the drawing and are dropped;
* 8 bits with three grey levels, 0, a middle one and 255: white is nucleus, grey cytoplasm; the cell is what
  exceeds 64, the nucleus what exceeds 200, and each component is one, specks dropped likewise;
* whole numbers otherwise: an instance image.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from wsi_pipeline.errors import DataError
from wsi_pipeline.slides.picture import bounded, read_tiff

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
MASK_SUFFIXES = (".png", ".tif", ".tiff", ".npy", ".bmp", ".jpg", ".jpeg")
MIN_COMPONENT_PX = 10

MIN_SIDE_UM = 4.0
"""Shorter side of a single cell's image: less holds no white cell (a small lymphocyte measures 7 um), scarcely a
platelet."""
MIN_SIDE_PX = 12


def is_too_small(width: int, height: int, mpp: float) -> bool:
    """Return whether an image of a single cell is too small to hold one at its resolution (um per pixel)."""
    return min(height, width) < max(MIN_SIDE_PX, MIN_SIDE_UM / mpp)


def find_image(name: str, folders: Iterable[Path]) -> Path | None:
    """Return the file of an image's name, which may lack its suffix, in the first folder that has it, or None."""
    if not name:
        return None
    for folder in folders:
        for candidate in (folder / name, *(folder / f"{name}{suffix}" for suffix in IMAGE_SUFFIXES)):
            if candidate.is_file():
                return candidate
    return None


def read_mask(
    path: Path, shape: tuple[int, int], *, part: Literal["cell", "nucleus"] = "cell"
) -> npt.NDArray[np.int32]:
    """Return a mask file as instance labels, by the rules of this module.

    Parameters
    ----------
    shape
        ``(h, w)`` of the image the mask belongs to.
    part
        What to take from a mask of three grey levels.

    Raises
    ------
    DataError
        The file cannot be read, its shape differs, or it holds no labels.
    """
    values = _read_values(path)
    if values.ndim == 3 and values.shape[2] in (3, 4) and (values[..., :3] == values[..., :1]).all():
        values = values[..., 0]
    if values.ndim != 2:
        raise DataError(f"{path} has shape {values.shape}; a mask has one value a pixel")
    if values.shape != shape:
        raise DataError(f"{path} is {values.shape[1]} x {values.shape[0]} pixels, its image {shape[1]} x {shape[0]}")
    if values.dtype.kind == "f" and np.array_equal(values, np.round(values)):
        values = values.astype(np.int64)
    if values.dtype.kind not in "iub":
        raise DataError(f"{path} holds {values.dtype}; a mask holds whole numbers")
    if values.size and int(values.min()) < 0:
        raise DataError(f"{path} holds negative labels")
    foreground = _foreground(values, part)
    if foreground is not None:
        from skimage.measure import label

        components = label(foreground, connectivity=1)
        large = np.bincount(components.ravel()) >= MIN_COMPONENT_PX
        large[0] = False
        return np.where(large, np.cumsum(large), 0)[components].astype(np.int32)
    _, labels = np.unique(np.append(values.ravel(), 0), return_inverse=True)
    return labels[:-1].reshape(shape).astype(np.int32)


def _read_values(path: Path) -> npt.NDArray[np.generic]:
    from PIL import Image, UnidentifiedImageError

    suffix = path.suffix.lower()
    if suffix == ".npy":
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path} cannot be read as an array: {error}") from None
        if array.ndim not in (2, 3):
            raise DataError(f"{path} has shape {array.shape}; a mask has one value a pixel")
        bounded(path, array.shape[1], array.shape[0])
        return np.array(array)
    if suffix in (".tif", ".tiff"):
        return read_tiff(path)
    try:
        with Image.open(path) as image:
            bounded(path, image.width, image.height)
            return np.asarray(image)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError) as error:
        raise DataError(f"{path} cannot be read as an image: {error}") from None


def _foreground(values: npt.NDArray[np.generic], part: Literal["cell", "nucleus"]) -> npt.NDArray[np.bool_] | None:
    """Return the foreground of a binary or three-level mask, None for an instance image."""
    levels, counts = np.unique(values, return_counts=True)
    if len(levels) <= 2:
        top = int(levels[-1]) if len(levels) else 0
        return (values == top) & (top > 0)
    if values.dtype != np.uint8 or levels[-1] < 200 or (np.diff(levels) == 1).all():
        return None
    grey = levels.astype(np.int64)
    middle = (grey >= 64) & (grey < 200)
    between = int(counts[middle].sum())
    if between:
        mode = int(grey[middle][np.argmax(counts[middle])])
        peak = int(counts[np.abs(grey - mode) <= 16].sum())
        # A third level is a peak between the ends; what a JPEG leaves on the edges is spread over all of them.
        if peak >= 0.6 * between and counts[(grey < 64) | (grey >= 200)].sum() + peak >= 0.98 * values.size:
            return values.astype(np.int64) > (64 if part == "cell" else 200)
    near_ends = counts[(grey <= 48) | (grey >= 207)].sum()
    return values.astype(np.int64) >= 128 if near_ends >= 0.98 * values.size else None
