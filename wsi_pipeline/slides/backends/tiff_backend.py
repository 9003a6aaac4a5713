"""The raw-tile fast path: a TIFF's own tiles, decoded by their codec and by nothing else.

``tifffile`` tells where the tiles lie, ``imagecodecs`` decodes them: JPEG (tables in the header or not), JPEG 2000
(Aperio's too), LZW, deflate, ZSTD, WebP and uncompressed. It reads SVS, OME-TIFF and generic pyramids, and NDPI, whose
one large JPEG a level is cut at its restart markers. What OpenSlide recognises keeps OpenSlide's levels and metadata.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tifffile

from wsi_pipeline.errors import ConfigError, CorruptTileError, SlideError, UnsupportedFormatError
from wsi_pipeline.slides.backends.base import (
    Backend,
    RgbArray,
    check_level_sizes,
    chosen_of,
    composite_on_white,
    plane_note,
    short_reason,
)
from wsi_pipeline.slides.formats import HEADER_ERRORS, MAX_TILE_BYTES, tiff_metadata
from wsi_pipeline.slides.paths import RemotePath, SlidePath
from wsi_pipeline.slides.remote import RemoteSource
from wsi_pipeline.slides.sources import ByteSource, LocalSource, open_tiff
from wsi_pipeline.units import Box

# Smaller tiles are gathered into chunks of at least this side; larger ones are chunks of their own, decoded once and
# never copied into another before they are needed.
_LEAST_CHUNK_PX = 240
_APERIO_JP2K_YCBCR = 33003
_MAX_TIMES_TILE = 4
_CODECS = frozenset((1, 5, 7, 8, 32946, _APERIO_JP2K_YCBCR, 33005, 34712, 34933, 50000, 50001))
"""TIFF compression tags: none, LZW, JPEG, deflate (twice), JPEG 2000 (three times), WebP's old tag, ZSTD, WebP."""


class _Chosen(NamedTuple):
    """The pages of the plane that is read, finest first, and which plane that is where there are several."""

    pages: tuple[Any, ...]
    scene: int
    plane: str


