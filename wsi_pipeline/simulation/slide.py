"""Write a virtual slide: a tiled pyramid that any reader opens, and the table of what lies on it."""

from __future__ import annotations

import csv
import math
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, TextIO

import numpy as np
import numpy.typing as npt

from wsi_pipeline.atomic import atomic_path
from wsi_pipeline.config import Specimen
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.simulation.layout import SQUARE_UM, Layout, Placed
from wsi_pipeline.simulation.profile import Profile, load_profile
from wsi_pipeline.simulation.render import Stain, draw_stain, render
from wsi_pipeline.simulation.sprites import Sprite, load_sprites
from wsi_pipeline.units import Box

TRUTH_COLUMNS = ("class", "kind", "x_px0", "y_px0", "truncated", "outline", "source")
"""Columns of the truth table; ``outline`` is a WKT polygon in level-0 pixels."""

_DOWNSAMPLE = 4
_SMALLEST_LEVEL_PX = 1024
_MAX_SIDE_PX = 400_000
_BIGTIFF_ABOVE_PX = 3_000_000_000
_KEPT_ROWS = 5


@dataclass(frozen=True, kw_only=True)
class VirtualSlide:
    """A slide that was made.

    Attributes
    ----------
    path, truth
        The TIFF and the CSV beside it (columns ``TRUTH_COLUMNS``).
    counts
        Number of cells by class whose centre is on the slide.
    """

    path: Path
    truth: Path
    profile: str
    specimen: Specimen
    width: int
    height: int
    mpp: float
    seed: int
    counts: Mapping[str, int]


def make_virtual_slide(
    out: Path,
    *,
    profile: str | Path,
    size_px: int | tuple[int, int],
    seed: int,
    mpp: float = 0.25,
    tile_px: int = 512,
    jpeg_quality: int = 90,
) -> VirtualSlide:
    """Make a virtual slide of real cells, with its truth.

    Pixels and cells depend on profile, seed, size and ``mpp`` alone; a larger slide of the same seed holds the
    smaller one's cells. Memory grows with the width of the slide, not with its area.

    Parameters
    ----------
    out
        The TIFF to write; the truth goes to ``<stem>.truth.csv`` beside it.
    profile
        Name of a shipped profile or a YAML file.
    size_px
        Side, or (width, height), of level 0.
    seed
        Non-negative; another seed is another slide, with its own stain.
    mpp
        Micrometres per pixel of level 0. The cutouts were made at 0.25: finer slides hold no finer detail.
    tile_px
        Side of the TIFF's tiles, 256 or 512.
    jpeg_quality
        50 to 100.

    Raises
    ------
    ConfigError
        A parameter is out of range or the profile cannot be used.
    DataError
        The shipped cutouts are damaged.
    """
    width, height = (size_px, size_px) if isinstance(size_px, int) else size_px
    _check(width, height, seed=seed, mpp=mpp, tile_px=tile_px, jpeg_quality=jpeg_quality)
    chosen = load_profile(profile)
    writer = _SlideWriter(chosen, width, height, seed=seed, mpp=mpp, tile_px=tile_px, jpeg_quality=jpeg_quality)
    truth = out.with_name(f"{out.stem}.truth.csv")
    with (
        atomic_path(truth) as truth_part,
        atomic_path(out) as slide_part,
        truth_part.open("w", encoding="utf-8", newline="") as table,
    ):
        writer.write(slide_part, table)
    return VirtualSlide(
        path=out,
        truth=truth,
        profile=chosen.name,
        specimen=chosen.specimen,
        width=width,
        height=height,
        mpp=mpp,
        seed=seed,
        counts=dict(sorted(writer.counts.items())),
    )


def _check(width: int, height: int, *, seed: int, mpp: float, tile_px: int, jpeg_quality: int) -> None:
    if not (256 <= width <= _MAX_SIDE_PX and 256 <= height <= _MAX_SIDE_PX):
        raise ConfigError(f"size {width} x {height}: each side must be 256 to {_MAX_SIDE_PX} pixels")
    if seed < 0:
        raise ConfigError(f"seed {seed}: must not be negative")
    if not 0.1 <= mpp <= 1.0:
        raise ConfigError(f"mpp {mpp}: virtual slides are made at 0.1 to 1.0 um per pixel")
    if tile_px not in (256, 512):
        raise ConfigError(f"tile_px {tile_px}: use 256 or 512")
    if not 50 <= jpeg_quality <= 100:
        raise ConfigError(f"jpeg_quality {jpeg_quality}: use 50 to 100")


