"""A slide's identity without reading all of it: size, first and last MiB, and the index of its parts."""

from __future__ import annotations

import hashlib
import struct
from contextlib import closing
from pathlib import Path

import numpy as np

from wsi_pipeline.errors import SlideError
from wsi_pipeline.slides.formats import HEADER_ERRORS, is_dicom, is_tiff, is_tiff_head
from wsi_pipeline.slides.paths import RemotePath, SlidePath
from wsi_pipeline.slides.remote import RemoteSource
from wsi_pipeline.slides.sources import ByteSource, LocalSource, open_tiff

_MIB = 2**20
_MAX_TIFF_PAGES = 256


def slide_fingerprint(path: SlidePath) -> str:
    """Return the SHA-256 (hex) that names a slide in identifiers, caches and resume.

    Of a TIFF the offsets and sizes of all tiles are included; of MRXS the ``Slidedat.ini`` and the sizes of the
    data files; of DICOM all files of the series in the folder, so that each part names the same slide. A slide
    behind a URL has the fingerprint of the same file on disk.
    """
    if isinstance(path, RemotePath):
        with closing(RemoteSource(path)) as source:
            return source_fingerprint(source)
    digest = hashlib.sha256()
    if is_dicom(path):
        for uid, part in _dicom_series(path):
            digest.update(uid.encode())
            with closing(LocalSource(part)) as source:
                _add_ends(digest, source)
        return digest.hexdigest()
    with closing(LocalSource(path)) as source:
        _add_ends(digest, source)
        if is_tiff(path):
            _add_tile_index(digest, source)
    slidedat = path.with_suffix("") / "Slidedat.ini"
    if path.suffix.lower() == ".mrxs" and slidedat.is_file():
        digest.update(slidedat.read_bytes())
        for part in sorted(slidedat.parent.glob("*.dat")):
            digest.update(f"{part.name}:{part.stat().st_size}".encode())
    return digest.hexdigest()


def source_fingerprint(source: ByteSource) -> str:
    """Return the fingerprint of a slide that is one file; errors are those of the source."""
    digest = hashlib.sha256()
    _add_ends(digest, source)
    if is_tiff_head(source.read(0, 4)):
        _add_tile_index(digest, source)
    return digest.hexdigest()


def _add_ends(digest: hashlib._Hash, source: ByteSource) -> None:
    size = source.size
    digest.update(struct.pack("<Q", size))
    digest.update(source.read(0, _MIB))
    if size > _MIB:
        start = max(_MIB, size - _MIB)
        digest.update(source.read(start, size - start))


def _add_tile_index(digest: hashlib._Hash, source: ByteSource) -> None:
    try:
        with open_tiff(source, "slide") as tiff:
            for page, _ in zip(tiff.pages, range(_MAX_TIFF_PAGES), strict=False):
                for values in (page.dataoffsets, page.databytecounts):
                    digest.update(np.asarray(values, dtype="<u8").tobytes())
    except SlideError:
        raise
    except HEADER_ERRORS:
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