class TiffBackend:
    """The tiles of one TIFF file; one instance serves all threads.

    Parameters
    ----------
    path
        The file, also for messages.
    source
        Where its bytes come from; by default the file itself, or the object behind the URL.
    scene, z_plane
        Which image and focal plane of a file with several, from 0; by default the largest and the middle one.

    Raises
    ------
    ConfigError
        The file has no such scene or plane.
    UnsupportedFormatError
        The TIFF is laid out or compressed in a way that the fast path does not read; another backend may.
    UnreadableSlideError
        Its header is not believable.
    """

    name = "tiff"
    thread_safe = True

    def __init__(
        self,
        path: SlidePath,
        source: ByteSource | None = None,
        *,
        scene: int | None = None,
        z_plane: int | None = None,
    ) -> None:
        self._path = path
        self._source = source or (RemoteSource(path) if isinstance(path, RemotePath) else LocalSource(path))
        try:
            self._open(scene, z_plane)
        except BaseException:
            self._source.close()
            raise

    def _open(self, scene: int | None, z_plane: int | None) -> None:
        path = self._path
        try:
            with open_tiff(self._source, path.name) as tiff:
                chosen = _level_pages(path, tiff, scene=scene, z_plane=z_plane)
                self._levels = tuple(_TiledPage(page, self._source) for page in chosen.pages)
                metadata = tiff_metadata(tiff, chosen.scene)
        except (SlideError, ConfigError):
            raise
        except HEADER_ERRORS as error:
            raise unsupported(path, f"its header cannot be parsed ({type(error).__name__})") from None
        self.vendor = metadata.vendor
        self.mpp = metadata.mpp
        self.objective = metadata.objective
        self.properties: Mapping[str, str] = metadata.properties
        self.plane = chosen.plane
        self.bounds: Box | None = None
        self.level_sizes = tuple(level.size for level in self._levels)
        check_level_sizes(path, self.level_sizes)
        self.chunk_sizes: tuple[tuple[int, int], ...] | None = tuple(level.chunk for level in self._levels)
        self._probe()

    def _probe(self) -> None:
        """Decode a tile of every level, so that a codec's surprise is met before the slide is taken."""
        for number, level in enumerate(self._levels):
            first = level.first_tile()
            if first is None:
                continue
            try:
                level.decode(first)
            except SlideError:
                raise
            except Exception as error:  # noqa: BLE001  # every codec fails in its own way
                raise unsupported(
                    self._path, f"a tile of level {number} does not decode: {short_reason(error)}"
                ) from None

    def read_chunk(self, level: int, chunk: Box) -> RgbArray:
        page = self._levels[level]
        tile_w, tile_h = page.tile
        if chunk.width <= tile_w and chunk.height <= tile_h and chunk.x0 % tile_w == chunk.y0 % tile_h == 0:
            pixels = self._tile(level, chunk.x0 // tile_w, chunk.y0 // tile_h)
            return pixels if pixels.shape[:2] == (chunk.height, chunk.width) else pixels[: chunk.height, : chunk.width]
        columns = range(chunk.x0 // tile_w, -(-chunk.x1 // tile_w))
        rows = range(chunk.y0 // tile_h, -(-chunk.y1 // tile_h))
        out = np.empty((chunk.height, chunk.width, 3), np.uint8)
        for row in rows:
            for column in columns:
                x, y = column * tile_w - chunk.x0, row * tile_h - chunk.y0
                target = out[y : y + tile_h, x : x + tile_w]
                target[:] = self._tile(level, column, row)[: target.shape[0], : target.shape[1]]
        return out

    def _tile(self, level: int, column: int, row: int) -> RgbArray:
        """Return a tile's pixels; those of the last column and row may reach beyond the level or end with it."""
        page = self._levels[level]
        try:
            return page.decode(row * page.columns + column)
        except SlideError:
            raise  # of the storage: the tile is not damaged
        except Exception as error:  # noqa: BLE001  # every codec fails in its own way
            tile_w, tile_h = page.tile
            raise CorruptTileError(
                f"{self._path}: level {level}, tile {column}, {row} (pixels x {column * tile_w}-{(column + 1) * tile_w}"
                f", y {row * tile_h}-{(row + 1) * tile_h}) cannot be decoded: {short_reason(error)}"
            ) from None

    @property
    def has_gaps(self) -> bool:
        """Tell whether the file leaves out tiles, which some formats fill from another level."""
        return any(level.has_gaps for level in self._levels)

    def adopt(self, other: Backend) -> None:
        """Take over another backend's metadata of the same file."""
        self.vendor, self.mpp, self.objective = other.vendor, other.mpp, other.objective
        self.properties, self.bounds = other.properties, other.bounds

    def close(self) -> None:
        self._source.close()


class _TiledPage:
    """One level: where its tiles are and how they decode. Holds no open file of tifffile's."""

    def __init__(self, page: Any, source: ByteSource) -> None:
        self.size = (int(page.imagewidth), int(page.imagelength))
        self.tile = (int(page.tilewidth), int(page.tilelength))
        self._whole = (self.tile[1], self.tile[0], 3)
        self.columns = -(-self.size[0] // self.tile[0])
        width, height = (side * math.ceil(_LEAST_CHUNK_PX / side) for side in self.tile)
        self.chunk = (width, height)
        self._source = source
        self._offsets = page.dataoffsets
        self._counts = page.databytecounts
        self._decode = page.decode
        tables = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}
        self._tables = {name: value for name, value in tables.items() if value is not None}
        self._ycbcr = int(page.compression) == _APERIO_JP2K_YCBCR

    def first_tile(self) -> int | None:
        return next((index for index, count in enumerate(self._counts) if count), None)

    @property
    def has_gaps(self) -> bool:
        return not all(self._counts)

    def decode(self, index: int) -> RgbArray:
        """Return the pixels of a tile, RGB; white where the file leaves the tile out, as scanners do with glass."""
        count = self._counts[index]
        if not count:
            return np.full((self.tile[1], self.tile[0], 3), 255, np.uint8)
        if count > MAX_TILE_BYTES:
            raise ValueError(f"it claims {count:,} bytes; a tile may have {MAX_TILE_BYTES:,}")
        data = self._source.read(self._offsets[index], count)
        if len(data) != count:
            raise ValueError(f"{len(data)} of {count} bytes are there; the file is cut off")
        declared = _declared_size(data)
        if declared is not None and declared[0] * declared[1] > _MAX_TIMES_TILE * self.tile[0] * self.tile[1]:
            raise ValueError(f"its codestream claims {declared[0]} x {declared[1]} pixels; the tile has {self.tile}")
        array = self._decode(data, index, **self._tables)[0]
        pixels = array.reshape(array.shape[-3:])
        if self._ycbcr:
            pixels = _ycbcr_to_rgb(pixels)
        if pixels.dtype != np.uint8 or pixels.shape[2] not in (3, 4):
            raise ValueError(f"{pixels.dtype} of shape {pixels.shape} found, 8-bit RGB needed")
        if pixels.shape == self._whole:
            return pixels
        row, column = divmod(index, self.columns)
        needed = (
            min(self.tile[0], self.size[0] - column * self.tile[0]),
            min(self.tile[1], self.size[1] - row * self.tile[1]),
        )
        if pixels.shape[1] < needed[0] or pixels.shape[0] < needed[1]:
            raise ValueError(f"{pixels.shape[1]} x {pixels.shape[0]} pixels found, {needed[0]} x {needed[1]} needed")
        return composite_on_white(pixels)


def _level_pages(path: SlidePath, tiff: tifffile.TiffFile, *, scene: int | None, z_plane: int | None) -> _Chosen:
    """Return the pages of one plane of one scene, finest first, each checked to be one that is read here."""
    if not (tiff.is_ome or tiff.is_ndpi):
        # As OpenSlide takes them: every tiled page is a level. Thumbnail, label and macro are not tiled, nor ever read.
        pages = [page.aspage() for page in tiff.pages]
        tiled = sorted((page for page in pages if page.is_tiled), key=lambda page: -page.imagewidth * page.imagelength)
        for name, asked in (("scene", scene), ("z_plane", z_plane)):
            chosen_of(path, name, asked, 1, otherwise=0)
        if not tiled:
            raise unsupported(path, "no page is tiled")
        return _Chosen(pages=_checked(path, tiled), scene=0, plane="")
    scenes = [series for series in tiff.series if tiff.is_ome or series is tiff.series[0]]
    firsts: list[Any] = [series.levels[0].pages[0] for series in scenes]
    areas = [page.imagewidth * page.imagelength for page in (first.aspage() for first in firsts)]
    number = chosen_of(path, "scene", scene, len(scenes), otherwise=areas.index(max(areas)))
    chosen = scenes[number]
    depth = _depth(path, chosen)
    plane = chosen_of(path, "z_plane", z_plane, depth, otherwise=depth // 2)
    levels: list[Any] = [level.pages[plane] for level in chosen.levels]
    if None in levels:
        raise unsupported(path, "a focal plane is missing")
    note = plane_note(scene=number, scenes=len(scenes), z=plane, depth=depth)
    return _Chosen(pages=_checked(path, [level.aspage() for level in levels]), scene=number, plane=note)


def _checked(path: SlidePath, pages: Sequence[Any]) -> tuple[Any, ...]:
    for page in pages:
        _check_page(path, page)
    return tuple(pages)


def _depth(path: SlidePath, series: Any) -> int:
    """Return the number of Z planes of a series that has no other axis than Z, Y, X and samples."""
    shape = dict(zip(series.get_axes(squeeze=False), series.get_shape(squeeze=False), strict=True))
    others = {axis: n for axis, n in shape.items() if axis not in "ZYXS" and n > 1}
    if others:
        raise unsupported(path, f"it has further axes ({', '.join(f'{axis}: {n}' for axis, n in others.items())})")
    return int(shape.get("Z", 1))


def _check_page(path: SlidePath, page: Any) -> None:
    if not page.is_tiled:
        raise unsupported(path, "a level is not tiled")
    if int(page.compression) not in _CODECS:
        raise unsupported(path, f"compression {page.compression!s} has no codec here")
    if page.dtype != np.uint8 or int(page.planarconfig) != 1 or page.samplesperpixel not in (3, 4):
        raise unsupported(path, "its samples are not interleaved 8-bit RGB")
    if page.tiledepth != 1 or len(page.dataoffsets) < math.ceil(page.imagewidth / page.tilewidth) * math.ceil(
        page.imagelength / page.tilelength
    ):
        raise unsupported(path, "its list of tiles is incomplete")


def _declared_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height that a JPEG or JPEG 2000 codestream states; codecs allocate by them.

    None is another codec, or the body of an NDPI's JPEG, whose header was made for the tile.
    """
    if data[:4] == b"\xff\x4f\xff\x51" and len(data) >= 24:
        x1, y1, x0, y0 = struct.unpack(">4I", data[8:24])
        return x1 - x0, y1 - y0
    if data[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a frame; the others are tables
            height, width = struct.unpack(">2H", data[at + 5 : at + 9])
            return width, height
        at += 1 if marker == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _ycbcr_to_rgb(pixels: RgbArray) -> RgbArray:
    """Return RGB of full-range BT.601 YCbCr, as Aperio's JPEG 2000 tiles hold it (ITU-T T.871)."""
    y, blue, red = (pixels[..., channel].astype(np.float32) for channel in range(3))
    blue, red = blue - 128, red - 128
    rgb = np.stack([y + 1.402 * red, y - 0.344136 * blue - 0.714136 * red, y + 1.772 * blue], axis=-1)
    return np.clip(np.rint(rgb), 0, 255).astype(np.uint8)


def unsupported(path: SlidePath, why: str) -> UnsupportedFormatError:
    """Return the error that says why the fast path leaves a file to other backends."""
    remedy = "download it and name the local file" if isinstance(path, RemotePath) else "set slides.backend to auto"
    return UnsupportedFormatError(f"{path}: the tiff backend does not read this file: {why}; {remedy}")
