"""What a file is, told from its first bytes and headers: format, brightfield or not, microns per pixel.

Nothing here decodes pixels. Names are never trusted except where only the name tells (folder scans).
"""

from __future__ import annotations

import math
import re
import struct
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
import tifffile
from PIL import Image

from wsi_pipeline.errors import NotBrightfieldError, SlideError, UnreadableSlideError, UnsupportedFormatError
from wsi_pipeline.slides.jp2 import read_jp2_header
from wsi_pipeline.slides.paths import SlidePath

SLIDE_SUFFIXES: frozenset[str] = frozenset(
    (
        ".svs",
        ".ndpi",
        ".mrxs",
        ".scn",
        ".bif",
        ".vms",
        ".vmu",
        ".svslide",
        ".tif",
        ".tiff",
        ".btf",
        ".dcm",
        ".jp2",
        ".zarr",
    )
)
"""Suffixes (lower case) that a scan of a folder takes for slides; ``.zarr`` is a folder itself."""

FIELD_SUFFIXES: frozenset[str] = frozenset((".png", ".jpg", ".jpeg"))
"""Photographs of single fields: opened when named, not taken from folders, where they are often thumbnails."""

PLAUSIBLE_MPP = (0.05, 5.0)
"""Microns per pixel an optical scanner can produce."""

MAX_TILE_BYTES = 2**30
MAX_PLAIN_IMAGE_PX = 256 * 2**20
"""Largest image without tiles, which can only be decoded as a whole."""

HEADER_ERRORS = (tifffile.TiffFileError, ValueError, OSError, KeyError, IndexError, TypeError, struct.error)
"""What parsing a damaged TIFF header raises."""

