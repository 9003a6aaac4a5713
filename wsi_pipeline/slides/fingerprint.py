"""A slide's identity without reading all of it: size, first and last MiB, and the index of its parts."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import numpy as np
import tifffile

from wsi_pipeline.slides.formats import is_dicom, is_tiff

_MIB = 2**20
_MAX_TIFF_PAGES = 256


def slide_fingerprint(path: Path) -> str:
    """Return the SHA-256 (hex) that names a slide in identifiers, caches and resume.

    Of a TIFF the offsets and sizes of all tiles are included; of MRXS the ``Slidedat.ini`` and the sizes of the
    data files; of DICOM all files of the series in the folder, so that each part names the same slide.
    """
    digest = hashlib.sha256()
    if is_dicom(path):
        for uid, part in _dicom_series(path):
            digest.update(uid.encode())
            _add_ends(digest, part)
        return digest.hexdigest()
    _add_ends(digest, path)
    if is_tiff(path):
        _add_tile_index(digest, path)
    slidedat = path.with_suffix("") / "Slidedat.ini"
    if path.suffix.lower() == ".mrxs" and slidedat.is_file():
        digest.update(slidedat.read_bytes())
        for part in sorted(slidedat.parent.glob("*.dat")):
            digest.update(f"{part.name}:{part.stat().st_size}".encode())
    return digest.hexdigest()


def _add_ends(digest: hashlib._Hash, path: Path) -> None:
    size = path.stat().st_size
    digest.update(struct.pack("<Q", size))
    with path.open("rb") as file:
        digest.update(file.read(_MIB))
        if size > _MIB:
            file.seek(max(_MIB, size - _MIB))
            digest.update(file.read(_MIB))


def _add_tile_index(digest: hashlib._Hash, path: Path) -> None:
    try:
        with tifffile.TiffFile(path) as tiff:
            for page, _ in zip(tiff.pages, range(_MAX_TIFF_PAGES), strict=False):
                for values in (page.dataoffsets, page.databytecounts):
                    digest.update(np.asarray(values, dtype="<u8").tobytes())
    except (tifffile.TiffFileError, ValueError, OSError, KeyError, IndexError, TypeError, struct.error):
        return  # a damaged index: size and both ends still tell the file from others


def _dicom_series(path: Path) -> list[tuple[str, Path]]:
    """Return (SOP instance, file) of the series ``path`` belongs to; ``path`` wins over copies of itself."""
    import pydicom

    def identity(file: Path) -> tuple[str, str] | None:
        try:
            data = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=["SeriesInstanceUID", "SOPInstanceUID"])
            return str(data.SeriesInstanceUID), str(data.SOPInstanceUID)
        except Exception:  # noqa: BLE001  # a damaged neighbour is not part of the series
            return None

    own = identity(path)
    if own is None:
        return [("", path)]
    parts: dict[str, Path] = {}
    for file in sorted(path.parent.iterdir()):
        if not file.is_file() or file.stat().st_size < 132 or not is_dicom(file):
            continue
        found = identity(file)
        if found is not None and found[0] == own[0]:
            parts.setdefault(found[1], file)
    parts[own[1]] = path
    return sorted(parts.items())
