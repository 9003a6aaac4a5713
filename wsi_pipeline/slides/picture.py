"""Plain pictures that are no slides: fields and single cells, 8-bit colour, whatever their format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsi_pipeline.errors import DataError

MAX_PIXELS = 400_000_000
"""Of a picture that is read whole."""


def read_image(path: Path, *, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """Return an image as ``(h, w, 3)`` uint8; alpha is laid over white.

    Raises
    ------
    DataError
        The file cannot be read, is no 8-bit image, or is too large to be a field.
    """
    from PIL import Image, UnidentifiedImageError

    if path.suffix.lower() in (".tif", ".tiff"):
        return _as_rgb(read_tiff(path, max_pixels), path)
    try:
        with Image.open(path) as image:
            bounded(path, image.width, image.height, max_pixels)
            if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
                layer = image.convert("RGBA")
                white = Image.new("RGBA", layer.size, "white")
                return np.asarray(Image.alpha_composite(white, layer).convert("RGB"))
            if image.mode not in ("RGB", "L", "P", "1", "CMYK", "YCbCr"):
                raise DataError(f"{path} is an image of mode {image.mode}; 8-bit colour is needed")
            return np.asarray(image.convert("RGB"))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError) as error:
        raise DataError(f"{path} cannot be read as an image: {error}") from None


def read_tiff(path: Path, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.generic]:
    """Return the first page of a TIFF as it is.

    Raises
    ------
    DataError
        The file cannot be read, or is too large.
    """
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages.first
            bounded(path, page.imagewidth, page.imagelength, max_pixels)
            return np.asarray(page.asarray())
    except (OSError, ValueError, RuntimeError, tifffile.TiffFileError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} cannot be read as TIFF: {error}") from None


def _as_rgb(values: npt.NDArray[np.generic], path: Path) -> npt.NDArray[np.uint8]:
    if values.dtype != np.uint8:
        raise DataError(f"{path} holds {values.dtype}; 8-bit colour is needed")
    image = values.view(np.uint8)
    if image.ndim == 2:
        return np.repeat(image[..., None], 3, axis=2)
    if image.ndim != 3 or image.shape[2] not in (3, 4):
        raise DataError(f"{path} has shape {image.shape}; (h, w, 3) is needed")
    if image.shape[2] == 4:
        alpha = image[..., 3:].astype(np.float64) / 255
        return np.rint(image[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    return image


def bounded(path: Path, width: int, height: int, most: int = MAX_PIXELS) -> None:
    """Raise :class:`DataError` where a picture has more pixels than are read."""
    if width * height > most:
        raise DataError(f"{path} is {width} x {height} pixels; up to {most:,} pixels are read")
