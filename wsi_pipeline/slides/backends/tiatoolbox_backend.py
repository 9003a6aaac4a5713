"""TIAToolbox's readers, for what OpenSlide cannot open: OME-TIFF, JP2, plain TIFF and images, some DICOM.

TIAToolbox is asked for native levels only, never to resample. ``import tiatoolbox`` takes seconds and sets up
the root logger, so it happens at the first slide that needs it and its handlers are removed again.
"""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsi_pipeline.errors import CorruptTileError, SlideError, UnreadableSlideError, UnsupportedFormatError
from wsi_pipeline.slides.backends.base import RgbArray, check_level_sizes, composite_on_white, short_reason
from wsi_pipeline.slides.backends.image_backend import decode_plain_image
from wsi_pipeline.slides.formats import is_plain_image, is_tiff, tiff_mpp
from wsi_pipeline.units import Box

_DECODED_TILES_BYTES = 32 * 2**20
_import_lock = threading.Lock()


def import_readers() -> Any:
    """Import ``tiatoolbox.wsicore.wsireader`` and leave the logging of this process as it was.

    Raises
    ------
    UnsupportedFormatError
        TIAToolbox is not installed, or one of its libraries cannot be loaded.
    """
    with _import_lock:
        root = logging.getLogger()
        handlers, level, showwarning = list(root.handlers), root.level, warnings.showwarning
        first = "tiatoolbox" not in sys.modules
        try:
            from tiatoolbox.wsicore import wsireader
        except ImportError as error:
            raise UnsupportedFormatError(f"TIAToolbox is needed here and cannot be imported: {error}") from None
        if first:
            for handler in [h for h in root.handlers if h not in handlers]:
                root.removeHandler(handler)
            root.setLevel(level)
            if warnings.showwarning is not showwarning:
                logging.captureWarnings(False)
        # Its modules log to the root logger; a logger of its own lets users silence or read it by name.
        named = logging.getLogger("tiatoolbox")
        if named.level == logging.NOTSET:
            named.setLevel(logging.ERROR)
        for name, module in list(sys.modules.items()):
            if name.startswith("tiatoolbox") and getattr(module, "logger", None) is root:
                module.logger = named  # type: ignore[attr-defined]
        return wsireader


class TiaToolboxBackend:
    """One TIAToolbox reader.

    Raises
    ------
    UnsupportedFormatError
        TIAToolbox does not recognise the file.
    UnreadableSlideError
        It recognises the file and cannot read its header.
    """

    name = "tiatoolbox"
    thread_safe = False
    plane = ""
    chunk_sizes: tuple[tuple[int, int], ...] | None = None

    def __init__(self, path: Path) -> None:
        self._path = path
        readers = import_readers()
        self._reader = _open_reader(readers, path)
        self._kind = type(self._reader).__name__
        try:
            info = self._reader.info
            sizes = [(int(w), int(h)) for w, h in info.level_dimensions]
            self._downsamples = [float(d) for d in info.level_downsamples]
            self.mpp = self._own_mpp(info)
            # TIAToolbox infers a power from the mpp when the file has none, so only formats that state it are asked.
            self.objective: float | None = None
        except Exception as error:  # noqa: BLE001  # any reader library may fail in its own way
            self.close()
            raise UnreadableSlideError(f"{path}: TIAToolbox cannot read the header: {short_reason(error)}") from None
        self.level_sizes = tuple(sizes)
        check_level_sizes(path, self.level_sizes)
        self.vendor = _vendor(self._reader, path)
        self.properties: Mapping[str, str] = {"tiatoolbox.reader": self._kind}
        self.bounds: Box | None = None

    def _own_mpp(self, info: Any) -> tuple[float, float] | None:
        """Return what the file states; TIAToolbox fills a missing value from the magnification, which is refused."""
        if is_tiff(self._path):
            return tiff_mpp(self._path)
        if info.mpp is None:
            return None
        x, y = (float(v) for v in np.broadcast_to(np.asarray(info.mpp, dtype=np.float64), (2,)))
        if self._kind == "JP2WSIReader" and info.objective_power is not None:
            from tiatoolbox.utils.misc import objective_power2mpp

            nominal = float(np.mean(objective_power2mpp(np.asarray(info.objective_power))))
            if abs(x - nominal) < 1e-9:
                return None
        return x, y

    def read_chunk(self, level: int, chunk: Box) -> RgbArray:
        try:
            return composite_on_white(self._native(level, chunk))
        except Exception as error:  # noqa: BLE001  # any reader library may fail in its own way
            raise CorruptTileError(
                f"{self._path}: level {level}, pixels x {chunk.x0}-{chunk.x1}, y {chunk.y0}-{chunk.y1} "
                f"cannot be decoded by TIAToolbox ({self._kind}): {short_reason(error)}"
            ) from None

    def _native(self, level: int, chunk: Box) -> RgbArray:
        rows, columns = slice(chunk.y0, chunk.y1), slice(chunk.x0, chunk.x1)
        if self._kind == "TIFFWSIReader":
            arrays = list(self._reader.level_arrays.values())
            pixels = _one_by_one(arrays[level], chunk)
        elif self._kind == "VirtualWSIReader":
            pixels = self._reader.img[rows, columns]
        else:
            downsample = self._downsamples[level]
            location = (round(chunk.x0 * downsample), round(chunk.y0 * downsample))
            pixels = np.asarray(self._reader.read_region(location, level, (chunk.width, chunk.height)))
        expected = (chunk.height, chunk.width)
        colour = pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] in (3, 4)
        if not colour or pixels.shape[:2] != expected:
            raise ValueError(f"got {pixels.dtype} of shape {pixels.shape} for {expected} pixels of uint8 RGB")
        return pixels

    def close(self) -> None:
        for name in ("tiff", "_zarr_store", "wsi", "openslide_wsi"):
            resource = getattr(self._reader, name, None)
            if resource is not None and hasattr(resource, "close"):
                resource.close()