class _SlideWriter:
    """Streams tiles of level 0 into the file, smaller levels through scratch files, truth as it passes."""

    def __init__(
        self, profile: Profile, width: int, height: int, *, seed: int, mpp: float, tile_px: int, jpeg_quality: int
    ) -> None:
        self._profile = profile
        self._width, self._height = width, height
        self._seed, self._mpp = seed, mpp
        self._tile, self._quality = tile_px, jpeg_quality
        self._layout = Layout(profile, load_sprites(), seed)
        self._stain: Stain = draw_stain(seed, profile.background)
        self.counts: Counter[str] = Counter()

    def write(self, path: Path, table: TextIO) -> None:
        from tifffile import TiffWriter

        truth = csv.writer(table, lineterminator="\n")
        truth.writerow(TRUTH_COLUMNS)
        sizes = _level_sizes(self._width, self._height)
        big = self._width * self._height > _BIGTIFF_ABOVE_PX
        with (
            tempfile.TemporaryDirectory(dir=path.parent, prefix=".levels-") as scratch,
            TiffWriter(path, bigtiff=big) as tif,
        ):
            source: BinaryIO | None = None
            for level, (width, height) in enumerate(sizes):
                below = (Path(scratch) / f"{level + 1}.rgb").open("wb+") if level + 1 < len(sizes) else None
                tiles = (
                    self._level0_tiles(truth) if source is None else _stored_tiles(source, width, height, self._tile)
                )
                resolution = 1e4 / (self._mpp * _DOWNSAMPLE**level)
                tif.write(
                    _reduced(tiles, below, width, height, self._tile),
                    shape=(height, width, 3),
                    dtype=np.uint8,
                    tile=(self._tile, self._tile),
                    photometric="rgb",
                    compression="jpeg",
                    compressionargs={"level": self._quality},
                    resolution=(resolution, resolution),
                    resolutionunit="CENTIMETER",
                    subfiletype=int(level > 0),
                    software="wsi_pipeline.simulation",
                    description=self._description() if level == 0 else None,
                    metadata=None,
                    maxworkers=1,
                )
                if source is not None:
                    source.close()
                source = below

    def _description(self) -> str:
        return f"virtual slide (simulated from real cells); profile {self._profile.name}; seed {self._seed}"

    def _level0_tiles(self, truth: _Rows) -> Iterator[npt.NDArray[np.uint8]]:
        next_row = -1
        for y in range(0, self._height, self._tile):
            last_row = math.floor(min(y + self._tile, self._height) * self._mpp / SQUARE_UM)
            for row in range(next_row, last_row + 1):
                self._write_truth(truth, row)
            next_row = last_row + 1
            for x in range(0, self._width, self._tile):
                box = Box(x0=x, y0=y, x1=x + self._tile, y1=y + self._tile)
                yield render(
                    self._layout,
                    box,
                    seed=self._seed,
                    mpp=self._mpp,
                    background=self._profile.background,
                    stain=self._stain,
                )
            self._layout.forget_above(last_row - _KEPT_ROWS)

    def _write_truth(self, truth: _Rows, row: int) -> None:
        for column in range(-1, math.ceil(self._width * self._mpp / SQUARE_UM) + 1):
            for thing in self._layout.square(column, row):
                if thing.sprite is None:
                    continue
                x, y = thing.position_px(self._mpp)
                if 0 <= x < self._width and 0 <= y < self._height:
                    self.counts[thing.sprite.class_name] += 1
                    truth.writerow(_truth_row(thing, thing.sprite, (self._width, self._height), self._mpp))


class _Rows(Protocol):
    """What a csv writer offers; the standard library does not export its type."""

    def writerow(self, row: Iterable[str], /) -> object: ...


def _truth_row(thing: Placed, sprite: Sprite, size: tuple[int, int], mpp: float) -> tuple[str, ...]:
    x, y = thing.position_px(mpp)
    ring = thing.outline_px(mpp)
    truncated = bool((ring < 0).any() or (ring > size).any())
    points = [f"{px:.2f} {py:.2f}" for px, py in [*ring, ring[0]]]
    wkt = f"POLYGON (({', '.join(points)}))"
    return sprite.class_name, sprite.kind, f"{x:.2f}", f"{y:.2f}", str(truncated).lower(), wkt, sprite.source


def _level_sizes(width: int, height: int) -> list[tuple[int, int]]:
    sizes = [(width, height)]
    while max(sizes[-1]) > _SMALLEST_LEVEL_PX:
        sizes.append((-(-sizes[-1][0] // _DOWNSAMPLE), -(-sizes[-1][1] // _DOWNSAMPLE)))
    return sizes


def _reduced(
    tiles: Iterator[npt.NDArray[np.uint8]], below: BinaryIO | None, width: int, height: int, tile: int
) -> Iterator[npt.NDArray[np.uint8]]:
    """Pass tiles on and append their box means, a row of tiles at a time, to the scratch file of the next level."""
    across = -(-width // tile)
    small = tile // _DOWNSAMPLE
    small_width = -(-width // _DOWNSAMPLE)
    strip = np.empty((small, across * small, 3), dtype=np.uint8)
    for number, pixels in enumerate(tiles):
        if below is not None:
            row, column = divmod(number, across)
            blocks = pixels.reshape(small, _DOWNSAMPLE, small, _DOWNSAMPLE, 3).astype(np.float32)
            strip[:, column * small : (column + 1) * small] = np.rint(blocks.mean(axis=(1, 3)))
            if column == across - 1:
                rows = min(small, -(-(height - row * tile) // _DOWNSAMPLE))
                below.write(np.ascontiguousarray(strip[:rows, :small_width]).data)
        # Last, since the writer does not come back after the tile it knows to be the last.
        yield pixels


def _stored_tiles(source: BinaryIO, width: int, height: int, tile: int) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield the tiles of a level from its scratch file of raw rows; what is beyond the edge repeats it."""
    source.seek(0)
    for y in range(0, height, tile):
        rows = min(tile, height - y)
        data = np.frombuffer(source.read(rows * width * 3), dtype=np.uint8).reshape(rows, width, 3)
        padded = np.pad(data, ((0, tile - rows), (0, -width % tile), (0, 0)), mode="edge")
        for x in range(0, width, tile):
            yield np.ascontiguousarray(padded[:, x : x + tile])
