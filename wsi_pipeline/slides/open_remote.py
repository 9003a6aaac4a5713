"""Open a slide behind a URL: the checks of a file on disk, without OpenSlide to ask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import tifffile

from wsi_pipeline.errors import SlideError, UnreadableSlideError, UnsupportedFormatError
from wsi_pipeline.slides.backends.base import Backend
from wsi_pipeline.slides.backends.tiff_backend import TiffBackend, unsupported
from wsi_pipeline.slides.fingerprint import source_fingerprint
from wsi_pipeline.slides.formats import HEADER_ERRORS, check_tiff, head_summary, is_tiff_head
from wsi_pipeline.slides.paths import RemotePath, SlidePath
from wsi_pipeline.slides.remote import RemoteSource
from wsi_pipeline.slides.slide import SlideSpec
from wsi_pipeline.slides.sources import ByteSource, open_tiff

_LEVEL_SIDE_TOLERANCE = 0.02


@dataclass(frozen=True, kw_only=True)
class OpenedRemote:
    """A slide behind a URL, as :func:`wsi_pipeline.slides.open.open_spec` needs it."""

    fingerprint: str
    version: str
    backend: Backend
    factory: Callable[[], Backend]


def open_remote(path: RemotePath, spec: SlideSpec) -> OpenedRemote:
    """Open the object behind ``path`` with the raw-tile backend.

    Raises
    ------
    UnsupportedFormatError
        Not a TIFF, one that needs OpenSlide or TIAToolbox, or one of those was asked for.
    SlideError
        As of :func:`wsi_pipeline.slides.open_slide`.
    """
    config = spec.config
    if config.backend in ("openslide", "tiatoolbox"):
        raise UnsupportedFormatError(
            f"{path}: slides.backend is {config.backend}, which reads files on disk only; set it to auto, or download "
            "the slide and name the local file"
        )
    source = RemoteSource(path)
    try:
        start = source.read(0, 256)
        if not is_tiff_head(start):
            raise UnsupportedFormatError(
                f"{path}: {head_summary(start)} found; over a URL only tiled TIFFs are read (SVS, NDPI, OME-TIFF, "
                "generic pyramids). Download it and name the local file"
            )
        _check_headers(path, source)
        fingerprint = source_fingerprint(source)
        check_unchanged(path, spec, fingerprint)
        backend = TiffBackend(path, source, scene=config.scene, z_plane=config.z_plane)
        if backend.vendor != "ome-tiff":
            _check_pyramid(path, backend)
    except BaseException:
        source.close()
        raise
    return OpenedRemote(
        fingerprint=fingerprint,
        version="/".join(map(str, source.version)),
        backend=backend,
        factory=lambda: TiffBackend(path, scene=config.scene, z_plane=config.z_plane),
    )


def check_unchanged(path: SlidePath, spec: SlideSpec, fingerprint: str) -> None:
    """Refuse a slide that is not the one ``spec`` was made of."""
    if spec.fingerprint is not None and spec.fingerprint != fingerprint:
        raise UnreadableSlideError(f"{path}: the file has changed since it was first opened; start the run again")


def _check_headers(path: RemotePath, source: ByteSource) -> None:
    try:
        with open_tiff(source, path.name) as tiff:
            vendor = _rearranged(tiff)
            if vendor is not None:
                raise unsupported(path, f"{vendor} slides overlap or rearrange tiles, which only OpenSlide undoes")
            check_tiff(path, tiff)
    except SlideError:
        raise
    except HEADER_ERRORS as error:
        raise unsupported(path, f"its header cannot be parsed ({type(error).__name__})") from None


def _rearranged(tiff: tifffile.TiffFile) -> str | None:
    """Return the maker of a TIFF whose tiles are not the picture, told as OpenSlide tells it; else None."""
    software = tiff.pages.first.tags.get("Software")
    written_by = str(software.value) if software is not None else ""
    if tiff.is_scn:
        return "Leica"
    if tiff.is_bif:
        return "Ventana"
    if tiff.is_philips or written_by.startswith("Philips"):
        return "Philips"
    return "Trestle" if written_by.startswith("MedScan") else None


def _check_pyramid(path: RemotePath, backend: TiffBackend) -> None:
    """Refuse what OpenSlide might read otherwise: tiles left out, or tiled pages that are no smaller picture."""
    if backend.has_gaps:
        raise unsupported(path, "tiles are left out, which OpenSlide fills from other levels")
    width, height = backend.level_sizes[0]
    for (wider, _), (w, h) in zip(backend.level_sizes, backend.level_sizes[1:], strict=False):
        expected = height * w / width
        if w >= wider or abs(h - expected) > max(2, _LEVEL_SIDE_TOLERANCE * expected):
            raise unsupported(path, f"its tiled pages are no pyramid: {backend.level_sizes}")
