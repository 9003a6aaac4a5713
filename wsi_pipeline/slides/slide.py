"""A slide: sizes, microns per pixel, and pixels at any physical resolution."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal

from wsi_pipeline.config import SlidesConfig
from wsi_pipeline.slides.backends.base import RgbArray
from wsi_pipeline.slides.lattice import ChunkReader
from wsi_pipeline.slides.paths import SlidePath
from wsi_pipeline.slides.resample import render
from wsi_pipeline.slides.scanner import scanner_name
from wsi_pipeline.units import Box, FrameTransform

MppSource = Literal["manifest", "slide", "option", "forced"]

_LEVEL_TOLERANCE = 0.01
_MAX_READ_PX = 2**28


def default_config() -> SlidesConfig:
    """Return the shipped settings for reading slides."""
    return SlidesConfig.model_validate({})


@dataclass(frozen=True, kw_only=True)
class Mpp:
    """Microns per level-0 pixel, and who said so."""

    x: float
    y: float
    source: MppSource


@dataclass(frozen=True, kw_only=True)
class Level:
    """One native resolution: its size in pixels and level-0 pixels per pixel (mean of both axes)."""

    width: int
    height: int
    downsample: float


@dataclass(frozen=True, kw_only=True)
class SlideSpec:
    """How to open a slide again elsewhere; small and picklable.

    ``fingerprint`` is set by :attr:`Slide.spec`: the file must still be the same, and the checks of its pixels that
    the first opening did are not repeated.
    """

    path: SlidePath
    mpp: float | None = None
    force_mpp: bool = False
    manifest_mpp: float | None = None
    config: SlidesConfig = field(default_factory=default_config)
    fingerprint: str | None = None

    def open(self) -> Slide:
        """Open the slide in this process; see :func:`wsi_pipeline.slides.open_slide` for the errors."""
        from wsi_pipeline.slides.open import open_spec

        return open_spec(self)


class Slide:
    """An open slide, safe to read from several threads. Made by :func:`wsi_pipeline.slides.open_slide`.

    Attributes
    ----------
    path
        The file or URL.
    slide_format
        The vendor or format, as the backend names it.
    backend_requested, backend
        ``slides.backend`` of the configuration, and the backend that reads the slide.
    plane
        Which scene and focal plane is read, where the file has several; else empty.
    dimensions
        Width and height of level 0, pixels.
    levels
        Native resolutions, finest first.
    mpp
        Microns per level-0 pixel and their source.
    bounds
        The scanned part in level-0 pixels (``openslide.bounds-*``), or the whole slide.
    fingerprint
        SHA-256 (hex), see :func:`wsi_pipeline.slides.fingerprint.slide_fingerprint`.
    objective, properties
        Technical metadata for display only. Magnification is never used for computing.
    """

    def __init__(
        self,
        *,
        spec: SlideSpec,
        slide_format: str,
        backend: str,
        plane: str,
        mpp: Mpp,
        bounds: Box | None,
        fingerprint: str,
        objective: float | None,
        properties: Mapping[str, str],
        reader: ChunkReader,
    ) -> None:
        width, height = reader.level_sizes[0]
        self.path = spec.path
        self.slide_format = slide_format
        self.backend_requested: str = spec.config.backend
        self.backend = backend
        self.plane = plane
        self.dimensions = (width, height)
        self.levels = tuple(
            Level(width=w, height=h, downsample=(width / w + height / h) / 2) for w, h in reader.level_sizes
        )
        self.mpp = mpp
        self.bounds = bounds or Box(x0=0, y0=0, x1=width, y1=height)
        self.fingerprint = fingerprint
        self.objective = objective
        self.properties = dict(properties)
        self.spec = SlideSpec(
            path=spec.path,
            mpp=spec.mpp,
            force_mpp=spec.force_mpp,
            manifest_mpp=spec.manifest_mpp,
            config=spec.config,
            fingerprint=fingerprint,
        )
        self._reader = reader

    @property
    def scanner(self) -> str:
        """Return maker and model of the scanner, as far as the file says."""
        return scanner_name(self.slide_format, self.properties)

    def frame(self, mpp: float) -> FrameTransform:
        """Return the working frame at ``mpp`` microns per pixel, anchored at the level-0 origin."""
        if not (math.isfinite(mpp) and mpp > 0):
            raise ValueError(f"mpp is {mpp}; it must be a positive number of microns per pixel")
        return FrameTransform(scale_x=mpp / self.mpp.x, scale_y=mpp / self.mpp.y)

    def size_at(self, mpp: float) -> tuple[int, int]:
        """Return width and height of the slide in working pixels at ``mpp``, the last pixel possibly partial."""
        frame = self.frame(mpp)
        # The slack keeps 1000.0000000001 from becoming 1001.
        return (
            max(1, math.ceil(self.dimensions[0] / frame.scale_x - 1e-6)),
            max(1, math.ceil(self.dimensions[1] / frame.scale_y - 1e-6)),
        )

    def level_for(self, mpp: float) -> int:
        """Return the native level that is read for ``mpp``: the coarsest that is not coarser (1 % tolerance)."""
        frame = self.frame(mpp)
        limit = min(frame.scale_x, frame.scale_y) * (1 + _LEVEL_TOLERANCE)
        fitting = [i for i, level in enumerate(self.levels) if level.downsample <= limit]
        return max(fitting, key=lambda i: self.levels[i].downsample, default=0)

    def read(self, box: Box, mpp: float, *, overlap: int = 0) -> RgbArray:
        """Read working pixels.

        Parameters
        ----------
        box
            Working pixels at ``mpp``; may reach outside the slide.
        mpp
            Microns per pixel of the result.
        overlap
            How far other boxes, read later, will reach into this one, working pixels. What lies there stays decoded;
            the rest makes room. It changes the speed only.

        Returns
        -------
        uint8 RGB of shape (box.height, box.width, 3). Transparent parts are composed over white and what is outside
        the slide is white (255). A pixel's value depends on its place only, never on the box.

        Raises
        ------
        CorruptTileError
            Pixels under the box cannot be decoded; the message names slide, level and place. With
            ``slides.on_corrupt: mask`` they are white instead and listed by :meth:`masked`.
        ValueError
            The box has more than 2**28 pixels.
        """
        frame = self.frame(mpp)
        if box.is_empty:
            box = Box(x0=box.x0, y0=box.y0, x1=max(box.x0, box.x1), y1=max(box.y0, box.y1))
        if box.width * box.height > _MAX_READ_PX:
            raise ValueError(f"{box.width} x {box.height} pixels asked at once; the limit is {_MAX_READ_PX:,}")
        level = self.level_for(mpp)
        native = self.levels[level]
        # Levels span the same area, so each axis has its own ratio (checked on a real Aperio pyramid: a 2x level of
        # 2221 pixels over 4443 is scaled by 2.0005, not by 2).
        return render(
            self._reader,
            level=level,
            box=box,
            ratio_x=frame.scale_x * native.width / self.dimensions[0],
            ratio_y=frame.scale_y * native.height / self.dimensions[1],
            overlap=overlap,
        )

    def masked(self, within: Box | None = None, mpp: float | None = None) -> tuple[Box, ...]:
        """Return the places (level-0 pixels, rounded outwards) that could not be decoded in what was read so far.

        Parameters
        ----------
        within
            Level-0 pixels; only places that meet it are returned.
        mpp
            Only places of the level that is read for it; whatever else was read before changes the answer no more.
        """
        found = set()
        asked = None if mpp is None else self.level_for(mpp)
        for level, place in tuple(self._reader.corrupt):
            if asked is not None and level != asked:
                continue
            native = self.levels[level]
            x, y = self.dimensions[0] / native.width, self.dimensions[1] / native.height
            box = Box(
                x0=math.floor(place.x0 * x), y0=math.floor(place.y0 * y),
                x1=math.ceil(place.x1 * x), y1=math.ceil(place.y1 * y),
            )  # fmt: skip
            if within is None or not box.clip(within).is_empty:
                found.add(box)
        return tuple(sorted(found, key=lambda box: (box.y0, box.x0, box.y1, box.x1)))

    def forget_masked(self) -> None:
        """Let :meth:`masked` begin anew, with what is read from here on."""
        self._reader.corrupt.clear()

    def close(self) -> None:
        """Close the file handles; reading afterwards raises :class:`SlideError`."""
        self._reader.close()

    def __enter__(self) -> Slide:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        width, height = self.dimensions
        return f"Slide({self.path.name!r}, {width} x {height}, {self.mpp.x:.4g} um/px, {self.backend})"
