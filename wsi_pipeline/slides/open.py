"""Open a slide: choose the backend, settle the microns per pixel, refuse what cannot be analysed."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np

from wsi_pipeline.config import SlidesConfig
from wsi_pipeline.errors import (
    ConfigError,
    ImplausibleMppError,
    MissingMppError,
    NotBrightfieldError,
    SlideNotFoundError,
    UnreadableSlideError,
    UnsupportedFormatError,
)
from wsi_pipeline.slides.backends.base import Backend
from wsi_pipeline.slides.backends.image_backend import ImageBackend
from wsi_pipeline.slides.backends.openslide_backend import OpenSlideBackend, detect_format
from wsi_pipeline.slides.backends.tiatoolbox_backend import TiaToolboxBackend
from wsi_pipeline.slides.backends.tiff_backend import TiffBackend, unsupported
from wsi_pipeline.slides.backends.zarr_backend import ZarrBackend
from wsi_pipeline.slides.fingerprint import slide_fingerprint
from wsi_pipeline.slides.formats import (
    PLAUSIBLE_MPP,
    check_headers,
    check_tiff_index,
    content_summary,
    is_dicom,
    is_jp2,
    is_plain_image,
    is_plain_jp2,
    is_tiff,
)
from wsi_pipeline.slides.lattice import ChunkReader, HandlePool, process_cache
from wsi_pipeline.slides.ngff import is_zarr
from wsi_pipeline.slides.open_remote import check_unchanged, open_remote
from wsi_pipeline.slides.paths import RemotePath, SlidePath, slide_path
from wsi_pipeline.slides.slide import Mpp, MppSource, Slide, SlideSpec, default_config
from wsi_pipeline.units import Box

_PROBES = 5
_PROBE_PX = 1024
_PROBE_STEP = 3
# TIFFs whose tiles hold the pixels as OpenSlide gives them. Others (Leica, Ventana, Philips, Trestle) overlap or
# rearrange tiles.
_FAST_FORMATS = frozenset(("aperio", "generic-tiff", "hamamatsu"))
# Brightfield: light passes somewhere. In fluorescence no pixel is light in all colours and most are dark.
_DARK_LIGHTEST = 40
_DARK_MEDIAN = 100


def open_slide(
    path: str | SlidePath,
    *,
    mpp: float | None = None,
    force_mpp: bool = False,
    manifest_mpp: float | None = None,
    config: SlidesConfig | None = None,
) -> Slide:
    """Open a slide for reading.

    Parameters
    ----------
    path
        The slide file (of DICOM, any file of the series), the folder of an OME-Zarr image, or the URL of a TIFF that
        the raw-tile backend reads: ``https://``, ``s3://``, or another that fsspec knows.
    mpp
        Microns per level-0 pixel for a slide that states none.
    force_mpp
        Let ``mpp`` win over the manifest and the slide.
    manifest_mpp
        Microns per pixel from the manifest; wins over the slide's own.
    config
        Backend, chunk size and cache.

    Returns
    -------
    An open :class:`Slide`; close it, or use it as a context manager.

    Raises
    ------
    SlideNotFoundError
        No such file, or it may not be read.
    SlideUnreachableError, SlideChangedError
        The storage behind a URL fails, or the object is another than before; while reading, too.
    UnsupportedFormatError
        No backend recognises the file.
    UnreadableSlideError, CorruptTileError
        Recognised, but damaged or incomplete.
    NotBrightfieldError
        Fluorescence, greyscale, or not 8-bit.
    MissingMppError, ImplausibleMppError
        No microns per pixel, or a value outside 0.05 to 5. Magnification is never turned into one.
    ConfigError
        ``force_mpp`` without ``mpp``, or a scene or focal plane that is not there.

    Examples
    --------
    >>> from wsi_pipeline import Box, make_virtual_slide
    >>> made = make_virtual_slide(Path("slide.tiff"), profile="normal", size_px=256, seed=7)
    >>> with open_slide(made.path) as slide:
    ...     print(slide)
    ...     pixels = slide.read(Box(x0=0, y0=0, x1=100, y1=50), mpp=0.5)
    Slide('slide.tiff', 256 x 256, 0.25 um/px, tiff)
    >>> pixels.shape
    (50, 100, 3)
    """
    return open_spec(
        SlideSpec(
            path=slide_path(path),
            mpp=mpp,
            force_mpp=force_mpp,
            manifest_mpp=manifest_mpp,
            config=config or default_config(),
        )
    )


def open_spec(spec: SlideSpec) -> Slide:
    """Open what ``spec`` describes; errors as of :func:`open_slide`."""
    path = spec.path
    if isinstance(path, RemotePath):
        remote = open_remote(path, spec)
        fingerprint, changed, backend, factory = remote.fingerprint, remote.version, remote.backend, remote.factory
    else:
        _check_file(path)
        if not path.is_dir():
            check_headers(path)
        fingerprint, changed = slide_fingerprint(path), str(path.stat().st_mtime_ns)
        check_unchanged(path, spec, fingerprint)
        backend, factory = _open_backend(path, spec.config)
    try:
        _check_plane(path, backend, spec.config)
        mpp = resolve_mpp(path, backend.mpp, spec)
    except (MissingMppError, ImplausibleMppError, ConfigError):
        backend.close()
        raise
    # Content on disk may change under one path; the modification time keeps old chunks from being served.
    key = f"{fingerprint}/{changed}/{backend.name}/{backend.plane}"
    side = spec.config.chunk_px
    reader = ChunkReader(
        pool=HandlePool(backend, factory),
        level_sizes=backend.level_sizes,
        chunk_sizes=backend.chunk_sizes or ((side, side),) * len(backend.level_sizes),
        key=key,
        cache=process_cache(spec.config.cache_mb),
        mask_corrupt=spec.config.on_corrupt == "mask",
    )
    slide = Slide(
        spec=spec,
        slide_format=backend.vendor,
        backend=backend.name,
        plane=backend.plane,
        mpp=mpp,
        bounds=backend.bounds,
        fingerprint=fingerprint,
        objective=backend.objective,
        properties=backend.properties,
        reader=reader,
    )
    if spec.fingerprint is None:
        try:
            _check_light(path, reader)
        except BaseException:
            slide.close()
            raise
    return slide


def _check_plane(path: SlidePath, backend: Backend, config: SlidesConfig) -> None:
    """Refuse a scene or plane asked of a backend that knows one of each; the others have checked it themselves.

    Raises
    ------
    ConfigError
        It would be left unread without a word.
    """
    if backend.name in ("tiff", "zarr"):
        return
    for name, asked in (("scene", config.scene), ("z_plane", config.z_plane)):
        if asked:
            raise ConfigError(
                f"{path}: slides.{name} is {asked}, and the {backend.name} backend, which reads this file, knows only "
                f"one (0); set it to null, or export that one as a tiled OME-TIFF"
            )


def resolve_mpp(path: SlidePath, own: tuple[float, float] | None, spec: SlideSpec) -> Mpp:
    """Settle the microns per pixel: forced, manifest, the slide's own, option; in this order.

    Raises
    ------
    MissingMppError, ImplausibleMppError
        As of :func:`open_slide`.
    ConfigError
        ``force_mpp`` without ``mpp``.
    """
    if spec.force_mpp and spec.mpp is None:
        raise ConfigError(f"{path}: --force-mpp needs --mpp, the microns per pixel to force")
    chosen: tuple[float, float]
    source: MppSource
    if spec.force_mpp and spec.mpp is not None:
        chosen, source = (spec.mpp, spec.mpp), "forced"
    elif spec.manifest_mpp is not None:
        chosen, source = (spec.manifest_mpp, spec.manifest_mpp), "manifest"
    elif own is not None:
        chosen, source = own, "slide"
    elif spec.mpp is not None:
        chosen, source = (spec.mpp, spec.mpp), "option"
    else:
        raise MissingMppError(
            f"{path}: the slide states no microns per pixel, and magnification is not one. "
            "Give it in the manifest's mpp column or with --mpp"
        )
    low, high = PLAUSIBLE_MPP
    if not all(math.isfinite(value) and low <= value <= high for value in chosen):
        raise ImplausibleMppError(
            f"{path}: {chosen[0]:.6g} x {chosen[1]:.6g} microns per pixel (source: {source}); "
            f"scanners give {low} to {high}. Give the true value in the manifest or with --mpp and --force-mpp"
        )
    return Mpp(x=chosen[0], y=chosen[1], source=source)


def _check_file(path: Path) -> None:
    try:
        status = path.stat()
    except OSError as error:
        link = "a symbolic link that leads to no file" if path.is_symlink() else "no such file"
        raise SlideNotFoundError(f"{path}: {link} ({error.strerror})") from None
    if not os.access(path, os.R_OK):
        raise SlideNotFoundError(f"{path}: this user may not read the file")
    if stat.S_ISDIR(status.st_mode):
        if not is_zarr(path):
            raise UnsupportedFormatError(f"{path}: a folder and no OME-Zarr image; name the slide file inside it")
        return
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for its writer
        raise UnsupportedFormatError(f"{path}: a pipe, socket or device; a slide is a file or an OME-Zarr folder")
    if status.st_size == 0:
        raise UnsupportedFormatError(f"{path}: an empty file (0 bytes) is no slide; copy it again from its source")


def _open_backend(path: Path, config: SlidesConfig) -> tuple[Backend, Callable[[], Backend]]:
    """Return the first handle and the factory of more."""
    requested = config.backend
    if path.is_dir():
        if requested != "auto":
            raise UnsupportedFormatError(
                f"{path}: OME-Zarr, which only the zarr backend reads; set slides.backend to auto"
            )
        first = ZarrBackend(path, scene=config.scene, z_plane=config.z_plane)
        return first, lambda: ZarrBackend(path, scene=config.scene, z_plane=config.z_plane)
    if requested == "tiatoolbox":
        return TiaToolboxBackend(path), lambda: TiaToolboxBackend(path)
    vendor = detect_format(path)
    if requested == "tiff" and not is_tiff(path):
        raise UnsupportedFormatError(f"{path}: {content_summary(path)}, not a TIFF; set slides.backend to auto")
    if vendor is not None:
        try:
            known = OpenSlideBackend(path)
        except UnreadableSlideError as error:
            return _second_choice(path, config, error)
        if requested == "tiff" or (requested == "auto" and vendor in _FAST_FORMATS):
            fast = _fast_path(path, config, known)
            if fast is not None:
                return fast
        return known, lambda: OpenSlideBackend(path)
    if requested == "openslide":
        raise UnsupportedFormatError(
            f"{path}: OpenSlide does not recognise it ({content_summary(path)}); set slides.backend to auto"
        )
    if requested == "auto" and (is_plain_image(path) or is_plain_jp2(path)):
        return ImageBackend(path), lambda: ImageBackend(path)
    if is_tiff(path):
        check_tiff_index(path)
        if (fast := _fast_path(path, config)) is not None:
            return fast
    if is_tiff(path) or is_dicom(path) or is_jp2(path):
        return TiaToolboxBackend(path), lambda: TiaToolboxBackend(path)
    raise UnsupportedFormatError(
        f"{path}: {content_summary(path)}, not a slide that OpenSlide or TIAToolbox can open; "
        "check that the copy is complete, or export the slide as SVS, OME-TIFF or DICOM"
    )


def _fast_path(
    path: Path, config: SlidesConfig, known: OpenSlideBackend | None = None
) -> tuple[Backend, Callable[[], Backend]] | None:
    """Return the raw-tile backend where it gives the pixels of ``known``, with the metadata of that; else None.

    Raises
    ------
    UnsupportedFormatError
        ``slides.backend`` is ``tiff`` and the file cannot be read so.
    """

    try:
        fast = TiffBackend(path, scene=config.scene, z_plane=config.z_plane)
        if fast.vendor == "ome-tiff" and known is not None:
            # OpenSlide takes it for a generic TIFF: it knows neither scenes and planes nor levels in sub-IFDs.
            fast.mpp = fast.mpp or known.mpp
            known.close()
            known = None
        # Of an NDPI OpenSlide makes further, coarser levels itself.
        if known is not None and fast.level_sizes != known.level_sizes[: len(fast.level_sizes)]:
            raise unsupported(path, f"its levels are {fast.level_sizes}, OpenSlide's {known.level_sizes}")
        if known is not None and fast.has_gaps:
            raise unsupported(path, "tiles are left out, which OpenSlide fills from other levels")
    except UnsupportedFormatError:
        if config.backend == "tiff":
            raise
        return None
    if known is not None:
        fast.adopt(known)
        known.close()
    return fast, lambda: TiffBackend(path, scene=config.scene, z_plane=config.z_plane)


def _second_choice(
    path: Path, config: SlidesConfig, first: UnreadableSlideError
) -> tuple[Backend, Callable[[], Backend]]:
    """Return who reads what OpenSlide recognises and cannot open: a codec that it lacks, and others have."""
    if config.backend == "openslide":
        raise first
    if is_dicom(path) and config.backend == "auto":
        try:
            return TiaToolboxBackend(path), lambda: TiaToolboxBackend(path)
        except (UnreadableSlideError, UnsupportedFormatError) as second:
            raise UnreadableSlideError(f"{first}; and {second}") from None
    if "Unsupported TIFF compression" in str(first) and (fast := _fast_path(path, config)) is not None:
        return fast
    raise first


def _check_light(path: SlidePath, reader: ChunkReader) -> None:
    """Decode a few chunks of the coarsest level and refuse an image through which no light passes.

    Raises
    ------
    CorruptTileError
        One of them cannot be decoded.
    NotBrightfieldError
        No pixel is light in all colours and the median pixel is dark: fluorescence, dark field, or blank.
    """
    level = len(reader.level_sizes) - 1
    width, height = reader.level_sizes[level]
    whole = Box(x0=0, y0=0, x1=width, y1=height)
    columns, rows = -(-width // _PROBE_PX), -(-height // _PROBE_PX)
    if columns * rows <= _PROBES:
        places = [(column, row) for row in range(rows) for column in range(columns)]
    else:
        near, far = (columns // 4, rows // 4), (3 * columns // 4, 3 * rows // 4)
        places = sorted({(columns // 2, rows // 2), near, far, (near[0], far[1]), (far[0], near[1])})
    lightest, medians = 0.0, []
    for column, row in places:
        x, y = column * _PROBE_PX, row * _PROBE_PX
        box = Box(x0=x, y0=y, x1=x + _PROBE_PX, y1=y + _PROBE_PX).clip(whole)
        for _, chunk in reader.chunks_over(level, box):
            pixels = chunk[::_PROBE_STEP, ::_PROBE_STEP].reshape(-1, 3)
            seen = pixels[pixels.any(axis=1)]  # pure black is what scanners leave unscanned
            if len(seen):
                lightest = max(lightest, float(np.percentile(seen.min(axis=1), 99)))
                medians.append(float(np.median(seen.max(axis=1))))
    if not medians or (lightest < _DARK_LIGHTEST and max(medians) < _DARK_MEDIAN):
        raise NotBrightfieldError(
            f"{path}: the image is dark (lightest pixels at {lightest:.0f} of 255): fluorescence, dark field or "
            "blank. The models need a brightfield colour image"
        )
