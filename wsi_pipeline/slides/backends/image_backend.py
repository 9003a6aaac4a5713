"""Single images without tiles (PNG, JPEG, JPEG 2000, strip TIFF): decoded once, as a whole, strictly.

TIAToolbox opens these too, through OpenCV, which returns a grey remainder for a truncated file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from wsi_pipeline.errors import UnreadableSlideError
from wsi_pipeline.slides.backends.base import RgbArray, check_level_sizes, composite_on_white
from wsi_pipeline.slides.formats import is_jp2, is_tiff, tiff_mpp
from wsi_pipeline.slides.jp2 import read_jp2_header
from wsi_pipeline.units import Box


def decode_plain_image(path: Path) -> RgbArray:
    """Return the whole image as uint8 RGB of shape (h, w, 3).

    Raises
    ------
    UnreadableSlideError
        The image is truncated or damaged, or is not 8-bit RGB after all.
    """
    try:
        if is_tiff(path):
            with tifffile.TiffFile(path) as tiff:
                page = tiff.pages.first
                pixels = np.asarray(page.asarray())
                if page.axes.startswith("S"):
                    pixels = np.moveaxis(pixels, 0, -1)
        elif is_jp2(path):
            pixels = np.asarray(imagecodecs.jpeg2k_decode(path.read_bytes()))
        else:
            with Image.open(path) as image:
                pixels = np.asarray(image)
    except (OSError, ValueError, SyntaxError, RuntimeError, Image.DecompressionBombError) as error:
        raise UnreadableSlideError(f"{path}: the image cannot be decoded: {error}") from None
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (3, 4):
        raise UnreadableSlideError(f"{path}: decoded to {pixels.dtype} of shape {pixels.shape}; 8-bit RGB is needed")
    return composite_on_white(pixels)


class ImageBackend:
    """One decoded image, shared by all threads."""

    name = "image"
    thread_safe = True
    plane = ""
    chunk_sizes: tuple[tuple[int, int], ...] | None = None

    def __init__(self, path: Path) -> None:
        self._pixels = decode_plain_image(path)
        self.level_sizes: tuple[tuple[int, int], ...] = ((int(self._pixels.shape[1]), int(self._pixels.shape[0])),)
        check_level_sizes(path, self.level_sizes)
        self.vendor = "tiff" if is_tiff(path) else path.suffix.lower().lstrip(".") or "image"
        self.mpp = tiff_mpp(path) if is_tiff(path) else read_jp2_header(path).mpp if is_jp2(path) else None
        self.objective: float | None = None
        self.properties: Mapping[str, str] = {}
        self.bounds: Box | None = None

    def read_chunk(self, level: int, chunk: Box) -> RgbArray:
        return np.ascontiguousarray(self._pixels[chunk.y0 : chunk.y1, chunk.x0 : chunk.x1])

    def close(self) -> None:
        """Keep nothing open: the file was closed after decoding."""
