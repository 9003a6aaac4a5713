"""A slide's identity without reading all of it: size, first and last MiB, and the index of its parts."""

from __future__ import annotations

import hashlib
import itertools
import os
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np

from wsi_pipeline.errors import SlideError, UnreadableSlideError
from wsi_pipeline.slides.formats import HEADER_ERRORS, is_dicom, is_tiff, is_tiff_head
from wsi_pipeline.slides.ngff import metadata_files, read_images, read_metadata, resolve_inside
from wsi_pipeline.slides.paths import RemotePath, SlidePath
from wsi_pipeline.slides.remote import RemoteSource
from wsi_pipeline.slides.sources import ByteSource, LocalSource, open_tiff

_MIB = 2**20
_MAX_TIFF_PAGES = 256
_MAX_CHUNK_FILES = 200_000
_SAMPLED_CHUNKS = 256
_SAMPLE_BYTES = 4096
_MAX_DEPTH = 8


def slide_fingerprint(path: SlidePath) -> str:
    """Return the SHA-256 (hex) that names a slide in identifiers, caches and resume.

    Of a TIFF the offsets and sizes of all tiles are included; of MRXS the ``Slidedat.ini`` and the sizes of the
    data files; of DICOM all files of the series in the folder, so that each part names the same slide. Of OME-Zarr
    the metadata files of the images in full, the names and sizes of their chunk files (the first 200,000 by name), and
    the first and last 4 KiB of 256 of these, evenly spaced; label images beside them do not count. A slide
    behind a URL has the fingerprint of the same file on disk.

    Raises
    ------
    UnsupportedFormatError, UnreadableSlideError
        A folder that is no OME-Zarr image, or one whose metadata is damaged.
    """
    if isinstance(path, RemotePath):
        with closing(RemoteSource(path)) as source:
            return source_fingerprint(source)
    digest = hashlib.sha256()
    if path.is_dir():
        _add_zarr(digest, path)
        return digest.hexdigest()
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


def _add_zarr(digest: hashlib._Hash, folder: Path) -> None:
    images = read_images(folder)
    for key in metadata_files(folder, images):
        content = read_metadata(folder, key) or b""
        digest.update(f"{key}:{len(content)}:".encode() + content)
    arrays = sorted({level.key for image in images for level in image.levels})
    files = ((key, size) for array in arrays for key, size in _files_below(folder, array))
    chunks = list(itertools.islice(files, _MAX_CHUNK_FILES))
    for key, size in chunks:
        digest.update(f"{key}:{size}\n".encode(errors="surrogateescape"))
    for key, size in chunks[:: max(1, -(-len(chunks) // _SAMPLED_CHUNKS))]:
        with open(resolve_inside(folder, key), "rb") as file:
            digest.update(file.read(_SAMPLE_BYTES))
            file.seek(max(0, size - _SAMPLE_BYTES))
            digest.update(file.read(_SAMPLE_BYTES))


def _files_below(folder: Path, key: str, depth: int = 0) -> Iterator[tuple[str, int]]:
    """Yield key and size of the files under a folder of the slide, ordered by name.

    Raises
    ------
    UnreadableSlideError
        Folders nested deeper than chunks are, or a symbolic link to a folder or out of the slide.
    """
    with os.scandir(resolve_inside(folder, key)) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        inner = f"{key}/{entry.name}"
        if entry.is_dir():
            if entry.is_symlink() or depth >= _MAX_DEPTH:
                raise UnreadableSlideError(f"{folder}: {inner} is a link to a folder, or nested too deeply for chunks")
            yield from _files_below(folder, inner, depth + 1)
        elif entry.is_file():
            resolve_inside(folder, inner)
            yield inner, entry.stat().st_size


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