def _one_by_one(view: Any, box: Box) -> npt.NDArray[Any]:
    """Return the pixels of ``box`` from a view on a Zarr array, read by the array's own chunks, one at a time.

    Where one of several chunks read at once fails, zarr leaves the others behind as tasks. They would read on from a
    file that is closed by then, which ends the process (a segmentation fault in tifffile's mapped file).
    """
    shape, chunks = (dict(zip(view.axes, sizes, strict=True)) for sizes in (view.array.shape, view.array.chunks))
    samples = "S" if "S" in shape else "C"
    out = np.empty((box.height, box.width, shape[samples]), view.array.dtype)
    tall, wide, thick = chunks["Y"], chunks["X"], chunks[samples]
    for top in range(box.y0 // tall * tall, box.y1, tall):
        rows = slice(max(top, box.y0), min(top + tall, box.y1))
        for left in range(box.x0 // wide * wide, box.x1, wide):
            columns = slice(max(left, box.x0), min(left + wide, box.x1))
            target = out[rows.start - box.y0 : rows.stop - box.y0, columns.start - box.x0 : columns.stop - box.x0]
            for first in range(0, shape[samples], thick):
                wanted = slice(first, min(first + thick, shape[samples]))
                target[..., wanted] = view[rows, columns, wanted]
    return out


def _open_reader(readers: Any, path: Path) -> Any:
    try:
        if is_plain_image(path):
            return readers.VirtualWSIReader(decode_plain_image(path), post_proc=None)
        if is_tiff(path):
            return readers.TIFFWSIReader(path, cache_size=_DECODED_TILES_BYTES, post_proc=None)
        return readers.WSIReader.open(path, post_proc=None)
    except SlideError:
        raise
    except Exception as error:  # noqa: BLE001
        kind = type(error).__name__
        unknown = kind in ("FileNotSupportedError", "OpenSlideUnsupportedFormatError")
        if unknown or "Unsupported TIFF WSI format" in str(error):
            raise UnsupportedFormatError(
                f"{path}: TIAToolbox does not open such files: {short_reason(error)}"
            ) from None
        if "OpenJPEG" in str(error):
            raise UnsupportedFormatError(
                f"{path}: for this JPEG 2000 file TIAToolbox needs the system's OpenJPEG library: {short_reason(error)}"
            ) from None
        raise UnreadableSlideError(f"{path}: TIAToolbox cannot open the file: {short_reason(error)}") from None


def _vendor(reader: Any, path: Path) -> str:
    kind = type(reader).__name__
    if kind == "TIFFWSIReader":
        return "ome-tiff" if reader.tiff.is_ome else "tiff"
    names = {"DICOMWSIReader": "dicom", "JP2WSIReader": "jp2", "VirtualWSIReader": "image"}
    return names.get(kind, path.suffix.lower().lstrip(".") or "unknown")
