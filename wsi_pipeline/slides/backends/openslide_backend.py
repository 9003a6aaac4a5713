"""OpenSlide: the broad base of whole-slide formats.

Only ``read_region`` and technical properties are used; label and macro images are never touched.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import openslide

from wsi_pipeline.errors import CorruptTileError, UnreadableSlideError
from wsi_pipeline.slides.backends.base import RgbArray, check_level_sizes, composite_on_white
from wsi_pipeline.units import Box

_TILE_CACHE_BYTES = 16 * 2**20
# Free-text properties (comments, file names, users, barcodes) may identify a patient; these do not.
_SAFE_PROPERTIES = (
    "openslide.vendor",
    "openslide.objective-power",
    "openslide.mpp-x",
    "openslide.mpp-y",
    "openslide.bounds-x",
    "openslide.bounds-y",
    "openslide.bounds-width",
    "openslide.bounds-height",
    "openslide.icc-size",
    "aperio.MPP",
    "aperio.ScanScope ID",
    "dicom.Manufacturer",
    "dicom.ManufacturerModelName",
    "hamamatsu.Product",
    "hamamatsu.SourceLens",
    "leica.device-model",
    "mirax.GENERAL.SLIDE_VERSION",
    "tiff.Make",
    "tiff.Model",
    "ventana.ScannerModel",
)


def detect_format(path: Path) -> str | None:
    """Return OpenSlide's name of the format, or None when it does not recognise the file."""
    return openslide.OpenSlide.detect_format(str(path))


class OpenSlideBackend:
    """One OpenSlide handle.

    Raises
    ------
    UnreadableSlideError
        OpenSlide recognises the file and cannot open it, or its header is not believable.
    """

    name = "openslide"
    thread_safe = False
    plane = ""
    chunk_sizes: tuple[tuple[int, int], ...] | None = None

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._slide = openslide.OpenSlide(str(path))
        except openslide.OpenSlideError as error:
            raise UnreadableSlideError(f"{path}: OpenSlide recognises the file but cannot open it: {error}") from None
        self._slide.set_cache(openslide.OpenSlideCache(_TILE_CACHE_BYTES))
        properties = self._slide.properties
        self.vendor = properties.get("openslide.vendor", "unknown")
        self.level_sizes = tuple((int(w), int(h)) for w, h in self._slide.level_dimensions)
        check_level_sizes(path, self.level_sizes)
        self._downsamples = tuple(self._slide.level_downsamples)
        self.mpp = _both(properties, "openslide.mpp-x", "openslide.mpp-y")
        self.objective = _number(properties, "openslide.objective-power")
        self.properties: Mapping[str, str] = {k: properties[k] for k in _SAFE_PROPERTIES if k in properties}
        self.bounds = self._bounds(properties)

    def _bounds(self, properties: Mapping[str, str]) -> Box | None:
        values = [_number(properties, f"openslide.bounds-{key}") for key in ("x", "y", "width", "height")]
        if any(value is None for value in values):
            return None
        x, y, width, height = (int(value) for value in values if value is not None)
        whole = Box(x0=0, y0=0, x1=self.level_sizes[0][0], y1=self.level_sizes[0][1])
        box = Box(x0=x, y0=y, x1=x + width, y1=y + height).clip(whole)
        return None if box.is_empty else box

    def read_chunk(self, level: int, chunk: Box) -> RgbArray:
        # OpenSlide maps a location to level pixels by dividing by its own downsample, so it is asked by that one.
        downsample = self._downsamples[level]
        location = (round(chunk.x0 * downsample), round(chunk.y0 * downsample))
        try:
            image = self._slide.read_region(location, level, (chunk.width, chunk.height))
        except openslide.OpenSlideError as error:
            raise CorruptTileError(
                f"{self._path}: level {level}, pixels x {chunk.x0}-{chunk.x1}, y {chunk.y0}-{chunk.y1} "
                f"cannot be decoded by OpenSlide: {error}"
            ) from None
        return composite_on_white(np.asarray(image))

    def close(self) -> None:
        self._slide.close()


def _number(properties: Mapping[str, str], key: str) -> float | None:
    try:
        value = float(properties[key])
    except (KeyError, ValueError):
        return None
    return value if math.isfinite(value) else None


def _both(properties: Mapping[str, str], key_x: str, key_y: str) -> tuple[float, float] | None:
    x, y = _number(properties, key_x), _number(properties, key_y)
    if x is None or y is None:
        one = x if x is not None else y
        return None if one is None else (one, one)
    return x, y
