"""Write a virtual slide: a tiled pyramid that any reader opens, and the table of what lies on it."""

from __future__ import annotations

import csv
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, TextIO

import cv2
import numpy as np
import numpy.typing as npt

from wsi_pipeline.atomic import atomic_path, write_json
from wsi_pipeline.config import Specimen
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.simulation.profile import Profile, load_profile
from wsi_pipeline.simulation.render import check_variation
from wsi_pipeline.simulation.scene import Scene, draw_tiles, scene_core

TRUTH_COLUMNS = ("class", "kind", "x_px0", "y_px0", "truncated", "outline", "source", "variant", "nucleus")
"""Columns of the truth table; ``outline`` is a WKT polygon in level-0 pixels, ``nucleus`` that of a drawn
megakaryocyte's nucleus, of several parts perhaps, and empty for other cells."""

VIRTUAL = "virtual slide (simulated from real cells)"
"""How the description of a virtual slide's TIFF begins."""

_DOWNSAMPLE = 4
_SMALLEST_LEVEL_PX = 1024
_MAX_SIDE_PX = 400_000
_BIGTIFF_ABOVE_PX = 3_000_000_000


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
    profile: Profile | str | Path,
    size_px: int | tuple[int, int],
    seed: int,
    mpp: float = 0.25,
    tile_px: int = 512,
    jpeg_quality: int = 90,
    film: bool = False,
    stain_variation: float = 1.0,
    blur_variation: float = 1.0,
    workers: int = 1,
) -> VirtualSlide:
    """Make a virtual slide of real cells, with its truth.

    Pixels and cells depend on these parameters alone, but not on ``workers``; without a film or a core a larger slide
    of the same seed holds the smaller one's cells. Memory grows with the width of the slide, not with its area; the
    plan of a core takes some 4 bytes a square micrometre.

    Parameters
    ----------
    out
        The TIFF to write; the truth goes to ``<stem>.truth.csv`` beside it, and that of a core's areas to
        ``<stem>.truth.json``.
    profile
        A profile, the name of a shipped one, or a YAML file.
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
    film
        Lay the cells out as the film of a smear (:mod:`wsi_pipeline.simulation.film`) instead of one layer
        everywhere. Sections have none.
    stain_variation, blur_variation
        How much slides of different seeds differ in stain, and how much they are out of focus: 0 not at all, 1 as
        usual, at most 2.
    workers
        Processes that draw, each a band of the slide.

    Raises
    ------
    ConfigError
        A parameter is out of range or the profile cannot be used.
    DataError
        The shipped cutouts are damaged.
    """
    width, height = (size_px, size_px) if isinstance(size_px, int) else size_px
    _check(width, height, seed=seed, mpp=mpp, tile_px=tile_px, jpeg_quality=jpeg_quality)
    check_variation(stain_variation, blur_variation)
    if not 1 <= workers <= 256:
        raise ConfigError(f"workers {workers}: use 1 to 256")
    chosen = profile if isinstance(profile, Profile) else load_profile(profile)
    if film and chosen.background == "tissue":
        raise ConfigError(f"profile {chosen.name} is of a section, which has no film")
    scene = Scene(
        profile=chosen, width=width, height=height, seed=seed, mpp=mpp, tile_px=tile_px, film=film,
        stain_variation=stain_variation, blur_variation=blur_variation,
    )  # fmt: skip
    writer = _SlideWriter(scene, jpeg_quality=jpeg_quality, workers=workers)
    truth = out.with_name(f"{out.stem}.truth.csv")
    core = scene_core(scene)
    if core is not None:
        write_json(out.with_name(f"{out.stem}.truth.json"), core.truth(mpp))
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

    def __init__(self, scene: Scene, *, jpeg_quality: int, workers: int) -> None:
        self._scene = scene
        self._quality, self._workers = jpeg_quality, workers
        self.counts: Counter[str] = Counter()

    def write(self, path: Path, table: TextIO) -> None:
        from tifffile import TiffWriter

        scene = self._scene
        truth = csv.writer(table, lineterminator="\n")
        truth.writerow(TRUTH_COLUMNS)
        sizes = _level_sizes(scene.width, scene.height)
        big = scene.width * scene.height > _BIGTIFF_ABOVE_PX
        with (
            tempfile.TemporaryDirectory(dir=path.parent, prefix=".levels-") as scratch,
            TiffWriter(path, bigtiff=big) as tif,
        ):
            source: BinaryIO | None = None
            for level, (width, height) in enumerate(sizes):
                below = (Path(scratch) / f"{level + 1}.rgb").open("wb+") if level + 1 < len(sizes) else None
                tiles = (
                    self._level0_tiles(truth) if source is None else _stored_tiles(source, width, height, scene.tile_px)
                )
                resolution = 1e4 / (scene.mpp * _DOWNSAMPLE**level)
                tif.write(
                    _reduced(tiles, below, width, height, scene.tile_px),
                    shape=(height, width, 3),
                    dtype=np.uint8,
                    tile=(scene.tile_px, scene.tile_px),
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
        scene = self._scene
        return f"{VIRTUAL}; profile {scene.profile.name}; seed {scene.seed}"

    def _level0_tiles(self, truth: _Rows) -> Iterator[npt.NDArray[np.uint8]]:
        for tile in draw_tiles(self._scene, self._workers):
            for row in tile.truth:
                self.counts[row[0]] += 1
                truth.writerow(row)
            yield tile.pixels


class _Rows(Protocol):
    """What a csv writer offers; the standard library does not export its type."""

    def writerow(self, row: Iterable[str], /) -> object: ...


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
            part = cv2.resize(pixels, (small, small), interpolation=cv2.INTER_AREA)
            strip[:, column * small : (column + 1) * small] = part
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