_UNIT_UM = {"µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6}
_WSI_SOP_CLASS = "1.2.840.10008.5.1.4.1.1.77.1.6"
_NDPI_FLUORESCENCE_TAG = 65434


def head(path: Path, length: int = 256) -> bytes:
    with path.open("rb") as file:
        return file.read(length)


def is_tiff(path: Path) -> bool:
    return is_tiff_head(head(path, 4))


def is_tiff_head(start: bytes) -> bool:
    return start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def is_dicom(path: Path) -> bool:
    return head(path, 132)[128:] == b"DICM"


def is_jp2(path: Path) -> bool:
    return head(path, 12) == b"\0\0\0\x0cjP  \r\n\x87\n"


def is_plain_image(path: Path) -> bool:
    """Tell whether the file is one image without tiles: PNG, JPEG, BMP, or a TIFF of strips that is not OME."""
    start = head(path, 8)
    if start[:8] == b"\x89PNG\r\n\x1a\n" or start[:3] == b"\xff\xd8\xff" or start[:2] == b"BM":
        return True
    if not is_tiff(path):
        return False
    try:
        with tifffile.TiffFile(path) as tiff:
            return not tiff.is_ome and len(tiff.pages) == 1 and not tiff.pages.first.is_tiled
    except HEADER_ERRORS:
        return False


def is_plain_jp2(path: Path) -> bool:
    """Tell whether the file is a JPEG 2000 image in RGB that is small enough to decode as a whole."""
    if not is_jp2(path):
        return False
    about = read_jp2_header(path)
    return about.is_rgb and about.width * about.height <= MAX_PLAIN_IMAGE_PX


def content_summary(path: Path) -> str:
    """Say in a few words what the file holds, for messages about files nobody recognises."""
    start = head(path)
    return f"a DICOM file ({_dicom_class(path)})" if start[128:132] == b"DICM" else head_summary(start)


def head_summary(start: bytes) -> str:
    """Say in a few words what begins with the bytes ``start``."""
    if not start:
        return "an empty file (0 bytes)"
    if is_tiff_head(start):
        return "a TIFF that is no known slide format"
    if start[128:132] == b"DICM":
        return "a DICOM file"
    if start[:4] == b"%PDF":
        return "a PDF document"
    if start[:2] == b"PK":
        return "a ZIP archive"
    if start[:2] == b"\x1f\x8b":
        return "a gzip archive"
    try:
        text = start.decode("utf-8")
    except UnicodeDecodeError:
        return f"unknown binary content (first bytes {start[:8].hex(' ')})"
    if all(character.isprintable() or character.isspace() for character in text):
        return "a text file"
    return f"unknown binary content (first bytes {start[:8].hex(' ')})"


def check_headers(path: Path) -> None:
    """Refuse what is known from the headers not to be a brightfield colour image.

    Raises
    ------
    NotBrightfieldError
        Not 8 bits a sample, fewer than 3 samples a pixel, a palette, or a fluorescence channel named by the
        scanner.
    UnsupportedFormatError
        A DICOM file that holds no whole-slide image, or an untiled image too large to decode as a whole.
    UnreadableSlideError
        A tile larger than 1 GiB, which only a damaged or hostile header claims.
    """
    if is_dicom(path):
        _check_dicom(path)
    elif is_tiff(path):
        try:
            with tifffile.TiffFile(path) as tiff:
                check_tiff(path, tiff)
        except SlideError:
            raise
        except HEADER_ERRORS:
            return  # a backend may still read what tifffile cannot parse; it will say so if not
    elif is_jp2(path):
        about = read_jp2_header(path)
        if about.bits != 8:
            raise NotBrightfieldError(
                f"{path}: samples of {about.bits or 'several numbers of'} bits; needed are 8 bits"
            )
        _check_samples(path, None, about.samples, "RGB" if about.samples > 2 else "MINISBLACK")
    elif is_plain_image(path):
        _check_image(path)


def check_tiff_index(path: Path) -> None:
    """Refuse a TIFF whose list of images cannot be read, as when a copy was cut off before its end.

    Raises
    ------
    UnreadableSlideError
        The header or the list of images is damaged, or lies beyond the end of the file.
    """
    try:
        with tifffile.TiffFile(path) as tiff:
            if len(tiff.pages) and tiff.pages.first is not None:
                return
            why = "none is found"
    except HEADER_ERRORS as error:
        why = f"{type(error).__name__}: {str(error)[:120]}"
    raise UnreadableSlideError(
        f"{path}: the file of {path.stat().st_size:,} bytes begins as a TIFF, but its list of images cannot be read "
        f"({why}); it is cut off or damaged: copy it again from its source"
    )


def tiff_mpp(path: Path) -> tuple[float, float] | None:
    """Return the microns per pixel that a TIFF states, or None.

    Read in this order: OME ``PhysicalSizeX/Y``, Aperio ``MPP``, ImageJ's unit, the resolution tags. Resolution
    tags outside ``PLAUSIBLE_MPP`` are printing defaults (72 dpi) and count as nothing stated.
    """
    try:
        with tifffile.TiffFile(path) as tiff:
            return _tiff_mpp(tiff)
    except HEADER_ERRORS:
        return None


def is_virtual(path: SlidePath) -> bool:
    """Tell whether a file says that it is a virtual slide of ours: simulated, of no patient.

    Copies in another format, and files behind a URL, are not known as such.
    """
    from wsi_pipeline.simulation.tiff_pyramid import SIMULATED

    try:
        if not isinstance(path, Path) or not path.is_file() or not is_tiff(path):
            return False
        with tifffile.TiffFile(path) as tiff:
            page: Any = tiff.pages.first
            return str(page.description).startswith(SIMULATED)
    except HEADER_ERRORS:
        return False


class TiffMetadata(NamedTuple):
    """What a TIFF states of itself: format name, microns per pixel in x and y, objective power, scanner."""

    vendor: str
    mpp: tuple[float, float] | None
    objective: float | None
    properties: dict[str, str]


def tiff_metadata(tiff: tifffile.TiffFile, scene: int = 0) -> TiffMetadata:
    """Return what an open TIFF states of itself, of its image ``scene``; errors are those in ``HEADER_ERRORS``."""
    vendor = "ome-tiff" if tiff.is_ome else "aperio" if tiff.is_svs else "hamamatsu" if tiff.is_ndpi else "tiff"
    found = re.search(r"AppMag\s*=\s*([0-9.]+)", tiff.pages.first.description) if tiff.is_svs else None
    return TiffMetadata(
        vendor=vendor,
        mpp=_tiff_mpp(tiff, scene),
        objective=float(found[1]) if found else None,
        properties=_scanner_properties(tiff),
    )


def _scanner_properties(tiff: tifffile.TiffFile) -> dict[str, str]:
    """Return what OpenSlide calls the properties that name the scanner, and nothing of the free text beside them."""
    page: Any = tiff.pages.first
    found = {}
    for name, tag in (("tiff.Make", 271), ("tiff.Model", 272)):
        value = page.tags.valueof(tag)
        if isinstance(value, str) and value.strip():
            found[name] = value
    if tiff.is_svs and (told := re.search(r"\|\s*ScanScope ID\s*=\s*([^|\r\n]+)", page.description)):
        found["aperio.ScanScope ID"] = told[1].strip()
    return found


def _tiff_mpp(tiff: tifffile.TiffFile, scene: int | None = None) -> tuple[float, float] | None:
    page: Any = tiff.pages.first
    if tiff.is_ome:
        return _ome_mpp(tiff.ome_metadata or "", scene)
    if tiff.is_svs:
        found = re.search(r"MPP\s*=\s*([0-9.]+)", page.description)
        return (float(found[1]), float(found[1])) if found else None
    return _resolution_mpp(tiff)


def check_tiff(path: SlidePath, tiff: tifffile.TiffFile) -> None:
    """Refuse an open TIFF as :func:`check_headers` does a file."""
    page: Any = tiff.pages.first
    if _NDPI_FLUORESCENCE_TAG in page.tags:
        channel = str(page.tags[_NDPI_FLUORESCENCE_TAG].value)[:60]
        raise NotBrightfieldError(
            f"{path}: a fluorescence scan (channel {channel!r}); the models need a brightfield colour image"
        )
    _check_samples(path, page.dtype, page.samplesperpixel, getattr(page.photometric, "name", str(page.photometric)))
    if page.dtype is not None and math.prod(page.chunks) * page.dtype.itemsize > MAX_TILE_BYTES and page.is_tiled:
        raise UnreadableSlideError(f"{path}: the header claims tiles of shape {page.chunks}, over 1 GiB each")
    if not page.is_tiled:
        _check_plain_size(path, page.imagewidth, page.imagelength)


def _check_samples(path: SlidePath, dtype: np.dtype | None, samples: int, photometric: str) -> None:
    if dtype is not None and dtype != np.uint8:
        raise NotBrightfieldError(f"{path}: {dtype} samples found; the models need 8-bit RGB")
    if samples < 3 or photometric in ("MINISBLACK", "MINISWHITE", "PALETTE"):
        raise NotBrightfieldError(
            f"{path}: {samples} sample(s) a pixel ({photometric.lower()}) found; the models need 8-bit RGB, "
            "not greyscale or fluorescence channels"
        )


def _check_plain_size(path: SlidePath, width: int, height: int) -> None:
    if width * height > MAX_PLAIN_IMAGE_PX:
        raise UnsupportedFormatError(
            f"{path}: {width} x {height} pixels without tiles; images without tiles may have "
            f"{MAX_PLAIN_IMAGE_PX:,} pixels. Convert it to a tiled pyramid (for example with vips tiffsave)"
        )


def _check_image(path: Path) -> None:
    try:
        with Image.open(path) as image:
            mode, size = image.mode, image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UnreadableSlideError(f"{path}: the image header cannot be read: {error}") from None
    _check_plain_size(path, *size)
    if mode not in ("RGB", "RGBA"):
        raise NotBrightfieldError(f"{path}: image mode {mode} found; the models need 8-bit RGB")


def _check_dicom(path: Path) -> None:
    import pydicom

    try:
        data = pydicom.dcmread(path, stop_before_pixels=True)
    except Exception as error:  # noqa: BLE001  # pydicom raises whatever a damaged element makes it
        raise UnreadableSlideError(f"{path}: the DICOM header cannot be read: {error}") from None
    if str(data.get("SOPClassUID", "")) != _WSI_SOP_CLASS:
        raise UnsupportedFormatError(
            f"{path}: DICOM {_dicom_class(path)} found; a slide is 'VL Whole Slide Microscopy Image Storage'"
        )
    bits, samples = int(data.get("BitsAllocated", 8)), int(data.get("SamplesPerPixel", 3))
    _check_samples(path, np.dtype(f"uint{bits}"), samples, str(data.get("PhotometricInterpretation", "RGB")))


def _dicom_class(path: Path) -> str:
    import pydicom

    try:
        data = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID"])
        return str(data.SOPClassUID.name)[:80]
    except Exception:  # noqa: BLE001
        return "with an unreadable header"


def _ome_mpp(text: str, scene: int | None) -> tuple[float, float] | None:
    """Return the physical size of a pixel of an image of OME's metadata; None is the largest."""
    try:
        root = ElementTree.fromstring(text.encode("utf-8"))
    except ElementTree.ParseError:
        return None
    images = [pixels for pixels in root.iter() if pixels.tag.endswith("}Pixels")]
    if not images:
        return None
    if scene is None or scene >= len(images):
        chosen = max(images, key=lambda pixels: int(pixels.get("SizeX", 0)) * int(pixels.get("SizeY", 0)))
    else:
        chosen = images[scene]
    x, y = _physical_size(chosen, "X"), _physical_size(chosen, "Y")
    return None if x is None and y is None else (x or y or 0.0, y or x or 0.0)


def _physical_size(pixels: ElementTree.Element, axis: str) -> float | None:
    unit = _UNIT_UM.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
    value = pixels.get(f"PhysicalSize{axis}")
    return None if unit is None or value is None else float(value) * unit


def _resolution_mpp(tiff: tifffile.TiffFile) -> tuple[float, float] | None:
    tags = tiff.pages.first.tags
    if "XResolution" not in tags or "YResolution" not in tags:
        return None
    per_unit = []
    for name in ("XResolution", "YResolution"):
        numerator, denominator = tags[name].value
        if not numerator or not denominator:
            return None
        per_unit.append(numerator / denominator)
    unit_um: float | None
    if tiff.is_imagej:
        unit = str((tiff.imagej_metadata or {}).get("unit", "")).replace("\\u00B5", "µ")
        unit_um = _UNIT_UM.get(unit)
    else:
        unit_um = {2: 25400.0, 3: 10000.0}.get(int(tags["ResolutionUnit"].value) if "ResolutionUnit" in tags else 2)
    if unit_um is None:
        return None
    mpp = (unit_um / per_unit[0], unit_um / per_unit[1])
    return mpp if all(PLAUSIBLE_MPP[0] <= value <= PLAUSIBLE_MPP[1] for value in mpp) else None
